"""Models of few bits a weight: stored after training, and trained so."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors import safe_open

import puppet_jax as pj
from experiments import evaluation
from experiments.cli import run_command
from experiments.config import Config, Options
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.model_file import load_model
from experiments.quantize import Command, quantize
from experiments.run import load_dataset, train

C, LAYERS = 16, 2
CONFIG = Config(
    channels=(C,),
    spread=(LAYERS, LAYERS),
    affine=True,
    num_slices=4,
    num_levels=1,
    num_images=1_000,
    num_validation=200,
    epochs=4,
    batch_size=40,
    learning_rate=0.01,
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "speed", lambda *_, **__: dict.fromkeys(
            ("latency_s", "latency_generating_s", "images_per_s"), 1.0))  # fmt: skip
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The summary of each run of a folder, by bits; 328 is trained at 32 bits and stored in 8."""
    folder = tmp_path_factory.mktemp("runs")
    summaries = {
        bits: train("digits", dataclasses.replace(CONFIG, bits=bits), Options(workdir=folder / str(bits)))
        for bits in (32, 8)
    }
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
    again = pj.dequantize(pj.quantize(kernel, bits), kernel.shape, bits)
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
