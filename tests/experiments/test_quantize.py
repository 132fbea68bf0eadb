"""Models of few bits a weight: stored after training, and trained so."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors import safe_open
from shared_programs import share_programs

from experiments.cli import run_command
from experiments.config import Adaptive, ByComplexity, Config, Data, Optim, Options, PuppetCNN
from experiments.data import load_dataset
from experiments.errors import RunError
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.evaluation.summary import read_summary
from experiments.fields import as_json, replace
from experiments.model import load_model
from experiments.quantize import Command, quantize
from experiments.runs import folder as run_folder
from experiments.runs.load import load_run
from experiments.training import run
from experiments.training.run import train
from puppet_jax import extras

C = 16
CONFIG = Config(
    network=PuppetCNN(
        channels=(C,),
        depth=ByComplexity(depths=(1, 1)),
        kernels=Adaptive(levels_per_batch=1, num_levels=4),
        affine=True,
    ),
    data=Data(num_images=1_000, num_validation=200),
    optim=Optim(epochs=8, batch_size=40, learning_rate=0.03),
)
TUNING = {"bits": 8, "epochs": 6, "learning_rate": 0.02}


@pytest.fixture(scope="module", autouse=True)
def starts():
    """The parameters that each run of this module started with, by the folder that it went on from."""
    found = {}

    def noting(config, network, depths, tx, start=None):
        found[config.start_from] = jax.tree.map(np.array, start)  # the state is donated to the first step
        return init_state(config, network, depths, tx, start)

    init_state = run.init_state
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch, lambda config: replace(config, start_from=None, optim=CONFIG.optim))
        patch.setattr(run, "init_state", noting)
        yield found


def assert_equal_leaves(one, other):
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The summary of each run of a folder, by bits; 328 is trained at 32 bits and stored in 8."""
    folder = tmp_path_factory.mktemp("runs")
    configs = {32: CONFIG, 8: replace(CONFIG, **TUNING)}
    summaries = {bits: train("digits", configs[bits], Options(workdir=folder / str(bits))) for bits in configs}
    for bits in (8, 4):
        quantize(Command(run=folder / "32", bits=bits))
        summaries[320 + bits] = read_summary(folder / f"32-{bits}bit")
    return folder, summaries


def test_sizes(runs):
    _, summaries = runs
    puppeteer, affine = C**2 + 15 * C, 2 * C
    matrices, classifier = C**2 + 9 * C, 10 * C
    assert summaries[32].trainable_bytes == 4 * (puppeteer + affine + classifier + 10)
    for name, bits in ((8, 8), (328, 8), (324, 4)):
        stored = matrices * bits // 8 + 2 * 2 * C + 3 * (C + 2)  # vectors have one scale; three biases are not stored
        assert summaries[name].puppeteer_bytes == stored
        vectors = affine + 10 + 2 * 3  # scales and biases of one layer's norm, and the classifier's bias
        assert summaries[name].trainable_bytes == stored + classifier * bits // 8 + 2 * 10 + vectors
        assert summaries[name].file_bytes < summaries[32].file_bytes


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
        assert file.get_tensor("puppeteer.norm1_scale.codes").dtype == np.int8
        assert file.get_tensor("puppeteer.norm1_scale.scale").shape == (1,)
        assert not any("depthwise_bias" in tensor for tensor in file.keys())


def test_storing_costs_little_at_eight_bits(runs):
    folder, summaries = runs
    images = load_dataset("digits").test_images
    before, after = (load_model(folder / name / "model.safetensors").predictor()(images) for name in ("32", "32-8bit"))
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.9
    assert summaries[32].top1 > 0.3


def test_training_at_eight_bits_sees_what_is_stored(runs):
    folder, summaries = runs
    assert summaries[8].top1 > 0.3
    assert run_command(EvaluateCommand, evaluate, "experiments.evaluate", "", [str(folder / "8")]) == 0
    again = read_summary(folder / "8")
    assert again.top1 == summaries[8].top1
    assert again.validation_top1 == summaries[8].validation_top1


@pytest.fixture(scope="module")
def tuned(runs):
    folder, _ = runs
    quantize(Command(run=folder / "32", workdir=folder / "tuned", **TUNING))
    return folder / "tuned"


class TestTuning:
    def test_starts_with_the_rounded_weights(self, runs, tuned, starts):
        """Those that training sees of what it starts with are those of the model that is rounded alone."""
        folder, _ = runs
        model, rounded = (load_model(folder / name / "model.safetensors") for name in ("32", "32-8bit"))
        start = starts[str(folder / "32")]
        assert_equal_leaves(start, model.params)
        seen = extras.fake_quantize(start, extras.choose_bits(start, model.network.matrices(start), 8))
        assert_equal_leaves(seen, rounded.params)
        assert_equal_leaves(*map(run_folder.read_split, (tuned, folder / "32")))

    def test_learns_with_the_rounding_in_view(self, runs, tuned):
        folder, summaries = runs
        rows, before = map(run_folder.read_metrics, (tuned, folder / "32"))
        assert len(rows) == 6
        assert rows[-1]["train_loss"] < before[-1]["train_loss"]
        summary = read_summary(tuned)
        assert summary.config == as_json(replace(CONFIG, **TUNING, start_from=str(folder / "32")))
        assert summary.trainable_bytes == summaries[328].trainable_bytes
        assert load_model(tuned / "model.safetensors").bits == 8

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
            ({"start_from": "nowhere"}, "--start-from: .*nowhere does not exist"),
        ],
    )
    def test_refuses_to_start_from(self, runs, tmp_path, changes, message):
        folder, _ = runs
        config = replace(CONFIG, **{"start_from": str(folder / "32")} | changes)
        with pytest.raises(RunError, match=message):
            train("digits", config, Options(workdir=tmp_path / "new"))
        assert not (tmp_path / "new").exists()


def test_rounding_keeps_the_accuracy_on_validation_images(runs):
    folder, summaries = runs
    opened = load_run(folder / "32-4bit")
    logits = opened.model.predictor()(opened.validation[0])
    assert summaries[324].validation_top1 == (logits.argmax(1) == opened.validation[1]).mean()


def test_refusals(runs, capsys, monkeypatch):
    folder, _ = runs

    def call(*args):
        status = run_command(Command, quantize, "experiments.quantize", "", list(map(str, args)))
        return status, capsys.readouterr().err

    status, message = call(folder / "32", "--bits", 8)
    assert (status, "32-8bit exists already" in message) == (1, True)
    with monkeypatch.context() as patch:
        patch.chdir(folder / "32")
        status, message = call(".", "--bits", 8)
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
    status, message = call(folder / "32", "--bits", 4, "--learning-rate", 0.1)
    assert (status, "--learning-rate needs --epochs, got 0" in message) == (2, True)
    for rate in ("nan", "inf", "0", "-0.1"):
        status, message = call(folder / "32", "--bits", 4, "--epochs", 1, "--learning-rate", rate)
        assert (status, "--learning-rate must be positive and finite, got" in message) == (2, True)
