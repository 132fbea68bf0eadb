"""The systems that the papers compare with: their sizes, and what each computes, against NumPy."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import puppet_jax as pj
from experiments.config import (
    DDF,
    DFN,
    DRNN,
    BranchyNet,
    Config,
    DenseDDF,
    HyperWRN,
    ODENet,
    ResNet8,
    SkipNet,
    Tiniest,
    WeightNet,
)
from experiments.errors import RunError
from experiments.networks import describe_network, read_network
from experiments.networks.baselines import branchynet, ddf, hypernetwork, odenet, skipnet, weightnet
from experiments.networks.baselines.dfn import DFN as DFNModule
from experiments.networks.module import flat
from experiments.training.run import _start

RECORDS = {
    "DFN": DFN(),
    "WeightNet": WeightNet(),
    "DDF, depthwise": DDF(),
    "DDF, dense": DenseDDF(),
    "BranchyNet": BranchyNet(),
    "SkipNet": SkipNet(),
    "DRNN": DRNN(),
    "ODE-Net": ODENet(),
    "WRN-40-2": HyperWRN(),
    "tiniest": Tiniest(),
    "tiniest, narrow": Tiniest(width=20),
    "ResNet-8": ResNet8(),
}
FLOATS = {
    "DFN": 18_971_402,
    "WeightNet": 11_468_154,
    "DDF, depthwise": 2_885_518,
    "DDF, dense": 75_081_485,
    "BranchyNet": 6_923_614,
    "SkipNet": 17_224_534,
    "DRNN": 11_445_266,
    "ODE-Net": 209_418,
    "WRN-40-2": 155_626,
    "tiniest": 97_530,
    "tiniest, narrow": 9_702,
    "ResNet-8": 78_186,
}
MACS = {"tiniest": 43_878_176, "ResNet-8": 12_501_632}  # published: 43.9 M, 12.5 M


@functools.cache
def network_of(name):
    return RECORDS[name].make(10, (32, 32, 3))


@pytest.mark.parametrize("name", RECORDS)
class TestEach:
    def test_floats(self, name):
        """To the digit; those of DDF fit no size that the papers print."""
        params = flat(network_of(name).abstract[1])
        assert pj.num_floats(params) == FLOATS[name]
        assert not any(leaf.weak_type for leaf in params.values())  # else the second step compiles anew

    def test_description(self, name):
        network = network_of(name)
        restored = read_network(json.loads(json.dumps(describe_network(network))))
        trained = {field.name for field in dataclasses.fields(network) if not field.metadata.get("stored", True)}
        assert dataclasses.replace(restored, **{one: getattr(network, one) for one in trained}) == network


@pytest.mark.parametrize("name", MACS)
def test_macs_are_those_that_are_published(name):
    network = network_of(name)
    params = jax.eval_shape(lambda: network.init(0, (1,)))
    assert network.macs(params, network.depth) == (0, MACS[name])


def test_resnet8_counts_as_published():
    """Keras counts 78,666 with the running statistics; 77,706 are left once norms are folded into convolutions."""
    network = network_of("ResNet-8")
    statistics = 2 * sum(one.mean.size for one in network.init_stats(0).values())
    assert FLOATS["ResNet-8"] + statistics == 78_666
    assert FLOATS["ResNet-8"] - statistics == 77_706


def normal(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def own_convolution(image, kernel, stride=1):
    """Of one image (height, width, c_in) with one kernel, padded by half of it; NumPy."""
    half = kernel.shape[0] // 2
    padded = np.pad(image, ((half, half), (half, half), (0, 0)))
    places = range(0, image.shape[0], stride), range(0, image.shape[1], stride)
    k = kernel.shape[0]
    return np.array(
        [[np.einsum("ijc,ijco->o", padded[y : y + k, x : x + k], kernel) for x in places[1]] for y in places[0]]
    )


class TestWeightNet:
    @pytest.fixture
    def layer(self):
        return weightnet.WeightNetConv(4, 3, stride=2, rngs=nnx.Rngs(0))

    def test_kernels(self, layer):
        """Average, two linear layers, sigmoid, and for each of 2 · 3 groups one activation times its weights."""
        x = normal(2, 4, 4, 4)
        for image, kernel in zip(np.asarray(x), layer.kernels(x), strict=True):
            hidden = image.mean(axis=(0, 1)) @ layer.reduce.kernel[...] + layer.reduce.bias[...]
            activations = 1 / (1 + np.exp(-(hidden @ layer.fc1.kernel[...] + layer.fc1.bias[...])))
            flat = np.concatenate([a * w for a, w in zip(activations, np.asarray(layer.fc2[...]), strict=True)])
            expected = flat.reshape(3, 4, 3, 3)
            np.testing.assert_allclose(kernel.transpose(3, 2, 0, 1), expected, rtol=1e-5, atol=1e-6)

    def test_convolves_each_image_with_its_kernels(self, layer):
        x = normal(2, 4, 4, 4)
        kernels = np.asarray(layer.kernels(x))
        assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
        for image, kernel, found in zip(np.asarray(x), kernels, layer(x), strict=True):
            np.testing.assert_allclose(found, own_convolution(image, kernel, 2), rtol=1e-4, atol=1e-5)

    def test_odd_channels(self):
        with pytest.raises(ValueError, match="even number of channels, got 5"):
            weightnet.WeightNetConv(5, 2, rngs=nnx.Rngs(0))


class TestDDF:
    def test_filter_norm(self):
        filters = np.random.default_rng(0).normal(size=(2, 3, 9))
        expected = np.empty_like(filters)
        for index in np.ndindex(2, 3):
            one = filters[index]
            deviation = math.sqrt(((one - one.mean()) ** 2).sum() / 8)
            expected[index] = (one - one.mean()) / (deviation + 1e-10)
        np.testing.assert_allclose(ddf.filter_norm(jnp.asarray(filters, jnp.float32)), expected, rtol=1e-4, atol=1e-6)

    def test_gradient_of_the_filter_norm(self):
        """A row's gradient has no mean and nothing along the row itself: neither level nor scale matters."""
        filters = normal(2, 9)
        slope = np.asarray(jax.grad(lambda x: (ddf.filter_norm(x) * normal(9, 2).T).sum())(filters))
        np.testing.assert_allclose(slope.sum(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose((slope * filters).sum(axis=1), 0, atol=1e-5)
        assert np.abs(slope).max() > 0.1

    def test_filters_that_are_all_the_same(self):
        """Nothing is left of them, and their gradient is finite."""
        filters = jnp.full((2, 9), 3.0)
        np.testing.assert_array_equal(ddf.filter_norm(filters), 0)
        assert np.isfinite(jax.grad(lambda x: ddf.filter_norm(x).sum())(filters)).all()

    @pytest.mark.parametrize("combine", ["mul", "add"])
    def test_filters(self, combine):
        """That of the channel, with a learned deviation a tap, and that of the image, with a fixed one."""
        layer = ddf.DDF(5, combine=combine, rngs=nnx.Rngs(0))
        layer.deviation[...] = jnp.abs(normal(5, 9))
        x = normal(2, 4, 4, 5)
        found = np.asarray(layer.filters(x))
        assert np.abs(found[0] - found[1]).max() > 1e-3
        for image, filters in zip(np.asarray(x), found, strict=True):
            pooled = image.mean(axis=(0, 1))
            hidden = np.maximum(pooled @ layer.squeeze.kernel[...] + layer.squeeze.bias[...], 0)
            channel = (hidden @ layer.emit.kernel[...] + layer.emit.bias[...]).reshape(5, 9)
            channel = np.asarray(ddf.filter_norm(channel)) * layer.deviation[...]
            image_filter = pooled @ layer.spatial.emit.kernel[...] + layer.spatial.emit.bias[...]
            image_filter = math.sqrt(2) / 3 * np.asarray(ddf.filter_norm(image_filter))[None]
            both = channel * image_filter if combine == "mul" else channel + image_filter
            np.testing.assert_allclose(filters.reshape(9, 5).T, both, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("stride", [1, 2])
    def test_dense_form_convolves_each_image_with_its_kernels(self, stride):
        layer = ddf.DenseDDF(64, 3, stride=stride, rngs=nnx.Rngs(0))
        x = normal(2, 4, 4, 64)
        kernels = np.asarray(layer.kernels(x))
        assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
        for image, kernel, found in zip(np.asarray(x), kernels, layer(x), strict=True):
            np.testing.assert_allclose(found, own_convolution(image, kernel, stride), rtol=1e-3, atol=1e-4)


def test_dfn_filters_differ_between_images():
    model = DFNModule(10, max_channels=8, rngs=nnx.Rngs(0))
    filters = np.asarray(model.filters(normal(2, 32, 32, 3)))
    assert filters.shape == (2, 8)
    assert np.abs(filters[0] - filters[1]).max() > 1e-4


class TestBranchyNet:
    def test_entropy(self):
        logits = np.random.default_rng(0).normal(0, 3, (5, 10))
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(branchynet.entropy(logits), -(p * np.log(p)).sum(axis=1), rtol=1e-10)
        assert branchynet.entropy(np.zeros((1, 10))) == pytest.approx(math.log(10))
        assert branchynet.entropy(np.float32([[1e5, 0, 0]])) == 0

    def test_thresholds(self):
        """Each exit sends half of what reaches it on; an image leaves at the first exit that is sure of it."""
        exits = np.random.default_rng(0).normal(0, 2, (3, 40, 10))
        thresholds = branchynet.thresholds_of(exits, 0.5)
        taken = branchynet.leave(exits, thresholds)
        assert np.bincount(taken).tolist() == [20, 10, 10]
        first = branchynet.entropy(exits[0])
        assert first[taken == 0].max() < thresholds[0] <= first[taken > 0].min()
        second = branchynet.entropy(exits[1])
        assert second[taken == 1].max() < thresholds[1] <= second[taken == 2].min()

    @pytest.mark.parametrize("thresholds", [(0.1,), (0.1, -0.1), (0.1, 2.4), (0.1, math.nan)])
    def test_thresholds_that_cannot_be(self, thresholds):
        with pytest.raises(ValueError, match=r"2 entropies in \[0, 2.303\] nats, got"):
            network_of("BranchyNet").predictor({}, {6: {}}, threshold=thresholds)

    def test_loss(self):
        network = dataclasses.replace(network_of("BranchyNet"), exit_weights=(0.5, 0.25, 1.0))
        logits, targets = normal(3, 4, 10), np.eye(10)[[3, 1, 4, 1]]
        loss, last = network.loss(tuple(logits), jnp.asarray(targets))
        p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        each = -np.log((p * targets).sum(axis=-1)).mean(axis=-1)
        assert float(loss) == pytest.approx(0.5 * each[0] + 0.25 * each[1] + each[2], rel=1e-5)
        np.testing.assert_array_equal(last, logits[2])


class TestSkipNet:
    def test_mixture(self):
        """The bypass where a gate is shut, the block where it is open, both in between."""
        block = skipnet._Block(4, 4, 1, nnx.Rngs(0))
        block.eval()
        x = normal(3, 4, 4, 4)
        residual = np.asarray(block.residual(x))
        g = np.array([0, 1, 0.25])[:, None, None, None]
        expected = g * np.maximum(residual + x, 0) + (1 - g) * np.asarray(x)
        np.testing.assert_allclose(skipnet.gated(block, x, jnp.asarray([0, 1, 0.25])), expected, rtol=1e-5, atol=1e-6)

    def test_returns(self):
        rng = np.random.default_rng(0)
        actions, losses = rng.integers(0, 2, (4, 5)).astype(float), rng.random(4)
        expected = np.array(
            [[-losses[n] + sum(0.1 / 5 * (1 - actions[n, j]) for j in range(i, 5)) for i in range(5)] for n in range(4)]
        )
        np.testing.assert_allclose(skipnet.returns(jnp.asarray(actions), jnp.asarray(losses), 0.1), expected, rtol=1e-5)

    def test_reinforcement_goes_on_from_a_supervised_run(self):
        config = Config(network=SkipNet(phase="reinforcement"))
        with pytest.raises(RunError, match="goes on from a supervised run; name its folder by --start-from"):
            _start(config, network_of("SkipNet"), (1,), {}, np.arange(3))

    def test_loss_of_the_reinforcement_phase(self):
        network = dataclasses.replace(network_of("SkipNet"), phase="reinforcement", reward=0.1, reward_weight=0.01)
        logits, targets = normal(2, 10), np.eye(10)[[3, 1]]
        log_probs, actions = -jnp.abs(normal(2, 5)), jnp.asarray([[1.0, 0, 1, 1, 0], [0, 0, 1, 0, 1]])
        loss, _ = network.loss(skipnet.SkipOutputs(logits, log_probs, actions), jnp.asarray(targets))
        each = -np.log((np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True) * targets).sum(axis=-1))
        gain = np.asarray(skipnet.returns(actions, jnp.asarray(each), 0.1))
        expected = each.mean() - 0.01 * (np.asarray(log_probs) * gain).sum(axis=1).mean()
        assert float(loss) == pytest.approx(expected, rel=1e-5)
        # a gate's gradient is its return: an action is made likelier by what it brought
        slope = jax.grad(lambda p: network.loss(skipnet.SkipOutputs(logits, p, actions), jnp.asarray(targets))[0])
        np.testing.assert_allclose(slope(log_probs), -0.01 * gain / 2, rtol=1e-4)


class TestODENet:
    @pytest.mark.slow
    def test_euler(self):
        """x <- x + f(x, t) / n: one kernel for n layers (figure 1b)."""
        model = odenet.ODENet(10, solver="euler", num_steps=3, rngs=nnx.Rngs(0))
        x = 0.1 * normal(2, 3, 3, 64)
        found, evaluations = model.solve(x)
        expected = x
        for step in range(3):
            expected = expected + model.derivative(step / 3, expected) / 3
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert np.asarray(evaluations).tolist() == [3, 3]

    @pytest.mark.slow
    def test_a_batch_is_solved_as_its_images(self):
        """In training in common steps, as many as the image that needs most; in predictions in steps of each image."""
        model = odenet.ODENet(10, rngs=nnx.Rngs(0))
        x = normal(3, 3, 3, 64) * jnp.asarray([0.001, 1, 30])[:, None, None, None]
        together, steps = model.solve_together(x)
        apart, evaluations = model.solve(x)
        np.testing.assert_allclose(together, apart, rtol=2e-2, atol=2e-2)  # both within the tolerance
        assert len(set(np.asarray(evaluations).tolist())) > 1  # easy images take fewer
        assert odenet.EVALUATIONS * steps + 1 == evaluations.max()
        slope = jax.grad(lambda x: model.solve_together(x)[0].sum())(0 * x)
        assert np.isfinite(slope).all()

    def test_derivative_sees_the_time(self):
        model = odenet.ODENet(10, rngs=nnx.Rngs(0))
        x = normal(1, 3, 3, 64)
        assert np.abs(model.derivative(0.0, x) - model.derivative(1.0, x)).max() > 1e-3


class TestHypernetwork:
    def test_kernel(self):
        """Block by block: values of each input channel from the embedding, then nine weights an output channel."""
        model = hypernetwork.Hypernetwork(nnx.Rngs(0))
        embeddings = normal(1, 2, 64)
        kernel = np.asarray(model(embeddings))
        assert kernel.shape == (3, 3, 16, 32)
        for b in range(2):
            for i in (0, 7, 15):
                hidden = np.asarray(embeddings)[0, b] @ np.asarray(model.hidden_kernel[...])[i]
                expected = (hidden @ np.asarray(model.out_kernel[...])).reshape(3, 3, 16)
                np.testing.assert_allclose(kernel[:, :, i, 16 * b : 16 * (b + 1)], expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("num_layers", [9, 12, 41])
    def test_numbers_of_layers_that_cannot_be(self, num_layers):
        with pytest.raises(ValueError, match="--num-layers must be"):
            HyperWRN(num_layers=num_layers)


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        (BranchyNet, {"fraction": 1.0}, r"--fraction must be in \(0, 1\), got 1.0"),
        (BranchyNet, {"exit_weights": (1.0, 1.0, 0.0)}, "--exit-weights must be .*the last positive"),
        (SkipNet, {"reward": -1.0}, "--reward must be at least 0"),
        (DRNN, {"num_loops": 1}, "--num-loops must be at least 2, got 1"),
        (DRNN, {"penalty": math.nan}, "--penalty must be"),
        (DDF, {"width": 0}, "--width must be at least 1, got 0"),
        (Tiniest, {"width": 0}, "--width must be at least 20, got 0"),
        (Tiniest, {"width": 50}, "--width must be a multiple of 20, got 50"),
        (ODENet, {"num_steps": 0}, "--num-steps must be at least 1, got 0"),
        (DFN, {"width": 0}, "--width must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(record, options, message):
    with pytest.raises(ValueError, match=message):
        record(**options)
