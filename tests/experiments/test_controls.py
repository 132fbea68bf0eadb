"""Controls: ordinary kernels, and sums of frozen random ones."""

import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import puppet_jax as pj
from experiments.config import FrozenBasis, OneDepth, Ordinary, PuppetCNN
from experiments.model import Model, load_model, save_model
from experiments.networks.controls import (
    PER_BLOCK,
    FrozenKernels,
    OrdinaryKernels,
    frozen_kernels,
    frozen_macs,
    init_frozen,
    init_ordinary,
    ordinary_kernels,
    random_signs,
)

SHAPES = ((3, 3, 3, 16), (3, 3, 16, 16), (3, 3, 16, 32))
SIZES = [math.prod(shape) for shape in SHAPES]


class TestRandomSigns:
    def test_the_bits_are_fixed(self):
        signs = np.asarray(random_signs((1000,), seed=7, stream=3))
        digest = hashlib.sha256(signs.tobytes()).hexdigest()
        assert digest == "845058673a23365553003ca46b44784dff899907889f0fb3a49bf179d61df64d"

    def test_are_signs_without_a_preference(self):
        signs = np.asarray(random_signs((50, 1001), seed=0, stream=1))
        assert set(np.unique(signs)) == {-1, 1}
        assert abs(signs.mean()) < 4 / math.sqrt(signs.size)
        assert abs((signs[:, 1:] * signs[:, :-1]).mean()) < 4 / math.sqrt(signs.size)

    def test_seed_and_stream_matter(self):
        first, *others = (np.asarray(random_signs((4096,), *key)) for key in ((0, 0), (0, 1), (1, 0)))
        for other in others:
            assert abs((first * other).mean()) < 4 / math.sqrt(4096)


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


class TestFrozenBasis:
    def test_is_the_sum_of_signs_times_coefficients(self):
        shapes = jax.eval_shape(lambda key: init_frozen(key, SHAPES, 20 * PER_BLOCK, seed=5), jax.random.key(1))
        rng = np.random.default_rng(0)
        source = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
        sizes = [
            (*one.shape, -(-math.prod(shape) // len(one)))
            for one, shape in zip(source.coefficients, SHAPES, strict=True)
        ]

        @jax.jit
        def run(source):
            all_signs = [random_signs(size, 5, layer) for layer, size in enumerate(sizes)]
            return frozen_kernels(source, 1.0, SHAPES), all_signs

        for kernel, signs, coefficients, shape in zip(*run(source), source.coefficients, SHAPES, strict=True):
            expected = np.einsum("bk,bkw->bw", np.asarray(coefficients, np.float64), np.asarray(signs, np.float64))
            expected = expected.reshape(-1) * math.sqrt(2 / math.prod(shape[:-1])) / (0.1 * math.sqrt(PER_BLOCK))
            weights = np.asarray(kernel).reshape(-1)
            np.testing.assert_allclose(weights, expected[: len(weights)], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("blocks", [3, 4, 7, 50, 1000])
    def test_shares_all_coefficients_in_proportion(self, blocks):
        key = jax.random.key(0)
        source = jax.eval_shape(lambda: init_frozen(key, SHAPES, blocks * PER_BLOCK + PER_BLOCK - 1))
        counts = [len(one) for one in source.coefficients]
        assert sum(counts) == blocks
        assert min(counts) >= 1
        for count, size in zip(counts, SIZES, strict=True):
            assert abs(count - blocks * size / sum(SIZES)) <= 1 or count == 1 or blocks < 5

    def test_kernels_start_with_the_variance_of_he(self):
        shapes = [(3, 3, 64, 64)] * 2
        run = jax.jit(lambda key: frozen_kernels(init_frozen(key, shapes, 100 * PER_BLOCK), 1.0, shapes))
        for kernel in run(jax.random.key(0)):
            assert float(np.var(kernel)) == pytest.approx(2 / (9 * 64), rel=0.15)

    def test_too_few_coefficients(self):
        with pytest.raises(ValueError, match="3 kernels need at least 48 coefficients, got 32"):
            init_frozen(jax.random.key(0), SHAPES, 47)

    def test_macs(self):
        assert frozen_macs(SHAPES) == PER_BLOCK * sum(SIZES)


@pytest.fixture(
    scope="module", params=[Ordinary(), FrozenBasis(max_channels=32, pattern_seed=9)], ids=["ordinary", "frozen"]
)
def control(request):
    """Kernels, network and parameters."""
    config = PuppetCNN(channels=(8, 16), depth=OneDepth(layers=(2, 2)), kernels=request.param, affine=True)
    network = config.make(4, (8, 8, 3))
    return request.param, network, jax.jit(lambda: network.init(0, (4,)))()


class TestNetwork:
    def test_learns(self, control):
        kernels, network, params = control
        assert isinstance(params.puppeteer, OrdinaryKernels if isinstance(kernels, Ordinary) else FrozenKernels)
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
        own = weights if ordinary else (32**2 + 15 * 32) // PER_BLOCK * PER_BLOCK
        assert pj.num_floats(params) == own + affine + classifier
        assert pj.num_floats(network.generator(params)) == (0 if ordinary else own)

    def test_macs(self, control):
        kernels, network, params = control
        made, _ = network.macs(params, 4)
        assert made == (0 if isinstance(kernels, Ordinary) else frozen_macs(network.puppet.kernel_shapes(4)))

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
