"""A whole run, stopped and resumed: what it computes, what its folder holds, what it refuses."""

import dataclasses
import functools
import json
import os
import shutil
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import puppet_jax as pj
from experiments import evaluation, plots, run, run_folder
from experiments.checkpoint import Checkpoints
from experiments.cli import run_command, run_experiment
from experiments.config import Config, Options
from experiments.data import split_indices
from experiments.errors import RunError
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.model_file import load_model
from experiments.predict import Command as PredictCommand, predict

CONFIG = Config(
    channels=(8,),  # one layer, and one depth: one small program to compile
    spread=(1, 1),
    affine=True,
    num_levels=1,
    num_slices=4,
    num_images=64,
    num_validation=200,
    augment="crop_flip",
    epochs=4,
    batch_size=16,
    learning_rate=0.1,
)
PER_EPOCH, STEPS = 4, 16
SUMMARY = {
    *("experiment", "top1", "top5", "loss", "test_images", "depth_mean", "depth_std", "depth_counts", "depth_top1"),
    *("puppeteer_bytes", "trainable_bytes", "file_bytes", "generator_macs", "puppet_macs"),
    *("latency_s", "latency_generating_s", "images_per_s"),
    *("validation_top1", "train_seconds", "step", "steps", "seed", "config", "versions", "device"),
}

TIMED = {"latency_s", "latency_generating_s", "images_per_s"}


class Recorder:
    """Notes every step that is taken; sends a signal after some, spoils the loss of others."""

    def __init__(self):
        self.make_train_step = functools.cache(run.make_train_step)  # compiled once for all runs of a configuration
        self.reset()

    def reset(self, signals=None, spoilt=()):
        self.signals, self.spoilt = dict(signals or {}), spoilt
        self.steps: list[tuple[Any, ...]] = []

    def __call__(self, config, network, tx):
        train_step = self.make_train_step(config, network, tx)

        def step(state, data, indices, *, depth):
            number = int(state.step) + 1
            state = jax.device_put(state, jax.devices()[0])  # as a restored one is; else all is compiled once more
            state, metrics = train_step(state, data, indices, depth=depth)
            if number in self.spoilt:
                metrics = metrics | {"loss": jnp.float32(self.spoilt[number])}
            self.steps.append((number, depth, indices.tolist(), float(metrics["loss"])))
            if number in self.signals:
                os.kill(os.getpid(), self.signals.pop(number))
            return state, metrics

        return step


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        recorder = Recorder()
        patch.setattr(run, "make_train_step", recorder)
        for name in ("make_optimizer", "make_stats_estimator", "load_dataset"):
            patch.setattr(run, name, functools.cache(getattr(run, name)))
        yield recorder


@pytest.fixture(autouse=True)
def fresh(recorder):
    """Each test begins with nothing noted, and leaves the signals as they were."""
    recorder.reset()
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


@dataclasses.dataclass
class Done:
    folder: Any
    steps: list
    summary: dict
    status: int = 0


@pytest.fixture(scope="module")
def straight(recorder, tmp_path_factory):
    """A run in one go. Tests must not change its folder."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    recorder.reset()
    summary = run.train("digits", CONFIG, Options(workdir=folder))
    return Done(folder, recorder.steps, summary)


def command_line(folder, *flags, config=CONFIG):
    return run_experiment("digits", {"tiny": config}, "Trains.", ["--workdir", str(folder), *flags])


@pytest.fixture
def quick(monkeypatch):
    """Leaves out the pictures and the evaluation on the test set."""
    for name in ("plot_curves", "plot_depths"):
        monkeypatch.setattr(plots, name, lambda *_: Figure(figsize=(0.1, 0.1)))
    monkeypatch.setattr(run, "summarise", lambda folder, model, dataset: {"step": model.step})


def rows(folder):
    return run_folder.read_metrics(folder)


def without_times(row):
    return {name: value for name, value in row.items() if name not in ("seconds", "images_per_s")}


def final_state(folder):
    """Every float of the newest checkpoint."""
    network = run.make_network(CONFIG, 10, (8, 8, 1))
    tx = run.make_optimizer(CONFIG, network, STEPS)
    shapes = jax.eval_shape(lambda: run.init_state(CONFIG, network, (1,), tx))
    like = jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), shapes)
    with Checkpoints(folder / run_folder.CHECKPOINTS) as checkpoints:
        return checkpoints.latest_step, jax.tree.leaves(checkpoints.restore(like))


def assert_same_run(folder, straight):
    step, leaves = final_state(folder)
    expected_step, expected = final_state(straight.folder)
    assert step == expected_step == STEPS
    assert len(leaves) == len(expected)
    for one, other in zip(leaves, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    ours = (folder / run_folder.MODEL).read_bytes()
    assert ours == (straight.folder / run_folder.MODEL).read_bytes()


class TestFolder:
    def test_holds_everything(self, straight):
        names = {path.name for path in straight.folder.iterdir()}
        assert names == {
            *("config.json", "metrics.jsonl", "split.npz", "checkpoints"),
            *("curves.png", "depths.png", "summary.json", "model.safetensors"),
        }
        for picture in ("curves.png", "depths.png"):
            assert (straight.folder / picture).read_bytes().startswith(b"\x89PNG")

    def test_config(self, straight):
        config = json.loads((straight.folder / "config.json").read_text())
        assert config["experiment"] == "digits"
        restored = {name: tuple(v) if isinstance(v, list) else v for name, v in config["config"].items()}
        assert Config(**restored) == CONFIG
        assert len(config["data"]["sha256"]) == 64
        assert config["data"]["source"] == {
            "described": "scikit-learn's load_digits",
            "data_dir": None,
            "data_source": "auto",
        }
        assert config["versions"]["jax"] == jax.__version__

    def test_split_is_a_function_of_the_seed_alone(self, straight):
        split = np.load(straight.folder / "split.npz")
        train, validation = split_indices(1437, 64, 200, CONFIG.seed)
        np.testing.assert_array_equal(split["train"], train)
        np.testing.assert_array_equal(split["validation"], validation)
        assert not set(train.tolist()) & set(validation.tolist())

    def test_metrics(self, straight):
        table = rows(straight.folder)
        assert [row["epoch"] for row in table] == [1, 2, 3, 4]
        assert [row["step"] for row in table] == [4, 8, 12, 16]
        for epoch, row in enumerate(table):
            assert set(row) == {
                *("epoch", "step", "train_loss", "train_top1", "validation_loss", "validation_top1"),
                *("validation_top5", "images_per_s", "seconds"),
            }
            assert all(np.isfinite(value) for value in row.values())
            losses = [loss for *_, loss in straight.steps[epoch * PER_EPOCH : (epoch + 1) * PER_EPOCH]]
            assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-6)

    def test_summary(self, straight):
        summary = json.loads((straight.folder / "summary.json").read_text())
        assert summary == json.loads(json.dumps(straight.summary))
        assert set(summary) >= SUMMARY
        table = rows(straight.folder)
        best = max(table, key=lambda row: row["validation_top1"])
        assert summary["step"] == best["step"]
        assert summary["steps"] == STEPS
        assert summary["validation_top1"] == best["validation_top1"]
        assert summary["train_seconds"] == pytest.approx(sum(row["seconds"] for row in table))
        assert summary["seed"] == CONFIG.seed
        assert summary["config"]["channels"] == [8]
        assert summary["depth_counts"] == {"1": 360}
        assert summary["depth_mean"] == 1
        assert summary["puppet_macs"] == 9 * 1 * 8 * 64 + 8 * 10
        assert summary["generator_macs"] == (8**2 + 11 * 8) * 8 * 9
        assert summary["file_bytes"] == (straight.folder / "model.safetensors").stat().st_size
        assert 0 <= summary["top1"] <= summary["top5"] <= 1
        assert min(summary[name] for name in ("latency_s", "latency_generating_s", "images_per_s")) > 0
        assert "cpu" in summary["device"] or "gpu" in summary["device"].lower()

    def test_last_and_best_checkpoints_are_kept(self, straight):
        kept = {int(path.name) for path in (straight.folder / "checkpoints").iterdir()}
        best = max(row["validation_top1"] for row in rows(straight.folder))
        candidates = {row["step"] for row in rows(straight.folder) if row["validation_top1"] == best}
        assert STEPS in kept
        assert kept & candidates
        assert len(kept) <= 2

    def test_the_model_is_the_best(self, straight):
        model = load_model(straight.folder / "model.safetensors")
        assert model.step == max(rows(straight.folder), key=lambda row: row["validation_top1"])["step"]
        assert (model.network.image_shape[:2], model.num_slices, model.adaptation) == ((8, 8), 4, "level")
        assert list(model.batch_stats) == [1]
        dataset = run.load_dataset("digits", None, "auto")
        validation = np.load(straight.folder / "split.npz")["validation"]
        labels = dataset.train_labels[validation]
        logits = model.predictor()(dataset.train_images[validation])
        assert float((logits.argmax(1) == labels).mean()) == pytest.approx(straight.summary["validation_top1"])


@pytest.mark.usefixtures("quick")
class TestResume:
    def test_bit_for_bit(self, straight, recorder, tmp_path, capsys, monkeypatch):
        """Stopped within the first epoch and within the third, then finished: as in one go, to the last bit."""
        folder = tmp_path / "run"
        recorder.reset({2: signal.SIGTERM, 10: signal.SIGINT})

        assert command_line(folder) == 143
        out, err = capsys.readouterr()
        assert err == (
            "stopped after step 2 of 16; the state is saved. To go on, give the same command with --resume (its "
            f"folder: --workdir {folder}).\n"
        )
        assert len(recorder.steps) == 2
        assert rows(folder) == []

        assert command_line(folder, "--resume") == 130
        out, err = capsys.readouterr()
        assert "resumed at step 2 of 16" in out
        assert "stopped after step 10 of 16" in err
        assert len(recorder.steps) == 10
        assert [row["epoch"] for row in rows(folder)] == [1, 2]

        assert command_line(folder, "--resume") == 0
        out, _ = capsys.readouterr()
        assert "resumed at step 10 of 16" in out
        assert recorder.steps == straight.steps  # batch for batch, loss for loss
        assert_same_run(folder, straight)

        ours, theirs = rows(folder), rows(straight.folder)
        assert [row["step"] for row in ours] == [4, 8, 12, 16]
        for i in (1, 3):  # the epochs that were not interrupted
            assert without_times(ours[i]) == without_times(theirs[i])
        for i in (0, 2):
            validation = {name for name in ours[i] if name.startswith("validation")}
            assert {name: ours[i][name] for name in validation} == {name: theirs[i][name] for name in validation}
        kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
        assert kept == sorted(path.name for path in (straight.folder / "checkpoints").iterdir())

    @pytest.mark.parametrize("step", [8, 16])
    def test_stopped_in_the_last_step_of_an_epoch(self, straight, recorder, tmp_path, monkeypatch, step):
        """The epoch is complete: it has its row, and its model may be the best."""
        folder = tmp_path / "run"
        recorder.reset({step: signal.SIGTERM})
        status = command_line(folder)
        assert status in ((0, 143) if step == STEPS else (143,))
        if status:
            assert command_line(folder, "--resume") == 0
        assert recorder.steps == straight.steps
        assert list(map(without_times, rows(folder))) == list(map(without_times, rows(straight.folder)))
        assert_same_run(folder, straight)

    def test_stopped_while_an_epoch_is_validated(self, straight, recorder, tmp_path, monkeypatch):
        folder = tmp_path / "run"
        validate = run._Run._validated

        def interrupted(self, model):
            if model.step == 8:
                os.kill(os.getpid(), signal.SIGINT)
            return validate(self, model)

        with monkeypatch.context() as patch:
            patch.setattr(run._Run, "_validated", interrupted)
            assert command_line(folder) == 130
        assert [row["step"] for row in rows(folder)] == [4, 8]
        assert command_line(folder, "--resume") == 0
        assert recorder.steps == straight.steps
        assert list(map(without_times, rows(folder))) == list(map(without_times, rows(straight.folder)))
        assert_same_run(folder, straight)

    def test_a_second_signal_acts_at_once(self, recorder, tmp_path, monkeypatch):
        monkeypatch.setattr(run.Checkpoints, "save", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        recorder.reset({2: signal.SIGINT})
        assert command_line(tmp_path / "run") == 130
        assert len(recorder.steps) == 2

    def test_killed_after_a_row_but_before_its_checkpoint(self, straight, recorder, tmp_path, monkeypatch):
        """The epoch is done again, and its row replaced."""
        folder = tmp_path / "run"
        append = run_folder.append_metrics

        def dies(folder, row):
            append(folder, row)
            if row["step"] == 8:
                raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "append_metrics", dies)
            with pytest.raises(ZeroDivisionError):
                command_line(folder)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"epoch": 3, "st')  # and half a line
        assert [row["step"] for row in rows(folder)] == [4, 8]
        recorder.reset()
        assert command_line(folder, "--resume") == 0
        assert recorder.steps == straight.steps[PER_EPOCH:]
        assert list(map(without_times, rows(folder))) == list(map(without_times, rows(straight.folder)))
        assert_same_run(folder, straight)

    def test_of_nothing_starts(self, recorder, tmp_path, monkeypatch):
        recorder.reset({1: signal.SIGTERM})
        assert command_line(tmp_path / "run", "--resume") == 143
        assert recorder.steps[0][0] == 1


class TestRefusals:
    def train(self, straight, resume=True, **changes):
        config = dataclasses.replace(CONFIG, **changes)
        return run.train("digits", config, Options(workdir=straight.folder, resume=resume))

    def test_a_folder_with_a_run(self, straight):
        with pytest.raises(RunError, match="straight holds a run already; go on with --resume, or name another"):
            self.train(straight, resume=False)

    def test_another_configuration(self, straight):
        with pytest.raises(RunError, match=r"\(learning_rate: 0\.1 there, 0\.2 now\)"):
            self.train(straight, learning_rate=0.2)
        with pytest.raises(RunError, match=r"\(channels: \[8\] there, \[4\] now; epochs: 4 there, 5 now\)"):
            self.train(straight, channels=(4,), epochs=5)

    def test_fields_that_an_earlier_version_lacks_count_as_their_defaults(self, tmp_path):
        run_folder.open_run(tmp_path, "digits", CONFIG, {}, resume=False)
        found = run_folder.read_config(tmp_path)
        del found["config"]["shallow_weight"]
        run_folder.write_json(tmp_path / run_folder.CONFIG, found)
        run_folder.open_run(tmp_path, "digits", CONFIG, {}, resume=True)
        other = dataclasses.replace(CONFIG, shallow_weight=0.5)
        with pytest.raises(RunError, match=r"\(shallow_weight: 1\.0 there, 0\.5 now\)"):
            run_folder.open_run(tmp_path, "digits", other, {}, resume=True)

    def test_another_experiment(self, straight):
        data = run_folder.read_config(straight.folder)["data"]
        with pytest.raises(RunError, match=r"\(experiment: 'digits' there, 'cifar10' now\)"):
            run_folder.open_run(straight.folder, "cifar10", CONFIG, data, resume=True)

    def test_other_data(self, straight, monkeypatch):
        dataset = run.load_dataset("digits", None, "auto")
        images = dataset.test_images.copy()
        images[5, 3, 3, 0] ^= 1
        other = dataclasses.replace(dataset, test_images=images)
        monkeypatch.setattr(run, "load_dataset", lambda *_: other)
        with pytest.raises(RunError, match="sha256: '[0-9a-f]{64}' there, '[0-9a-f]{64}' now"):
            self.train(straight)

    def test_the_folder_is_as_before(self, straight):
        """What was refused left no trace."""
        before = {path: path.stat().st_mtime_ns for path in straight.folder.iterdir()}
        for changes in ({"resume": False}, {"epochs": 5}):
            with pytest.raises(RunError):
                self.train(straight, **changes)
        assert {path: path.stat().st_mtime_ns for path in straight.folder.iterdir()} == before

    def test_a_damaged_config(self, tmp_path):
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(RunError, match=r"config\.json is damaged"):
            run.train("digits", CONFIG, Options(workdir=tmp_path, resume=True))


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


class TestCheckpoints:
    def test_last_and_best_are_kept(self, tmp_path):
        state = {"a": jnp.arange(3.0), "step": jnp.int32(0)}
        with Checkpoints(tmp_path / "c") as checkpoints:
            assert checkpoints.latest_step is None
            for step, top1 in ((1, 0.1), (2, 0.5), (3, 0.3), (4, None), (5, 0.2), (7, None)):
                checkpoints.save(step, state | {"step": jnp.int32(step)}, top1)
            checkpoints.save(7, state | {"step": jnp.int32(99)}, 0.9)  # there already
            assert checkpoints.latest_step == 7
        assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "7"]
        with Checkpoints(tmp_path / "c") as checkpoints:
            assert int(checkpoints.restore(state)["step"]) == 7
            assert int(checkpoints.restore(state, 2)["step"]) == 2
            checkpoints.save(8, state, 0.4)  # still knows that 2 is better
        assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "8"]


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


class TestAdaptation:
    """A puppet of which only a part follows complexity."""

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize(
        ("adapt", "spread", "depth"),
        [("none", None, 2), ("none", (3, 3), 3), ("depth", (1, 1), 1), ("parameters", (3, 3), 3)],
    )
    def test_run(self, recorder, tmp_path, capsys, adapt, spread, depth):
        config = dataclasses.replace(CONFIG, channels=(4,), spread=spread, epochs=1, batch_size=32, augment="none")
        assert command_line(tmp_path, "--adapt", adapt, config=config) == 0
        assert {depth for _, depth, *_ in recorder.steps} == {depth}
        model = load_model(tmp_path / "model.safetensors")
        assert list(model.batch_stats) == [depth]
        assert model.num_slices == (1 if adapt == "depth" else config.num_slices)
        dataset, split = run.load_dataset("digits", None, "auto"), np.load(tmp_path / "split.npz")
        h = pj.complexities(dataset.test_images, model.complexity)
        groups = {group.h for group in pj.make_groups(h, [depth], model.num_slices)}
        if adapt == "parameters":
            assert len(groups) > 1
            return
        (group,) = groups  # one set of kernels for all
        trained, _ = run.measure_complexities(
            dataclasses.replace(config, adapt=adapt), dataset.train_images[split["train"]]
        )
        np.testing.assert_allclose(trained, group, rtol=1e-6)


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    """CIFAR-100 of 40 training and 8 test images, noise of different complexity."""
    folder = tmp_path_factory.mktemp("data") / "cifar-100-binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 8)):
        records = rng.integers(0, 64 + 3 * np.arange(count)[:, None], (count, 2 + 3072)).astype(np.uint8)
        records[:, 0], records[:, 1] = 0, np.arange(count)
        records.tofile(folder / f"{name}.bin")
    return folder.parent


class TestBackbones:
    """A network with kernels of its own, with those of one complexity, and with those of each image's."""

    FLAGS = (
        *(
            "--network",
            "vgg",
            "--num-layers",
            "8",
            "--max-channels",
            "8",
            "--num-images",
            "32",
            "--num-validation",
            "8",
        ),
        *("--batch-size", "16", "--num-levels", "2", "--num-slices", "1", "--epochs", "1", "--learning-rate", "0.01"),
    )
    REGIMES = {
        "fixed": ("--kernels", "stored"),
        "puppet": ("--adapt", "none"),
        "adaptive": ("--adapt", "parameters"),
    }

    def command_line(self, folder, data, *flags):
        argv = ["--workdir", str(folder), "--data-dir", str(data), *self.FLAGS, *flags]
        return run_experiment("cifar100", {"plain": Config()}, "Trains.", argv)

    def check(self, folder, regime, steps):
        """What the folder of a finished run says."""
        assert [(number, depth) for number, depth, *_ in steps] == [(1, 5), (2, 5)]
        summary = json.loads((folder / "summary.json").read_text())
        assert set(summary) >= SUMMARY
        assert summary["depth_counts"] == {"5": 8}
        kernels = 9 * (3 * 1 + 1 * 2 + 2 * 4 + 4 * 8 + 8 * 8)
        others = 2 * (1 + 2 + 4 + 8 + 8) + 2 * (8 * 8 + 8) + 9 * 100
        puppeteer = 0 if regime == "fixed" else 8**2 + 15 * 8
        assert summary["puppeteer_bytes"] == 4 * puppeteer
        assert summary["trainable_bytes"] == 4 * ((puppeteer or kernels) + others)
        assert summary["generator_macs"] == (0 if regime == "fixed" else 5 * (8**2 + 11 * 8) * 8 * 9)
        assert min(summary[name] for name in TIMED) > 0
        model = load_model(folder / "model.safetensors")
        h = pj.complexities(np.zeros((2, 32, 32, 3), np.uint8), model.complexity)
        assert {"fixed": h.tolist() == [1, 1], "puppet": h[0] == h[1] > 2, "adaptive": h.tolist() == [0, 0]}[regime]
        return summary

    def predict(self, folder, capsys):
        np.save(folder / "image.npy", np.zeros((32, 32, 3), np.uint8))
        capsys.readouterr()
        predict(PredictCommand(paths=(folder, folder / "image.npy")))
        return capsys.readouterr().out

    @pytest.fixture
    def untimed(self, monkeypatch):
        """To time a network takes programs of many sizes."""
        monkeypatch.setattr(evaluation, "speed", lambda *_, **__: dict.fromkeys(TIMED, 1.0))

    @pytest.mark.parametrize("regime", ["fixed", "puppet"])
    def test_evaluate_refuses_kernels_of_each_image(self, tmp_path, regime, capsys):
        flags = dict(zip([flag[2:] for flag in self.REGIMES[regime][::2]], self.REGIMES[regime][1::2], strict=True))
        run_folder.open_run(tmp_path, "cifar100", Config(network="vgg", **flags), {}, resume=False)
        argv = [str(tmp_path), "--num-slices", "4", "--agreement", "9"]
        assert run_command(EvaluateCommand, evaluate, "experiments.evaluate", "", argv) == 1
        error = capsys.readouterr().err
        assert "one set of kernels a depth (--adapt none); leave out --num-slices and --agreement" in error

    @pytest.mark.usefixtures("untimed")
    @pytest.mark.parametrize("regime", ["fixed", pytest.param("puppet", marks=pytest.mark.slow)])
    def test_run(self, recorder, cifar100, tmp_path, capsys, regime):
        assert self.command_line(tmp_path, cifar100, *self.REGIMES[regime]) == 0
        self.check(tmp_path, regime, recorder.steps)
        line = self.predict(tmp_path, capsys)
        assert line.endswith("depth 5\n")
        assert ("complexity 1.000 nats" in line) == (regime == "fixed")

    def test_stopped_resumed_evaluated(self, recorder, cifar100, tmp_path, capsys, monkeypatch):
        folder, flags = tmp_path / "run", self.REGIMES["adaptive"]
        recorder.reset({1: signal.SIGINT})
        assert self.command_line(folder, cifar100, *flags) == 130
        assert len(recorder.steps) == 1
        assert self.command_line(folder, cifar100, *flags, "--resume") == 0
        assert "resumed at step 1 of 2" in capsys.readouterr().out
        summary = self.check(folder, "adaptive", recorder.steps)

        (folder / "summary.json").unlink()
        monkeypatch.setattr(evaluation, "speed", lambda *_, **__: dict.fromkeys(TIMED, 1.0))
        argv = [str(folder), "--agreement", "4"]
        assert run_command(EvaluateCommand, evaluate, "experiments.evaluate", "Measures.", argv) == 0
        again = json.loads((folder / "summary.json").read_text())
        assert {name: again[name] for name in SUMMARY - TIMED} == {name: summary[name] for name in SUMMARY - TIMED}
        line = self.predict(folder, capsys)
        assert "complexity 0.000 nats, depth 5\n" in line

    def test_refusals_leave_no_run(self, recorder, tmp_path, capsys):
        for flags, message in (
            (("--network", "vgg"), "too small"),
            (("--network", "alexnet", "--num-layers", "9"), "num_layers is no option of alexnet"),
        ):
            flags = (*flags, "--num-levels", "1", "--num-images", "64", "--num-validation", "8")
            argv = ["--workdir", str(tmp_path / "run"), *flags]
            assert run_experiment("digits", {"plain": Config()}, "Trains.", argv) == 1
            err = capsys.readouterr().err
            assert message in err
            assert err.count("\n") == 1
            assert not (tmp_path / "run").exists()


class TestTrainedRun:
    """The programs that take the folder of a run."""

    def evaluate(self, *argv):
        return run_command(EvaluateCommand, evaluate, "experiments.evaluate", "Measures.", [str(word) for word in argv])

    def test_resuming_changes_nothing(self, straight, recorder, tmp_path):
        folder = shutil.copytree(straight.folder, tmp_path / "run")
        assert command_line(folder, "--resume") == 0
        assert recorder.steps == []
        assert (folder / "metrics.jsonl").read_text() == (straight.folder / "metrics.jsonl").read_text()
        again = json.loads((folder / "summary.json").read_text())
        for name in ("top1", "top5", "loss", "step", "steps", "validation_top1", "depth_counts"):
            assert again[name] == straight.summary[name]

    def test_evaluate_repeats_the_summary(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        (folder / "summary.json").unlink()
        assert self.evaluate(folder) == 0
        assert f"top-1          {straight.summary['top1']:.2%} of 360 test images" in capsys.readouterr().out
        summary = json.loads((folder / "summary.json").read_text())
        assert set(summary) >= SUMMARY
        for name in SUMMARY - TIMED:
            assert summary[name] == straight.summary[name] or name == "config"

    def test_evaluate_takes_as_many_test_images_as_the_run_asked_for(self, straight, tmp_path):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        config = json.loads((folder / "config.json").read_text())
        config["config"]["num_test"] = 90
        (folder / "config.json").write_text(json.dumps(config))
        assert self.evaluate(folder) == 0
        summary = json.loads((folder / "summary.json").read_text())
        model, dataset = load_model(folder / "model.safetensors"), run.load_dataset("digits", None, "auto")
        correct = model.predictor()(dataset.test_images[::4]).argmax(1) == dataset.test_labels[::4]
        assert (summary["test_images"], summary["top1"]) == (90, correct.mean())

    def test_evaluate_refuses_other_data(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        config = json.loads((folder / "config.json").read_text())
        config["data"]["sha256"] = "0" * 64
        (folder / "config.json").write_text(json.dumps(config))
        assert self.evaluate(folder) == 1
        assert "is not what" in capsys.readouterr().err

    def test_evaluate_of_a_run_without_a_model(self, straight, tmp_path, capsys):
        shutil.copy(straight.folder / "config.json", tmp_path)
        assert self.evaluate(tmp_path) == 1
        assert "model.safetensors does not exist" in capsys.readouterr().err

    def test_predict_says_what_evaluation_counts(self, straight, tmp_path, capsys):
        dataset = run.load_dataset("digits", None, "auto")
        model = load_model(straight.folder / "model.safetensors")
        paths = tuple(tmp_path / f"{i}.npy" for i in range(4))
        for path, image in zip(paths, dataset.test_images, strict=False):
            np.save(path, image)
        predict(PredictCommand(paths=(straight.folder, *paths)))
        expected = model.predictor()(dataset.test_images[:4]).argmax(1)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[1].split()[0] for line in lines] == [str(label) for label in expected]
        assert all(line.endswith("depth 1") for line in lines)
