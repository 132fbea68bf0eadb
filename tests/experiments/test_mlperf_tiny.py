"""Peak memory of activations against closed forms; the images of MLPerf Tiny; the command."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import graded_images, make_model

import puppet_jax as pj
from experiments import data
from experiments.config import Generated, Puppetized, ResNet8
from experiments.data import load_dataset
from experiments.data.dataset import Dataset
from experiments.errors import RunError
from experiments.evaluation.activations import peak_activations
from experiments.evaluation.mlperf_tiny import measure, subset
from experiments.mlperf_tiny import Command, compare
from experiments.model import load_model, save_model
from puppet_jax.convolution import convolve_same

IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
SIZE = 8 * 8 * 4


def conv(x, c_out=4):
    return convolve_same(x, jnp.ones((3, 3, x.shape[-1], c_out)))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: jnp.tanh(x * 2 + 1), SIZE),
        (lambda x: conv(x), 2 * SIZE),
        (lambda x: conv(jax.nn.relu(conv(x, 8) + 1), 4), 3 * SIZE),
        (lambda x: conv(conv(x)), 2 * SIZE),
        (lambda x: x + conv(x), 2 * SIZE),
        (lambda x: x + conv(conv(x)), 3 * SIZE),
        (lambda x: jax.nn.relu(x) + jax.nn.relu(x), 2 * SIZE),
        (lambda x: conv(jnp.ones((1, 8, 8, 4)), 64).sum() + x, SIZE),
        (lambda x: jnp.dot(x.reshape(1, -1), jnp.ones((SIZE, 7))), SIZE + 7),
    ],
    ids=["in-place", "one", "wide", "chain", "residual", "residual-of-two", "read-again", "weights-alone", "product"],
)
def test_peak_activations(function, expected):
    assert peak_activations(function, IMAGE) == expected
    assert peak_activations(jax.jit(function), IMAGE) == expected


def test_the_same_program_called_twice():
    layer = jax.jit(lambda x: conv(x))
    assert peak_activations(lambda x: x + layer(layer(x)), IMAGE) == 3 * SIZE


def test_resnet8_holds_three_maps_of_its_first_stage():
    """A block's input, the map within it and its result; as MLPerf Tiny's model, 16 channels of 32 x 32 each."""
    network = ResNet8().make(10, (32, 32, 3))
    params, stats = network.init(0, (1,)), network.init_stats(1)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    found = peak_activations(lambda x: network.apply(params, stats, x, jnp.ones(1), 1)[0], image)
    assert found == 3 * 16 * 32 * 32


def test_subset():
    labels = np.random.default_rng(0).permutation(np.arange(10_000) % 10)
    places = subset(labels)
    assert len(set(places.tolist())) == 200
    np.testing.assert_array_equal(np.bincount(labels[places]), 20)


@pytest.mark.data
def test_subset_is_that_of_the_benchmark(cifar10_dir):
    """Its first labels, as y_labels.csv of mlcommons/tiny has them."""
    labels = load_dataset("cifar10", cifar10_dir).test_labels
    np.testing.assert_array_equal(labels[subset(labels)[:12]], [2, 1, 2, 5, 0, 4, 5, 4, 1, 3, 0, 5])


class TestCommand:
    @pytest.fixture
    def model_file(self, tmp_path):
        save_model(tmp_path / "model.safetensors", make_model())
        return str(tmp_path / "model.safetensors")

    @pytest.fixture
    def dataset(self, monkeypatch):
        """As many images as CIFAR-10 has, whose classes go round."""
        count = 10_000
        images = graded_images(100)[np.arange(count) % 100]
        found = Dataset(
            name="cifar10",
            train_images=images[:1],
            train_labels=np.zeros(1, np.int32),
            test_images=images,
            test_labels=np.arange(count, dtype=np.int32) % 10,
            class_names=tuple("0123456789"),
            source="made up",
        )
        monkeypatch.setattr(data, "load_dataset", lambda *_: found)
        return found

    def test_table(self, model_file, dataset, tmp_path, capsys):
        compare(Command(models=(model_file,), out=tmp_path / "out"))
        (row,) = json.loads((tmp_path / "out" / "mlperf_tiny.json").read_text())["rows"]
        model = load_model(Path(model_file))
        classes = model.predictor()(dataset.test_images).argmax(-1)
        right = classes == dataset.test_labels
        assert row["top1"] == pytest.approx(right.mean())
        assert row["subset_top1"] == pytest.approx(right[subset(dataset.test_labels)].mean())
        assert row["bytes"] == pj.num_bytes(model.params)
        assert row["activation_bytes"] == 2 * 8 * 8 * 4  # what the second layer reads and makes
        assert row["kernel_bytes"] == 9 * (1 * 4 + 4 * 4 + 4 * 8 + 8 * 8)
        assert row["state_bytes"] == 4 * 9 * 8**2
        assert model_file in capsys.readouterr().out

    def test_a_network_of_layers(self, model_file):
        """The first convolution, three blocks of 1, 2 and 4 channels, their shortcuts and the classifier."""
        puppet = load_model(Path(model_file))
        network = Puppetized(plain=ResNet8(width=4), kernels=Generated(max_channels=4)).make(10, (8, 8, 1))
        model = dataclasses.replace(
            puppet, network=network, params=network.init(0, (1,)), batch_stats={1: network.init_stats(1)}
        )
        row = measure("layers", model, graded_images(100).repeat(2, 0), np.arange(200) % 10)
        assert row["kernel_bytes"] == 9 * (1 + 2 + (2 + 4) + (8 + 16)) + (2 + 8) + 4 * 10
        assert row["state_bytes"] == 4 * 9 * 4**2

    def test_other_classes_are_refused(self, model_file, dataset, monkeypatch):
        other = dataclasses.replace(dataset, class_names=tuple("abcdefghij"))
        monkeypatch.setattr(data, "load_dataset", lambda *_: other)
        with pytest.raises(RunError, match="knows the classes 0, 1, 2"):
            compare(Command(models=(model_file,)))

    def test_another_number_of_images_is_refused(self, model_file, dataset, monkeypatch):
        fewer = dataclasses.replace(dataset, test_labels=dataset.test_labels[:50], test_images=dataset.test_images[:50])
        monkeypatch.setattr(data, "load_dataset", lambda *_: fewer)
        with pytest.raises(RunError, match="among 10,000 test images, and made up has 50"):
            compare(Command(models=(model_file,)))
