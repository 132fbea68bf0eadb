"""Whole runs of each network and regime: what follows complexity, and which kernels are ordinary."""

import json
import signal

import jax
import numpy as np
import pytest
from tiny_run import CONFIG, SUMMARY, TIMED, command_line

import puppet_jax as pj
from experiments.cli import run_command, run_experiment
from experiments.config import (
    Adaptive,
    ByComplexity,
    Config,
    Data,
    DeepBackbone,
    Generated,
    OneDepth,
    Optim,
    Ordinary,
    PuppetCNN,
)
from experiments.data import load_dataset
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.evaluation import accuracy
from experiments.fields import replace
from experiments.model import load_model
from experiments.predict import Command as PredictCommand, predict
from experiments.runs.files import CHECKSUM
from experiments.training.complexity import measure_complexities
from experiments.training.validation import make_model
from puppet_jax.routing import make_groups

REGIMES = {
    "none": (replace(CONFIG, depth=OneDepth(layers=(3,)), kernels=Generated()), 3),
    "depth": (replace(CONFIG, depth=ByComplexity(depths=(1, 1)), kernels=Generated()), 1),
    "parameters": (replace(CONFIG, depth=OneDepth(layers=(3,))), 3),
}


class TestAdaptation:
    """A puppet of which only a part follows complexity."""

    def check(self, model, depth, images, trained):
        """What a model answers with, given the complexities that it was trained at."""
        assert list(model.batch_stats) == [depth]
        predictor = model.predictor()
        groups = {group.h for group in make_groups(trained, [depth], predictor.num_levels)}
        later = pj.complexities(images, model.complexity)
        assert {group.h for group in make_groups(later, [depth], predictor.num_levels)} <= groups
        if isinstance(model.complexity, pj.CalibratedComplexity) and model.num_levels > 1:
            assert len(groups) > 1
            return
        assert len(groups) == 1  # one set of kernels for all

    @pytest.mark.parametrize("regime", REGIMES)
    def test_model(self, regime):
        config, depth = REGIMES[regime]
        network = config.network.make(10, (8, 8, 1))
        images = load_dataset("digits").train_images[:128]
        complexities = measure_complexities(config, network, images)
        params, stats = jax.eval_shape(lambda: (network.init(0, (depth,)), {depth: network.init_stats(depth)}))
        model = make_model(config, network, params, stats, complexities, tuple("0123456789"), 1)
        assert set(complexities.depths.tolist()) == {depth}
        assert (model.num_levels, model.adaptation) == (4 if regime == "parameters" else 1, "level")
        self.check(model, depth, images, complexities.h)

    @pytest.mark.slow
    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize("regime", REGIMES)
    def test_run(self, recorder, tmp_path, regime):
        config, depth = REGIMES[regime]
        config = replace(config, channels=(4,), epochs=1, batch_size=32, augment="none")
        assert command_line(tmp_path, config=config) == 0
        assert {depth for _, depth, *_ in recorder.steps} == {depth}
        model = load_model(tmp_path / "model.safetensors")
        dataset, split = load_dataset("digits"), np.load(tmp_path / "split.npz")
        images = dataset.train_images[split["train"]]
        trained = measure_complexities(config, model.network, images).h
        self.check(model, depth, images, trained)


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    """CIFAR-100 of 40 training and 8 test images, noise of different complexity, yet of one depth of a puppet."""
    folder = tmp_path_factory.mktemp("data") / "cifar-100-binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 8)):
        records = rng.integers(0, 176 + 2 * np.arange(count)[:, None], (count, 2 + 3072)).astype(np.uint8)
        records[:, 0], records[:, 1] = 0, np.arange(count)
        records.tofile(folder / f"{name}.bin")
    return folder.parent


class TestBackbones:
    """A network with kernels of its own, with those of one complexity, and with those of each image's."""

    PRESETS = {
        regime: Config(
            network=DeepBackbone(name="vgg", kernels=kernels),
            data=Data(num_images=32, num_validation=8),
            optim=Optim(batch_size=16, epochs=1, learning_rate=0.01),
        )
        for regime, kernels in {
            "fixed": Ordinary(),
            "puppet": Generated(),
            "adaptive": Adaptive(levels_per_batch=2, num_levels=1),
        }.items()
    }

    def command_line(self, folder, data, regime, *flags):
        argv = ["--workdir", str(folder), "--data-dir", str(data), "--preset", regime]
        argv += ["--num-layers", "8", "--width", "8", *flags]
        return run_experiment("cifar100", self.PRESETS, "Trains.", argv)

    def check(self, folder, regime, steps):
        """What the folder of a finished run says."""
        assert [(number, depth) for number, depth, *_ in steps] == [(1, 5), (2, 5)]
        summary = json.loads((folder / "summary.json").read_text())
        assert set(summary) == SUMMARY | {CHECKSUM}
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
        predict(PredictCommand(run=str(folder), images=(folder / "image.npy",) * 8))  # as many as in the other batches
        (line,) = set(capsys.readouterr().out.splitlines())
        return line

    @pytest.fixture
    def untimed(self, monkeypatch):
        """To time a network takes programs of many sizes."""
        monkeypatch.setattr(accuracy, "speed", lambda *_, **__: dict.fromkeys(TIMED, 1.0))

    @pytest.mark.usefixtures("untimed")
    @pytest.mark.parametrize("regime", ["fixed", pytest.param("puppet", marks=pytest.mark.slow)])
    def test_run(self, recorder, cifar100, tmp_path, capsys, regime):
        assert self.command_line(tmp_path, cifar100, regime) == 0
        self.check(tmp_path, regime, recorder.steps)
        line = self.predict(tmp_path, capsys)
        assert line.endswith("complexity 0.000 nats, depth 5 (the same for all images)")

        argv = [str(tmp_path), "--num-levels", "4", "--agreement", "9"]
        assert run_command(EvaluateCommand, evaluate, "experiments.evaluate", "", argv) == 1
        error = capsys.readouterr().err
        assert f"the kernels of {tmp_path} do not follow the image; leave out --num-levels and --agreement" in error

    @pytest.mark.usefixtures("untimed")
    @pytest.mark.slow
    def test_stopped_resumed_evaluated(self, recorder, cifar100, tmp_path, capsys):
        folder = tmp_path / "run"
        recorder.reset({1: signal.SIGINT})
        assert self.command_line(folder, cifar100, "adaptive") == 130
        assert len(recorder.steps) == 1
        assert self.command_line(folder, cifar100, "adaptive", "--resume") == 0
        assert "resumed at step 1 of 2" in capsys.readouterr().out
        summary = self.check(folder, "adaptive", recorder.steps)

        (folder / "summary.json").unlink()
        assert run_command(EvaluateCommand, evaluate, "experiments.evaluate", "Measures.", [str(folder)]) == 0
        again = json.loads((folder / "summary.json").read_text())
        varying = TIMED | {"host_peak_bytes"}
        assert {name: again[name] for name in SUMMARY - varying} == {name: summary[name] for name in SUMMARY - varying}
        line = self.predict(folder, capsys)
        assert line.endswith("complexity 0.000 nats, depth 5 (the same for all images)")

    def test_refusals_leave_no_run(self, tmp_path, capsys):
        few = Data(num_images=64, num_validation=8)
        presets = {
            "small images": Config(network=DeepBackbone(name="vgg"), data=few),
            "layers": Config(network=DeepBackbone(name="resnet", num_layers=9), data=few),
            "stages": Config(network=PuppetCNN(depth=OneDepth(layers=(1, 2)), kernels=Generated()), data=few),
            "pools": Config(network=PuppetCNN(channels=(8,) * 9), data=few),
        }
        for preset, message in (
            ("small images", "too small"),
            ("layers", "num_layers must be even and at least 10"),
            ("stages", "layers must"),
            ("pools", "8 x 8 pixels are too small"),
        ):
            argv = ["--workdir", str(tmp_path / "run"), "--preset", preset]
            assert run_experiment("digits", presets, "Trains.", argv) == 1
            err = capsys.readouterr().err
            assert message in err
            assert err.count("\n") == 1
            assert not (tmp_path / "run").exists()
