"""Models of few bits a weight: stored after training, and trained so."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from experiments.cli import Options, run_command
from experiments.config import Adaptive, ByComplexity, Config, Data, Optim, PuppetCNN
from experiments.data import load_dataset
from experiments.errors import RunError
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.evaluation import accuracy
from experiments.fields import replace
from experiments.model import load_model
from experiments.quantize import Command, quantize
from experiments.runs import folder as run_folder
from experiments.training.run import train
from puppet_jax import extras

C, LAYERS = 16, 2
CONFIG = Config(
    network=PuppetCNN(
        channels=(C,),
        depth=ByComplexity(depths=(LAYERS, LAYERS)),
        kernels=Adaptive(num_levels=4, levels_per_batch=1),
        affine=True,
    ),
    data=Data(num_images=1_000, num_validation=200),
    optim=Optim(epochs=4, batch_size=40, learning_rate=0.01),
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy, "speed", lambda *_, **__: dict.fromkeys(
            ("latency_s", "latency_generating_s", "images_per_s"), 1.0))  # fmt: skip
        yield


def assert_equal_leaves(one, other):
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The summary of each run of a folder, by bits; 328 is trained at 32 bits and stored in 8."""
    folder = tmp_path_factory.mktemp("runs")
    summaries = {}
    for bits in (32, 8):
        train("digits", replace(CONFIG, bits=bits), Options(workdir=folder / str(bits)))
        summaries[bits] = json.loads((folder / str(bits) / "summary.json").read_text())
    for bits in (8, 4):
        quantize(Command(run=folder / "32", bits=bits))
        summaries[320 + bits] = json.loads((folder / f"32-{bits}bit" / "summary.json").read_text())
    return folder, summaries


def test_sizes(runs):
    _, summaries = runs
    puppeteer, affine = C**2 + 15 * C, 2 * LAYERS * C
    matrices, classifier = C**2 + 9 * C, 10 * C
    assert summaries[32]["trainable_bytes"] == 4 * (puppeteer + affine + classifier + 10)
    for run, bits in ((8, 8), (328, 8), (324, 4)):
        stored = matrices * bits // 8 + 2 * 2 * C + 2 * (puppeteer - matrices)
        assert summaries[run]["puppeteer_bytes"] == stored
        assert summaries[run]["trainable_bytes"] == stored + classifier * bits // 8 + 2 * 10 + 2 * (affine + 10)
        assert summaries[run]["file_bytes"] < summaries[32]["file_bytes"]


@pytest.mark.parametrize(("name", "bits"), [("8", 8), ("32-8bit", 8), ("32-4bit", 4)])
def test_the_loaded_model_has_rounded_weights(runs, name, bits):
    folder, _ = runs
    model = load_model(folder / name / "model.safetensors")
    assert model.bits == bits
    kernel = np.asarray(model.params.puppeteer.pointwise_kernel)
    again = extras.dequantize(extras.quantize(kernel, bits), kernel.shape, bits)
    np.testing.assert_array_equal(again, kernel)
    with safe_open(folder / name / "model.safetensors", framework="numpy") as file:
        assert file.get_tensor("puppeteer.pointwise_kernel.codes").dtype == (np.int8 if bits == 8 else np.uint8)
        assert file.get_tensor("puppeteer.norm1_scale").dtype == np.float16


def test_storing_costs_little_at_eight_bits(runs):
    folder, summaries = runs
    images = load_dataset("digits").test_images
    before, after = (load_model(folder / name / "model.safetensors").predictor()(images) for name in ("32", "32-8bit"))
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.9
    assert summaries[32]["top1"] > 0.3


def test_training_at_eight_bits_sees_what_is_stored(runs):
    folder, summaries = runs
    assert summaries[8]["top1"] > 0.3
    assert run_command(EvaluateCommand, evaluate, "experiments.evaluate", "", [str(folder / "8")]) == 0
    again = json.loads((folder / "8" / "summary.json").read_text())
    assert again["top1"] == summaries[8]["top1"]
    assert again["validation_top1"] == summaries[8]["validation_top1"]


TUNING = {"bits": 4, "epochs": 2, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def tuned(runs):
    folder, _ = runs
    quantize(Command(run=folder / "32", workdir=folder / "tuned", **TUNING))
    return folder / "tuned"


class TestTuning:
    def test_starts_with_the_rounded_weights(self, runs):
        folder, _ = runs
        quantize(Command(run=folder / "32", bits=4, epochs=1, learning_rate=1e-12, workdir=folder / "still"))
        still, rounded = (load_model(folder / name / "model.safetensors") for name in ("still", "32-4bit"))
        assert still.bits == 4
        assert_equal_leaves(still.params, rounded.params)
        assert_equal_leaves(*map(run_folder.read_split, (folder / "still", folder / "32")))

    def test_learns_with_the_rounding_in_view(self, runs, tuned):
        folder, summaries = runs
        rows, before = map(run_folder.read_metrics, (tuned, folder / "32"))
        assert len(rows) == 2
        assert rows[-1]["train_loss"] < before[-1]["train_loss"]
        summary = json.loads((tuned / "summary.json").read_text())
        tuned = replace(CONFIG, **TUNING, start_from=str(folder / "32"))
        assert run_folder.config_of(summary, Path()) == tuned
        assert summary["trainable_bytes"] == summaries[324]["trainable_bytes"]

    def test_goes_on_where_it_was_interrupted(self, runs, tuned, tmp_path, monkeypatch):
        folder, _ = runs
        command = Command(run=folder / "32", workdir=tmp_path / "cut", **TUNING)

        def stop(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("experiments.training.progress.Progress.report", stop)  # the first epoch is booked by then
            quantize(command)
        quantize(dataclasses.replace(command, resume=True))
        assert_equal_leaves(*(load_model(path / "model.safetensors").params for path in (tmp_path / "cut", tuned)))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"channels": (8,)}, "has other parameters than the one that these flags describe"),
            ({"kernels_from": "velocity"}, "has other parameters than the one that these flags describe"),
            ({"seed": 1}, "images that this run is validated on; give its --seed"),
            ({"start_from": "nowhere"}, "nowhere does not exist"),
        ],
    )
    def test_refuses_to_start_from(self, runs, tmp_path, changes, message):
        folder, _ = runs
        config = replace(CONFIG, **{"start_from": str(folder / "32")} | changes)
        with pytest.raises(RunError, match=message):
            train("digits", config, Options(workdir=tmp_path / "new"))
        assert not (tmp_path / "new").exists()


def test_refusals(runs, capsys):
    folder, _ = runs

    def call(*args):
        status = run_command(Command, quantize, "experiments.quantize", "", list(map(str, args)))
        return status, capsys.readouterr().err

    status, message = call(folder / "32", "--bits", 8)
    assert (status, "32-8bit exists already" in message) == (1, True)
    status, message = call(folder / "8", "--bits", 8, "--workdir", folder / "new")
    assert (status, "has 8 bits a weight already" in message) == (1, True)
    assert not (folder / "new").exists()
    assert call(folder / "nothing", "--bits", 4)[0] == 1
    assert call(folder / "32", "--bits", 5)[0] == 2
    status, message = call(folder / "32", "--bits", 4, "--epochs", -1)
    assert (status, "--epochs must be at least 0, got -1" in message) == (2, True)
    status, message = call(folder / "32", "--bits", 4, "--resume")
    assert (status, "--resume needs --epochs, got 0" in message) == (2, True)
    status, message = call(folder / "32", "--bits", 4, "--learning-rate", 1e-3)
    assert (status, "--learning-rate needs --epochs, got 0" in message) == (2, True)
    for rate in ("nan", "inf", "0", "-1"):
        status, message = call(folder / "32", "--bits", 4, "--epochs", 1, "--learning-rate", rate)
        assert (status, "--learning-rate must be positive and finite" in message) == (2, True)
