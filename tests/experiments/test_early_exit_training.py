"""A run with an early exit: what it trains, keeps and reports."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import puppet_jax as pj
from experiments.cli import run_command
from experiments.config import ByConfidence, Config, Data as DataConfig, Generated, OneDepth, Optim, Options, PuppetCNN
from experiments.data import load_dataset
from experiments.errors import RunError
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.evaluation import accuracy as evaluation
from experiments.evaluation.accuracy import accuracy
from experiments.fields import replace
from experiments.model import load_model, save_model
from experiments.networks import describe_network, read_network
from experiments.predict import Command as PredictCommand, predict
from experiments.quantize import Command as QuantizeCommand, quantize
from experiments.runs import folder as run_folder
from experiments.training.loop import chosen_epoch
from experiments.training.run import train
from experiments.training.step import Data, init_state, make_train_step, rounded
from experiments.training.validation import validated
from puppet_jax import extras

CONFIG = Config(
    network=PuppetCNN(
        channels=(8, 8),
        depth=ByConfidence(layers=(1, 1), exit_layer=1, fraction=0.3),
        kernels=Generated(),
        affine=True,
    ),
    data=DataConfig(num_images=640, num_validation=200),
    optim=Optim(epochs=3, batch_size=40, learning_rate=0.01),
)
ALONE = replace(CONFIG, depth=OneDepth(layers=(1, 1)))
N = 40


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits")


@pytest.fixture(autouse=True, scope="module")
def _untimed():
    with pytest.MonkeyPatch.context() as patch:
        names = ("latency_s", "latency_generating_s", "images_per_s")
        patch.setattr(evaluation, "speed", lambda *_, **__: dict.fromkeys(names, 1.0))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dataset):
    path = tmp_path_factory.mktemp("runs") / "confident"
    train("digits", CONFIG, Options(workdir=path), dataset)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder / run_folder.MODEL)


@pytest.fixture(scope="module")
def validation(folder, dataset):
    _, held = run_folder.read_split(folder)
    return dataset.train_images[held], dataset.train_labels[held]


@pytest.fixture(scope="module")
def batch(dataset):
    h = jnp.full(N, np.mean(pj.depth_interval(2)), jnp.float32)
    return Data(*map(jnp.asarray, (dataset.train_images[:N], dataset.train_labels[:N], h)))


@pytest.fixture(scope="module")
def steps(batch):
    """For both: parameters before and after, and the loss."""
    found = []
    for config, rate in ((CONFIG, 0.2), (ALONE, 0.1)):  # the mean of two losses has half of the gradient
        network = config.network.make(10, (8, 8, 1))
        tx = optax.sgd(rate)
        state = init_state(config, network, (2,), tx)
        before = jax.tree.map(np.array, state.params)  # a step takes the state's memory
        state, metrics = make_train_step(config, network, tx)(state, batch, jnp.arange(N), depth=2)
        found.append((before, state.params, float(metrics["loss"])))
    return found


class TestTraining:
    """One step of a puppet with an exit, and one of the puppet alone."""

    def test_both_classifiers_learn_in_every_step(self, batch, steps):
        (before, after, loss), (_, _, alone) = steps
        network = CONFIG.network.make(10, (8, 8, 1))
        apply = jax.jit(lambda params: network.apply(params, None, batch.images, batch.h[:1], 2))
        (early, _), _ = apply(before)
        early = float(optax.softmax_cross_entropy_with_integer_labels(early, batch.labels).mean())
        assert loss == pytest.approx((early + alone) / 2, rel=1e-5)
        assert abs(early - alone) > 1e-3
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), before.exit, after.exit)))

    def test_the_puppet_trains_as_it_would_alone(self, steps):
        (before, together, _), (_, single, _) = steps
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), together.puppet, single)
        assert max(jax.tree.leaves(moved)) < 1e-5
        there = before.puppet.puppeteer.pointwise_kernel
        assert np.abs(single.puppeteer.pointwise_kernel - there).max() > 1e-3


class TestRun:
    def test_the_fraction_that_was_asked_for_is_sent_on(self, model, validation):
        _, depths = model.predictor().route(validation[0])
        assert np.mean(depths == 2) == pytest.approx(CONFIG.network.depth.fraction, abs=0.01)

    def test_the_chosen_epoch_is_what_the_model_gives(self, folder, model, validation):
        chosen = chosen_epoch(run_folder.read_metrics(folder), len(validation[1]))["validation_top1"]
        assert accuracy(model.predictor()(validation[0]), validation[1])["top1"] == pytest.approx(chosen)

    def test_the_summary_counts_what_ran(self, folder, model, dataset):
        summary = json.loads((folder / run_folder.SUMMARY).read_text())
        logits, depths = model.predictor().route(dataset.test_images)
        assert summary["top1"] == pytest.approx(accuracy(logits, dataset.test_labels)["top1"])
        counts = {str(depth): int(np.sum(depths == depth)) for depth in (1, 2)}
        assert summary["depth_counts"] == counts
        first, second, classifier = 9 * 8 * 8 * 8, 9 * 8 * 8 * 4 * 4, 8 * 10  # taps, channels, pixels
        mean = first + classifier + (second + classifier) * counts["2"] / len(depths)
        assert summary["puppet_macs"] == round(mean)

    def test_evaluate_repeats_it(self, folder):
        path = folder / run_folder.SUMMARY
        before = json.loads(path.read_text())
        assert run_command(EvaluateCommand, evaluate, "experiments.evaluate", "", [str(folder)]) == 0
        after = json.loads(path.read_text())
        for name in ("top1", "loss", "depth_counts"):
            assert before[name] == after[name]

    def test_evaluate_refuses_kernels_of_each_image(self, folder, capsys):
        argv = [str(folder), "--adaptation", "sample"]
        assert run_command(EvaluateCommand, evaluate, "experiments.evaluate", "", argv) == 1
        assert f"the kernels of {folder} do not follow the image; leave out --adaptation" in capsys.readouterr().err

    def test_predict_says_how_deep(self, folder, dataset, model, tmp_path, capsys):
        _, depths = model.predictor().route(dataset.test_images[:20])
        chosen = [int(np.flatnonzero(depths == depth)[0]) for depth in (1, 2)]
        paths = [str(tmp_path / f"{i}.npy") for i in chosen]
        for path, i in zip(paths, chosen, strict=True):
            np.save(path, dataset.test_images[i])
        assert run_command(PredictCommand, predict, "experiments.predict", "", [str(folder), *paths]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.rsplit(", ", 1)[1] for line in lines] == ["depth 1 (by confidence)", "depth 2 (by confidence)"]

    def test_the_library_reads_it(self, folder, dataset, model):
        predictor = extras.load_early_exit(folder / run_folder.MODEL)
        assert isinstance(predictor, extras.EarlyExitPredictor)
        assert predictor.threshold == model.threshold
        images = dataset.test_images[:50]
        for found, expected in zip(predictor.route(images), model.predictor().route(images), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)
        with pytest.raises(ValueError, match="load_early_exit reads it"):
            pj.load_pretrained(folder / run_folder.MODEL)

    def test_a_file_without_its_threshold_is_refused(self, folder, tmp_path):
        path = tmp_path / "model.safetensors"
        with safe_open(folder / run_folder.MODEL, framework="numpy") as file:
            meta = json.loads(file.metadata()["puppet_jax"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        absent = {name: value for name, value in meta.items() if name != "threshold"}
        for stored in (absent, meta | {"threshold": None}):
            save_file(arrays, path, metadata={"puppet_jax": json.dumps(stored)})
            with pytest.raises(RunError, match="threshold"):
                load_model(path)
            with pytest.raises(ValueError, match="threshold"):
                extras.load_early_exit(path)

    def test_a_file_of_few_bits_keeps_the_threshold(self, model, tmp_path):
        params = rounded(replace(CONFIG, bits=8), model.network, model.params)
        save_model(tmp_path / "few", dataclasses.replace(model, params=params, bits=8))
        few = load_model(tmp_path / "few")
        assert (few.threshold, few.bits, sorted(few.batch_stats)) == (model.threshold, 8, [2])
        jax.tree.map(np.testing.assert_array_equal, few.params, params)

    @pytest.mark.slow
    def test_few_bits_have_a_threshold_of_their_own(self, folder, model, validation, tmp_path):
        argv = [str(folder), "--bits", "8", "--workdir", str(tmp_path / "few")]
        assert run_command(QuantizeCommand, quantize, "experiments.quantize", "", argv) == 0
        few = load_model(tmp_path / "few" / run_folder.MODEL)
        assert (few.bits, sorted(few.batch_stats)) == (8, [2])
        network = CONFIG.network.make(10, (8, 8, 1))  # a file does not hold the fraction
        again, _ = validated(dataclasses.replace(few, network=network), *validation, np.ones(len(validation[1])))
        assert few.threshold == pytest.approx(again.threshold, abs=1e-6) != model.threshold

    def test_the_network_is_read_as_it_was(self, model):
        assert read_network(json.loads(json.dumps(describe_network(model.network)))) == model.network

    def test_validation_decides_the_threshold(self, model, validation):
        untold = dataclasses.replace(model, network=CONFIG.network.make(10, (8, 8, 1)), threshold=None)
        found, _ = validated(untold, *validation, pj.complexities(validation[0], model.complexity))
        assert found.threshold == pytest.approx(model.threshold, abs=1e-6)

    def test_logits_that_are_no_numbers_are_told(self, model, validation, monkeypatch):
        """The loop refuses a validation loss that is not finite."""
        exits = extras.EarlyExitPredictor.exits
        monkeypatch.setattr(extras.EarlyExitPredictor, "exits", lambda self, images: exits(self, images) * np.nan)
        untold = dataclasses.replace(model, network=CONFIG.network.make(10, (8, 8, 1)), threshold=None)
        _, found = validated(untold, *validation, np.ones(len(validation[1]), np.float32))
        assert np.isnan(found["loss"])
