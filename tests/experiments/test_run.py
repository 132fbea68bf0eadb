"""What images count with, and a loss that is not finite."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import CONFIG, command_line, rows

import puppet_jax as pj
from experiments import run
from experiments.config import Options
from experiments.errors import RunError
from experiments.model_file import load_model


@pytest.fixture(scope="module")
def graded():
    """From one grey value to all, so that the complexities reach from 0 to about 5; and these."""
    rng = np.random.default_rng(0)
    tops = (1, 4, 8, 30, 60, 120, 180, 256)
    images = np.stack([rng.integers(0, top, (16, 16, 1)) for top in tops]).astype(np.uint8)
    return images, np.asarray(pj.complexities(images))


class TestComplexities:
    """What images count with, and the measure that stays for images to come."""

    def measure(self, images, **changes):
        h, measure = run.measure_complexities(dataclasses.replace(CONFIG, spread=None, **changes), images)
        assert (h.dtype, h.shape) == (np.float32, (len(images),))
        return h, measure

    def test_both(self, graded):
        images, own = graded
        h, measure = self.measure(images)
        np.testing.assert_array_equal(h, own)
        assert measure == pj.CalibratedComplexity()
        assert len(set(np.asarray(pj.depth(h)).tolist())) > 2  # else this class shows nothing

    @pytest.mark.parametrize("adapt", ["none", "parameters", "depth", "both"])
    def test_training_and_later_images_agree(self, graded, adapt):
        """What the measure gives is what the images were trained at, or lies in the same slice."""
        images, _ = graded
        h, measure = self.measure(images, adapt=adapt)
        later = np.asarray(pj.complexities(images, measure))
        np.testing.assert_array_equal(pj.depth(later), pj.depth(h))
        if adapt == "depth":
            later = [pj.slice_centre(one, int(pj.depth(one)), 1) for one in later]
            np.testing.assert_allclose(later, h, rtol=1e-6)
        else:
            np.testing.assert_array_equal(later, h)

    @pytest.mark.parametrize("network", ["puppet", "vgg"])
    def test_none(self, graded, network):
        """One complexity for all, the centre of a slice: shared kernels are those that were trained."""
        images, own = graded
        h, measure = self.measure(images, adapt="none", network=network)
        middle = int(pj.depth(own.mean()))
        assert len(set(h.tolist())) == 1
        np.testing.assert_array_equal(pj.depth(h), middle)
        assert h[0] == np.float32(pj.slice_centre(h[:1], middle, CONFIG.num_slices)[0])
        low, high = pj.depth_interval(middle)
        assert abs(h[0] - own.mean()) <= (high - low) / CONFIG.num_slices / 2 + 1e-5
        assert measure(images[:2]).tolist() == h[:2].tolist()

    def test_parameters(self, graded):
        """In the order of the images' own, all at the depth of their mean."""
        images, own = graded
        h, measure = self.measure(images, adapt="parameters")
        np.testing.assert_array_equal(pj.depth(h), int(pj.depth(own.mean())))
        np.testing.assert_array_equal(np.argsort(h, kind="stable"), np.argsort(own, kind="stable"))
        low, high = pj.depth_interval(int(pj.depth(own.mean())))
        assert np.ptp(h) > 0.9 * (high - low)

    def test_parameters_of_a_backbone(self, graded):
        """A backbone has one depth, so that nothing need be squeezed."""
        images, own = graded
        h, measure = self.measure(images, network="vgg")
        np.testing.assert_array_equal(h, own)
        assert measure == pj.CalibratedComplexity()

    def test_depth(self, graded):
        """One complexity a depth, the middle of its interval."""
        images, own = graded
        h, measure = self.measure(images, adapt="depth")
        np.testing.assert_array_equal(pj.depth(h), pj.depth(own))
        for depth in set(np.asarray(pj.depth(own)).tolist()):
            np.testing.assert_allclose(h[np.asarray(pj.depth(own)) == depth], np.mean(pj.depth_interval(depth)))
        assert measure == pj.CalibratedComplexity()

    def test_stored_kernels(self, graded, monkeypatch):
        images, _ = graded

        def refuses(*_):
            raise AssertionError("complexity was measured")

        monkeypatch.setattr(pj, "complexities", refuses)
        h, measure = self.measure(images, network="vgg", kernels="stored")
        assert h.tolist() == [1] * len(images) == measure(images).tolist()
        assert measure.scale == 0

    def test_images_of_one_complexity(self):
        """Nothing to squeeze, which a person can mend; one complexity for all is no matter."""
        images = np.zeros((4, 8, 8, 1), np.uint8)
        with pytest.raises(RunError, match="cannot be spread"):
            self.measure(images, adapt="parameters")
        assert len(set(self.measure(images, adapt="none")[0].tolist())) == 1


@pytest.mark.usefixtures("quick")
class TestLossIsNotFinite:
    def test_the_step_is_named_and_the_checkpoint_kept(self, recorder, tmp_path, capsys):
        folder = tmp_path / "run"
        recorder.reset(spoilt={6: np.inf, 7: np.nan})
        assert command_line(folder) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: the loss became inf at step 6; the checkpoint of step 4 is kept. ")
        assert "--learning-rate" in err
        assert err.count("\n") == 1
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["4"]
        assert [row["step"] for row in rows(folder)] == [4]
        assert load_model(folder / "model.safetensors").step == 4

    def test_before_any_checkpoint(self, recorder, tmp_path, capsys):
        recorder.reset(spoilt={1: np.nan})
        assert command_line(tmp_path / "run") == 1
        assert "at step 1; no checkpoint was saved yet" in capsys.readouterr().err

    def test_is_noticed_within_an_epoch(self, recorder, tmp_path, monkeypatch):
        monkeypatch.setattr(run, "CHECK_EVERY", 1)
        recorder.reset(spoilt={2: np.nan})
        with pytest.raises(RunError, match="became nan at step 2"):
            run.train("digits", CONFIG, Options(workdir=tmp_path / "run"))
        assert len(recorder.steps) == 3  # one late, so that the device need not wait

    def test_is_never_saved_when_stopped(self, recorder, tmp_path, capsys):
        recorder.reset({6: signal.SIGTERM}, spoilt={5: np.nan})
        assert command_line(tmp_path / "run") == 1
        assert "at step 5; the checkpoint of step 4 is kept" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]

    def test_of_validation(self, recorder, tmp_path, monkeypatch):
        """The last update of an epoch may spoil the parameters; such a model is never the best."""
        validate = run._Run._validated

        def spoilt(self, model):
            if model.step == 8:
                nan = jax.tree.map(lambda leaf: leaf * jnp.nan, model.params)
                model = dataclasses.replace(model, params=nan)
            return validate(self, model)

        monkeypatch.setattr(run._Run, "_validated", spoilt)
        try:
            run.train("digits", CONFIG, Options(workdir=tmp_path / "run"))
        except RunError as error:
            assert "step 8" in str(error)
        assert load_model(tmp_path / "run" / "model.safetensors").step != 8
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
