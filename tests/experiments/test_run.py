"""What images count with, and a loss that is not finite."""

import dataclasses
import importlib
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import CONFIG, command_line, rows

import puppet_jax as pj
from experiments.config import Adaptive, ByComplexity, Config, DeepBackbone, Generated, OneDepth, Options, Ordinary
from experiments.errors import RunError
from experiments.fields import replace
from experiments.model import load_model
from experiments.training import loop, run
from experiments.training.complexity import measure_complexities
from experiments.training.step import kernel_levels
from puppet_jax.routing import level_centre, make_groups

D = 3
NONE, PARAMETERS, SQUEEZED, DEPTH, BOTH = (
    replace(CONFIG, depth=depth, kernels=kernels)
    for depth, kernels in (
        (OneDepth(layers=(D,)), Generated()),
        (OneDepth(layers=(D,)), Adaptive()),
        (ByComplexity(depths=(D, D)), Adaptive()),
        (ByComplexity(), Generated()),
        (ByComplexity(), Adaptive()),
    )
)


def backbone(kernels):
    return Config(network=DeepBackbone(name="vgg", kernels=kernels), optim=CONFIG.optim)


@pytest.fixture(scope="module")
def graded():
    """From one grey value to all, so that the complexities reach from 0 to about 5; and these."""
    rng = np.random.default_rng(0)
    tops = (1, 4, 8, 30, 60, 120, 180, 256)
    images = np.stack([rng.integers(0, top, (16, 16, 1)) for top in tops]).astype(np.uint8)
    return images, np.asarray(pj.complexities(images))


class TestComplexities:
    """What images count with, and the measure that stays for images to come."""

    def measure(self, config, images):
        network = config.network.make(10, images.shape[1:])
        found = measure_complexities(config, network, images)
        assert (found.h.dtype, found.h.shape, found.depths.shape) == (np.float32, (len(images),), (len(images),))
        assert network.depth is None or set(found.depths.tolist()) == {network.depth}
        return found

    def test_both(self, graded):
        images, own = graded
        found = self.measure(BOTH, images)
        np.testing.assert_array_equal(found.h, own)
        np.testing.assert_array_equal(found.depths, pj.depth(own))
        assert found.measure == pj.CalibratedComplexity()
        assert len(set(found.depths.tolist())) > 2  # else this class shows nothing

    @pytest.mark.parametrize("config", [NONE, PARAMETERS, DEPTH, BOTH], ids=["none", "parameters", "depth", "both"])
    def test_training_and_later_images_agree(self, graded, config):
        """What the measure gives is what the images were trained at."""
        images, _ = graded
        found = self.measure(config, images)
        later = np.asarray(pj.complexities(images, found.measure))
        np.testing.assert_array_equal(later, found.h)
        np.testing.assert_array_equal(pj.depth(later), found.depths)

    @pytest.mark.parametrize("config", [NONE, DEPTH], ids=["none", "depth"])
    def test_shared_kernels_are_those_that_were_trained(self, graded, config):
        """One set a depth: of training batches, and of the images of a depth that are answered."""
        images, _ = graded
        network, found = config.network.make(10, images.shape[1:]), self.measure(config, images)
        groups = make_groups(found.h, sorted(set(found.depths.tolist())), num_levels=1, padding=1)
        assert len({group.depth for group in groups}) == len(groups)
        for group in groups:
            trained = kernel_levels(config, network, found.h[group.indices], group.depth)
            np.testing.assert_allclose(trained, [group.h], rtol=1e-6)

    def test_none(self, graded):
        """One complexity for all, the middle of the depth's interval."""
        images, _ = graded
        found = self.measure(NONE, images)
        assert set(found.h.tolist()) == {np.float32(np.mean(pj.depth_interval(D)))}
        assert found.h[0] == np.float32(level_centre(found.h[:1], D, 1)[0])
        assert found.measure(images[:2]).tolist() == found.h[:2].tolist()

    def test_none_of_a_backbone(self, graded):
        """One complexity for all, the mean of the images."""
        images, own = graded
        found = self.measure(backbone(Generated()), images)
        np.testing.assert_allclose(found.h, own.mean(), rtol=1e-6)
        assert len(set(found.h.tolist())) == 1
        assert found.measure(images[:2]).tolist() == found.h[:2].tolist()

    @pytest.mark.parametrize("config", [PARAMETERS, SQUEEZED], ids=["one depth", "depths alike"])
    def test_parameters(self, graded, config):
        """In the order of the images' own, all at the one depth."""
        images, own = graded
        h = self.measure(config, images).h
        np.testing.assert_array_equal(pj.depth(h), D)
        np.testing.assert_array_equal(np.argsort(h, kind="stable"), np.argsort(own, kind="stable"))
        low, high = pj.depth_interval(D)
        assert np.ptp(h) > 0.9 * (high - low)

    def test_parameters_of_a_backbone(self, graded):
        """A backbone has one depth, so that nothing need be squeezed."""
        images, own = graded
        found = self.measure(backbone(Adaptive()), images)
        np.testing.assert_array_equal(found.h, own)
        assert found.measure == pj.CalibratedComplexity()

    def test_depth(self, graded):
        """The kernels of a depth are those of the middle of its interval, also for images that it borrows."""
        images, own = graded
        found = self.measure(DEPTH, images)
        np.testing.assert_array_equal(found.depths, pj.depth(own))
        network = DEPTH.network.make(10, images.shape[1:])
        for depth in set(found.depths.tolist()):
            levels = kernel_levels(DEPTH, network, found.h, depth)
            np.testing.assert_allclose(levels, [np.mean(pj.depth_interval(depth))], rtol=1e-6)
        assert found.measure == pj.CalibratedComplexity()

    def test_ordinary_kernels(self, graded, monkeypatch):
        images, _ = graded

        def refuses(*_):
            raise AssertionError("complexity was measured")

        monkeypatch.setattr(importlib.import_module("puppet_jax.complexity"), "complexity", refuses)
        found = self.measure(backbone(Ordinary()), images)
        assert found.h.tolist() == [1] * len(images) == found.measure(images).tolist()
        assert found.measure.scale == 0
        found = self.measure(replace(NONE, kernels=Ordinary()), images)
        assert set(found.h.tolist()) == {np.float32(np.mean(pj.depth_interval(D)))}

    def test_images_of_one_complexity(self):
        """Nothing to spread, which a person can mend; one complexity for all is no matter."""
        images = np.zeros((4, 16, 16, 1), np.uint8)
        with pytest.raises(RunError, match="cannot be spread"):
            self.measure(PARAMETERS, images)
        assert len(set(self.measure(NONE, images).h.tolist())) == 1


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
        monkeypatch.setattr(loop, "CHECK_EVERY", 1)
        recorder.reset(spoilt={2: np.nan})
        with pytest.raises(RunError, match="became nan at step 2"):
            run.train("digits", CONFIG, Options(workdir=tmp_path / "run"))
        assert len(recorder.steps) == 3  # one late, so that the device need not wait

    def test_is_never_saved_when_stopped(self, recorder, tmp_path, capsys):
        recorder.reset({6: signal.SIGTERM}, spoilt={5: np.nan})
        assert command_line(tmp_path / "run") == 1
        assert "at step 5; the checkpoint of step 4 is kept" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]

    def test_a_parameter_that_is_not_finite(self, recorder, tmp_path, capsys, monkeypatch):
        """With a finite loss: compiled for a CPU, a maximum may drop NaN."""
        make = run.make_train_step

        def make_train_step(*arguments):
            train_step = make(*arguments)

            def step(state, *data, depth):
                state, metrics = train_step(state, *data, depth=depth)
                if int(state.step) == 6:
                    state = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
                return state, metrics | {"loss": jnp.float32(1)}

            return step

        monkeypatch.setattr(run, "make_train_step", make_train_step)
        assert command_line(tmp_path / "run") == 1
        assert "a parameter is not finite after step 8; the checkpoint of step 4 is kept" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]

    def test_of_validation(self, recorder, tmp_path, monkeypatch):
        """The last update of an epoch may spoil the parameters; such a model is never the best."""
        validated = run.validated

        def spoilt(model, *validation):
            if model.step == 8:
                nan = jax.tree.map(lambda leaf: leaf * jnp.nan, model.params)
                model = dataclasses.replace(model, params=nan)
            return validated(model, *validation)

        monkeypatch.setattr(run, "validated", spoilt)
        try:
            run.train("digits", CONFIG, Options(workdir=tmp_path / "run"))
        except RunError as error:
            assert "step 8" in str(error)
        assert load_model(tmp_path / "run" / "model.safetensors").step != 8
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
