"""Controls: ordinary kernels, and other generators than a puppeteer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick

import puppet_jax as pj
from experiments.config import FrozenBasis, OneDepth, Ordinary, OtherGenerator, PuppetCNN
from experiments.model import Model, load_model, save_model
from experiments.networks.controls import OrdinaryKernels, init_ordinary, ordinary_kernels
from puppet_jax.extras.generators.frozen_basis import PER_BLOCK, FrozenKernels

SHAPES = ((3, 3, 3, 16), (3, 3, 16, 16), (3, 3, 16, 32))
SIZES = [math.prod(shape) for shape in SHAPES]
OTHERS = ("low_rank", "inverse_dct", "hypernetwork", "shared")


class TestOrdinary:
    SOURCE = OrdinaryKernels(kernels=tuple(jnp.zeros(shape) for shape in SHAPES))

    def test_are_what_is_stored(self):
        for kernel, stored in zip(ordinary_kernels(self.SOURCE, 1.0, SHAPES), self.SOURCE.kernels, strict=True):
            assert kernel is stored
        assert pj.num_floats(self.SOURCE) == sum(SIZES)

    def test_start_with_the_variance_of_he(self):
        (kernel,) = init_ordinary(jax.random.key(0), [(3, 3, 32, 64)]).kernels
        assert kernel.shape == (3, 3, 32, 64)
        assert float(kernel.var()) == pytest.approx(2 / (9 * 32), rel=0.05)

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="were asked for, but the model has those of"):
            ordinary_kernels(self.SOURCE, 1.0, SHAPES[:2])


KERNELS = {
    "ordinary": Ordinary(),
    "frozen": FrozenBasis(max_channels=32, pattern_seed=9),
    **{name: OtherGenerator(generator=name, max_channels=32, pattern_seed=9) for name in OTHERS},
}


@pytest.fixture(scope="module", params=quick(KERNELS, "ordinary", "frozen", "low_rank"))
def control(request):
    """Kernels, network and parameters."""
    kernels = KERNELS[request.param]
    config = PuppetCNN(channels=(8, 16), depth=OneDepth(layers=(2, 2)), kernels=kernels, affine=True)
    network = config.make(4, (8, 8, 3))
    return kernels, network, jax.jit(lambda: network.init(0, (4,)))()


class TestNetwork:
    def test_learns(self, control):
        kernels, network, params = control
        assert isinstance(params.puppeteer, OrdinaryKernels) == isinstance(kernels, Ordinary)
        assert isinstance(params.puppeteer, FrozenKernels) == (type(kernels) is FrozenBasis)
        images = jax.random.uniform(jax.random.key(1), (16, 8, 8, 3))
        labels = jnp.arange(16) % 4

        @jax.jit
        def step(params):
            def loss(params):
                logits, _ = network.apply(params, None, images, jnp.full(1, 4.5), 4)
                return -jax.nn.log_softmax(logits)[jnp.arange(16), labels].mean()

            value, grads = jax.value_and_grad(loss)(params)
            return value, jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), grads

        losses = []
        for _ in range(10):
            loss, params, grads = step(params)
            losses.append(float(loss))
        assert losses[-1] < losses[0] - 0.05
        assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grads.puppeteer))

    def test_stored_size(self, control):
        kernels, network, params = control
        ordinary = isinstance(kernels, Ordinary)
        weights = 9 * (3 * 8 + 8 * 8 + 8 * 16 + 16 * 16)
        affine, classifier = 2 * (2 * 8 + 2 * 16), 16 * 4 + 4
        own = pj.num_floats(params) - affine - classifier
        if ordinary:
            assert own == weights
        elif type(kernels) is FrozenBasis:
            assert own == (32**2 + 15 * 32) // PER_BLOCK * PER_BLOCK
        else:
            assert 0.9 * (32**2 + 15 * 32) < own <= 32**2 + 15 * 32
        assert pj.num_floats(network.generator(params)) == (0 if ordinary else own)

    def test_macs(self, control):
        kernels, network, params = control
        made, _ = network.macs(params, 4)
        weights = sum(map(math.prod, network.puppet.kernel_shapes(4)))
        if isinstance(kernels, Ordinary) or getattr(kernels, "generator", "") == "shared":
            assert made == 0
        elif type(kernels) is FrozenBasis:
            sizes = map(math.prod, network.puppet.kernel_shapes(4))
            blocks = [len(one) for one in params.puppeteer.coefficients]
            padded = [count * -(-size // count) for count, size in zip(blocks, sizes, strict=True)]
            assert made == PER_BLOCK * sum(padded)
        else:
            assert made > weights

    def test_round_trip_through_a_file(self, control, tmp_path):
        _, network, params = control
        model = Model(
            network=network,
            params=params,
            batch_stats={4: network.init_stats(4)},
            class_names=tuple("abcd"),
            adaptation="level",
            num_levels=1,
            complexity=pj.CalibratedComplexity(0.0, 4.5),
            step=1,
        )
        save_model(tmp_path / "model", model)
        loaded = load_model(tmp_path / "model")
        assert loaded.network == network
        jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
        if network.kernels == "ordinary":  # else made anew of equal coefficients, which takes long
            images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
            np.testing.assert_array_equal(loaded.predictor()(images), model.predictor()(images))
