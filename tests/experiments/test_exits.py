"""A run whose depth follows doubt: what it trains, keeps and reports."""

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
from experiments import evaluation, run_folder
from experiments.cli import run_command
from experiments.config import Config, Options
from experiments.data import load_dataset
from experiments.errors import RunError
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.evaluation import accuracy
from experiments.model_file import load_model
from experiments.networks import make_network, read_network
from experiments.predict import Command as PredictCommand, predict
from experiments.quantize import Command as QuantizeCommand, quantize
from experiments.run import chosen_epoch, train
from experiments.training import Data, init_state, make_optimizer, make_stats_estimator, make_train_step

CONFIG = Config(
    channels=(8, 8), adapt="doubt", spread=(1, 2), deep_share=0.3, affine=True, num_levels=1, num_images=640,
    num_validation=200, epochs=3, batch_size=40, learning_rate=0.01,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits", None, "auto")


@pytest.fixture(autouse=True, scope="module")
def _untimed():
    with pytest.MonkeyPatch.context() as patch:
        names = ("latency_s", "latency_generating_s", "images_per_s")
        patch.setattr(evaluation, "speed", lambda *_, **__: dict.fromkeys(names, 1.0))
        yield


@pytest.fixture(scope="module", params=[False, True], ids=["shared", "own exit"])
def folder(request, tmp_path_factory, dataset):
    """Of a run of two puppets that share all floats, and of one whose shallow puppet has some of its own."""
    path = tmp_path_factory.mktemp("runs") / "doubt"
    train("digits", dataclasses.replace(CONFIG, own_exit=request.param), Options(workdir=path), dataset)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder / run_folder.MODEL)


@pytest.fixture
def validation(folder, dataset):
    _, held = run_folder.read_split(folder)
    return dataset.train_images[held], dataset.train_labels[held]


class TestTraining:
    @pytest.mark.parametrize(("weight", "own_exit"), [(1.0, False), (0.25, False), (1.0, True)])
    def test_both_depths_learn_in_every_step(self, dataset, weight, own_exit):
        config = dataclasses.replace(CONFIG, shallow_weight=weight, own_exit=own_exit)
        network = make_network(config, 10, dataset.train_images.shape[1:])
        tx = make_optimizer(config, network, 10)
        state = init_state(config, network, (2,), tx)
        h = float(pj.slice_centre(np.zeros(1), 2, 1)[0])
        data = Data(dataset.train_images[:40], dataset.train_labels[:40], np.full(40, h, np.float32))
        kernels = pj.generate_kernels(state.params.puppeteer, h, network.puppet.kernel_shapes(2))
        losses = []
        for depth in config.spread:
            logits, _ = pj.apply_puppet(network.puppet, state.params, None, kernels, data.images, depth)
            losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, data.labels).mean())
        step = make_train_step(config, network, tx)
        _, metrics = step(state, Data(*map(jnp.asarray, data)), jnp.arange(40), depth=2)
        mean = (weight * float(losses[0]) + float(losses[1])) / (weight + 1)
        assert float(metrics["loss"]) == pytest.approx(mean, rel=1e-5)
        assert abs(float(losses[0] - losses[1])) > 1e-3

    def test_a_detached_exit_leaves_the_deep_puppet_as_it_would_be_alone(self, dataset):
        config = dataclasses.replace(CONFIG, own_exit=True, detach_exit=True)
        alone = dataclasses.replace(CONFIG, adapt="none", spread=(2, 2))
        h = float(pj.slice_centre(np.zeros(1), 2, 1)[0])
        data = Data(*map(jnp.asarray, (dataset.train_images[:40], dataset.train_labels[:40], jnp.full(40, h))))
        stepped = []
        for one, rate in ((config, 0.2), (alone, 0.1)):  # the mean of two losses has half of the gradient
            network = make_network(one, 10, dataset.train_images.shape[1:])
            tx = optax.sgd(rate)
            state = init_state(one, network, (2,), tx)
            before = jax.tree.map(np.array, state.params)  # a step takes the state's memory
            state, _ = make_train_step(one, network, tx)(state, data, jnp.arange(40), depth=2)
            stepped.append(state.params)
            assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), before.exit, state.params.exit)))
        together, single = stepped
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), dataclasses.replace(together, exit=None), single)
        assert max(jax.tree.leaves(moved)) < 1e-5
        assert np.abs(single.puppeteer.pointwise_kernel - before.puppeteer.pointwise_kernel).max() > 1e-3

    def test_statistics_of_both_depths_come_from_the_same_batches(self, dataset):
        network = make_network(CONFIG, 10, dataset.train_images.shape[1:])
        params = network.init(0, (2,))
        h = pj.slice_centre(np.zeros(80), 2, 1).astype(np.float32)
        data = Data(*map(jnp.asarray, (dataset.train_images[:80], dataset.train_labels[:80], h)))
        batches = [(2, np.arange(40, dtype=np.int32)), (2, np.arange(40, 80, dtype=np.int32))]
        stats = make_stats_estimator(CONFIG, network)(params, data, batches)
        assert sorted(stats) == [1, 2]
        assert [len(stats[depth]) for depth in (1, 2)] == [2, 4]
        jax.tree.map(np.testing.assert_array_equal, stats[1][0], stats[2][0])  # a shared layer


class TestRun:
    def test_the_share_that_was_asked_for_goes_on(self, model, validation):
        _, depths = model.predictor().route(validation[0])
        assert np.mean(depths == 2) == pytest.approx(CONFIG.deep_share, abs=0.01)

    def test_the_chosen_epoch_is_what_the_model_gives(self, folder, model, validation):
        chosen = chosen_epoch(run_folder.read_metrics(folder), len(validation[1]))["validation_top1"]
        assert accuracy(model.predictor()(validation[0]), validation[1])["top1"] == pytest.approx(chosen)

    def test_the_summary_counts_what_ran(self, folder, model, dataset):
        summary = json.loads((folder / run_folder.SUMMARY).read_text())
        logits, depths = model.predictor().route(dataset.test_images)
        assert summary["top1"] == pytest.approx(accuracy(logits, dataset.test_labels)["top1"])
        counts = {str(depth): int(np.sum(depths == depth)) for depth in (1, 2)}
        assert summary["depth_counts"] == counts
        puppet, size = model.network.puppet, (8, 8)
        shared = puppet.shared_layers(1, 2)
        on = pj.puppet_macs(puppet, 2, size, first=shared)
        mean = pj.puppet_macs(puppet, 1, size) + on * counts["2"] / len(depths)
        assert summary["puppet_macs"] == round(mean)

    def test_evaluate_repeats_it(self, folder):
        path = folder / run_folder.SUMMARY
        before = json.loads(path.read_text())
        assert run_command(EvaluateCommand, evaluate, "experiments.evaluate", "", [str(folder)]) == 0
        after = json.loads(path.read_text())
        assert {name: before[name] for name in ("top1", "loss", "depth_counts")} == {
            name: after[name] for name in ("top1", "loss", "depth_counts")
        }

    def test_evaluate_refuses_kernels_of_each_image(self, folder, capsys):
        argv = [str(folder), "--adaptation", "sample"]
        assert run_command(EvaluateCommand, evaluate, "experiments.evaluate", "", argv) == 1
        assert "has one set of kernels a depth (--adapt doubt); leave out --adaptation" in capsys.readouterr().err

    def test_predict_says_how_deep(self, folder, dataset, model, tmp_path, capsys):
        _, depths = model.predictor().route(dataset.test_images[:20])
        chosen = [int(np.flatnonzero(depths == depth)[0]) for depth in (1, 2)]
        paths = [str(tmp_path / f"{i}.npy") for i in chosen]
        for path, i in zip(paths, chosen, strict=True):
            np.save(path, dataset.test_images[i])
        assert run_command(PredictCommand, predict, "experiments.predict", "", [str(folder), *paths]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.rsplit(", ", 1)[1] for line in lines] == ["depth 1", "depth 2"]
        assert "complexity" not in lines[0]

    def test_load_pretrained_reads_it(self, folder, dataset, model):
        loaded = pj.load_pretrained(folder / run_folder.MODEL)
        assert loaded.threshold == model.threshold
        predictor = loaded.predictor()
        assert isinstance(predictor, pj.EarlyExitPredictor)
        x = dataset.test_images[:50]
        for found, expected in zip(predictor.route(x), model.predictor().route(x), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_a_file_without_its_threshold_is_refused(self, folder, tmp_path):
        path = tmp_path / "model.safetensors"
        with safe_open(folder / run_folder.MODEL, framework="numpy") as file:
            meta = json.loads(file.metadata()["puppet_jax"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        del meta["threshold"]
        save_file(arrays, path, metadata={"puppet_jax": json.dumps(meta)})
        with pytest.raises(RunError, match="damaged or no model"):
            load_model(path)
        with pytest.raises(ValueError, match="damaged or no model"):
            pj.load_pretrained(path)

    def test_few_bits_keep_the_threshold(self, folder, model, tmp_path):
        argv = [str(folder), "--bits", "8", "--workdir", str(tmp_path / "few")]
        assert run_command(QuantizeCommand, quantize, "experiments.quantize", "", argv) == 0
        few = load_model(tmp_path / "few" / run_folder.MODEL)
        assert (few.threshold, few.bits, sorted(few.batch_stats)) == (model.threshold, 8, [1, 2])

    def test_the_network_is_read_as_it_was(self, model):
        assert read_network(json.loads(json.dumps(model.network.describe()))) == model.network


def test_logits_that_are_no_numbers_are_told(dataset, tmp_path, monkeypatch):
    exits = pj.EarlyExitPredictor.exits
    monkeypatch.setattr(pj.EarlyExitPredictor, "exits", lambda self, images: exits(self, images) * np.nan)
    with pytest.raises(RunError, match="the validation loss became nan after step 16"):
        train("digits", CONFIG, Options(workdir=tmp_path / "run"), dataset)
    assert not (tmp_path / "run" / run_folder.MODEL).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spread": None}, "--spread must be two depths, LOW < HIGH, with --adapt doubt, got None"),
        ({"spread": (2, 2)}, r"--spread must be two depths, LOW < HIGH, with --adapt doubt, got \(2, 2\)"),
        ({"deep_share": 0.0}, r"--deep-share must be in \(0, 1\), got 0.0"),
        ({"deep_share": 1.0}, r"--deep-share must be in \(0, 1\), got 1.0"),
        ({"shallow_weight": 0.0}, "--shallow-weight must be positive and finite, got 0.0"),
        ({"mix_depths": True}, "--mix-depths must be left out"),
        ({"adapt": "none", "spread": (2, 2), "own_exit": True}, "--own-exit must be left out unless --adapt is doubt"),
        ({"detach_exit": True}, "--detach-exit must be left out unless --own-exit is given, got True"),
        ({"kernels": "stored"}, "--adapt must be none for --network puppet with stored kernels"),
        ({"network": "vgg", "spread": None}, "--adapt must be parameters or none for --network vgg"),
    ],
)
def test_configurations_that_mean_nothing(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_depths_of_the_same_puppet_are_refused():
    config = dataclasses.replace(CONFIG, channels=(8, 8, 8), depth_rule="total", spread=(1, 3))
    with pytest.raises(ValueError, match="puppets of depths 1 and 3 are the same"):
        make_network(config, 10, (8, 8, 1))
