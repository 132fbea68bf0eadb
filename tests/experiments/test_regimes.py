"""Whole runs of each network and regime: what follows complexity, and which kernels are stored."""

import dataclasses
import json
import signal

import numpy as np
import pytest
from tiny_run import CONFIG, SUMMARY, TIMED, command_line

import puppet_jax as pj
from experiments import evaluation, run, run_folder
from experiments.cli import run_command, run_experiment
from experiments.config import Config
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.model_file import load_model
from experiments.predict import Command as PredictCommand, predict


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
