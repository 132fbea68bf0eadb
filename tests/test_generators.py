"""Generators other than the puppeteer, against plain NumPy."""

import dataclasses
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

import puppet_jax as pj
from puppet_jax.extras.generators import FrozenBasis, Hypernetwork, InverseDCT, LowRank, Shared
from puppet_jax.extras.generators.frozen_basis import PER_BLOCK
from puppet_jax.extras.generators.pieces import random_signs, random_words

SHAPES = ((3, 3, 3, 16), (3, 3, 16, 16), (1, 1, 16, 32))
SIZES = [math.prod(shape) for shape in SHAPES]
KINDS = {
    "frozen basis": FrozenBasis,
    "hypernetwork": Hypernetwork,
    "inverse DCT": InverseDCT,
    "low rank": LowRank,
    "shared": Shared,
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def generator(request):
    return request.param(num_floats=600)


class TestAll:
    def test_is_a_generator(self, generator):
        assert isinstance(generator, pj.Generator) and hash(generator) == hash(dataclasses.replace(generator))

    def test_shapes_and_floats(self, generator):
        def make(key):
            params = generator.init(key, SHAPES)
            return params, generator.generate(params, 4.5, SHAPES)

        params, kernels = jax.eval_shape(make, jax.random.key(0))
        assert 0.85 * 600 < pj.num_floats(params) <= 600
        assert tuple(kernel.shape for kernel in kernels) == SHAPES
        assert all(kernel.dtype == jnp.float32 for kernel in kernels)

    def test_floats_take_four_bytes_in_any_program(self, generator):
        with jax.enable_x64(True):
            params = generator.init(jax.random.key(0), SHAPES)
            assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
            assert pj.num_bytes(params) == 4 * pj.num_floats(params)

    @pytest.mark.parametrize("kind", [FrozenBasis, Shared])
    @pytest.mark.parametrize("seed", [-1, 2**32])
    def test_a_seed_is_a_word(self, kind, seed):
        with pytest.raises(ValueError, match=f"seed must be at (least 0|most 4294967295), got {seed}"):
            kind(num_floats=600, seed=seed)

    def test_kernels_start_with_about_the_variance_of_he(self, generator):
        shapes = [(3, 3, 32, 32)] * 3
        make = jax.jit(lambda key: jnp.stack(generator.generate(generator.init(key, shapes), 4.5, shapes)))
        squares = [np.square(make(key)) for key in jax.random.split(jax.random.key(0), 30)]
        assert np.mean(squares) == pytest.approx(2 / (9 * 32), rel=0.5)

    def test_every_float_has_a_gradient(self, generator):
        params = generator.init(jax.random.key(1), SHAPES)
        probes = [jnp.cos(jnp.arange(math.prod(shape), dtype=jnp.float32)).reshape(shape) for shape in SHAPES]

        def loss(params):
            kernels = generator.generate(params, 4.5, SHAPES)
            return sum(jnp.vdot(kernel, probe) for kernel, probe in zip(kernels, probes, strict=True))

        slopes = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
        assert np.mean(np.concatenate([np.ravel(slope) != 0 for slope in slopes])) > 0.95

    def test_same_key_same_kernels(self, generator):
        make = jax.jit(lambda key: generator.generate(generator.init(key, SHAPES), 4.5, SHAPES)[1])
        kernels = [make(jax.random.key(key)) for key in (0, 0, 1)]
        np.testing.assert_array_equal(kernels[0], kernels[1])
        assert np.abs(kernels[0] - kernels[2]).max() > 0.01

    def test_too_few_floats(self, generator):
        few = dataclasses.replace(generator, num_floats=0)
        with pytest.raises(ValueError, match="num_floats must be at least"):
            few.init(jax.random.key(0), SHAPES)

    def test_other_kernels_are_refused(self, generator):
        if isinstance(generator, Shared):
            pytest.skip("any kernels share the floats")
        params = generator.init(jax.random.key(0), SHAPES)
        with pytest.raises(ValueError, match="were asked for|was asked for"):
            generator.generate(params, 4.5, SHAPES[:2])


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


class TestFrozenBasis:
    def test_is_the_sum_of_signs_times_coefficients(self):
        generator = FrozenBasis(num_floats=20 * PER_BLOCK, seed=5)
        shapes = jax.eval_shape(lambda key: generator.init(key, SHAPES), jax.random.key(1))
        rng = np.random.default_rng(0)
        source = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
        sizes = [
            (*one.shape, -(-math.prod(shape) // len(one)))
            for one, shape in zip(source.coefficients, SHAPES, strict=True)
        ]

        @jax.jit
        def run(source):
            all_signs = [random_signs(size, 5, layer) for layer, size in enumerate(sizes)]
            return generator.generate(source, 1.0, SHAPES), all_signs

        for kernel, signs, coefficients, shape in zip(*run(source), source.coefficients, SHAPES, strict=True):
            expected = np.einsum("bk,bkw->bw", np.asarray(coefficients, np.float64), np.asarray(signs, np.float64))
            expected = expected.reshape(-1) * math.sqrt(2 / math.prod(shape[:-1])) / (0.1 * math.sqrt(PER_BLOCK))
            weights = np.asarray(kernel).reshape(-1)
            np.testing.assert_allclose(weights, expected[: len(weights)], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("blocks", [3, 4, 7, 50, 1000])
    def test_shares_all_coefficients_in_proportion(self, blocks):
        key = jax.random.key(0)
        source = jax.eval_shape(lambda: FrozenBasis(num_floats=blocks * PER_BLOCK + PER_BLOCK - 1).init(key, SHAPES))
        counts = [len(one) for one in source.coefficients]
        assert sum(counts) == blocks
        assert min(counts) >= 1
        for count, size in zip(counts, SIZES, strict=True):
            assert abs(count - blocks * size / sum(SIZES)) <= 1 or count == 1 or blocks < 5

    def test_kernels_start_with_the_variance_of_he(self):
        shapes, generator = [(3, 3, 64, 64)] * 2, FrozenBasis(num_floats=100 * PER_BLOCK)
        run = jax.jit(lambda key: generator.generate(generator.init(key, shapes), 1.0, shapes))
        for kernel in run(jax.random.key(0)):
            assert float(np.var(kernel)) == pytest.approx(2 / (9 * 64), rel=0.15)

    def test_too_few_coefficients(self):
        with pytest.raises(ValueError, match="num_floats must be at least 48 for 3 kernels, got 47"):
            FrozenBasis(num_floats=47).init(jax.random.key(0), SHAPES)


class TestLowRank:
    def test_is_the_sum_of_products(self):
        generator = LowRank(num_floats=600)
        params = generator.init(jax.random.key(0), SHAPES)
        kernels = generator.generate(params, 1.0, SHAPES)
        for kernel, (taps, ins, outs), shape in zip(kernels, params, SHAPES, strict=True):
            products = [np.multiply.outer(np.multiply.outer(t, i), o) for t, i, o in zip(taps, ins, outs, strict=True)]
            expected = np.sum(products, axis=0).reshape(shape) / (0.1**3 * math.sqrt(len(taps)))
            np.testing.assert_allclose(kernel, expected * math.sqrt(2 / math.prod(shape[:-1])), rtol=1e-4, atol=1e-5)
            assert np.linalg.matrix_rank(np.asarray(kernel).reshape(-1, shape[-1])) <= len(taps)

    def test_ranks_use_the_floats(self):
        params = LowRank(num_floats=600).init(jax.random.key(0), SHAPES)
        assert 600 - pj.num_floats(params) < min(9 + 3 + 16, 9 + 16 + 16, 1 + 16 + 32)
        assert len(params[1][0]) > len(params[0][0])

    def test_kernels_of_other_shapes_are_refused(self):
        params = LowRank(num_floats=600).init(jax.random.key(0), SHAPES)
        with pytest.raises(ValueError, match=r"kernel 0 has parameters for \(9, 3, 16\), and \(9, 16, 16\) was asked"):
            LowRank(num_floats=600).generate(params, 1.0, SHAPES[1:] + SHAPES[:1])


class TestInverseDCT:
    def test_is_the_transform_of_scipy(self):
        shape, count = (3, 3, 4, 5), 20
        rng = np.random.default_rng(0)
        coefficients = rng.normal(size=count).astype(np.float32)
        order = sorted(
            range(math.prod(shape)),
            key=lambda n: sum(f / m for f, m in zip(np.unravel_index(n, shape), shape, strict=True)),
        )
        spectrum = np.zeros(math.prod(shape))
        spectrum[order[:count]] = coefficients
        expected = scipy.fft.idctn(spectrum.reshape(shape), norm="ortho")
        expected *= math.sqrt(2 / math.prod(shape[:-1])) * math.sqrt(math.prod(shape) / count) / 0.1
        (kernel,) = InverseDCT(num_floats=count).generate((jnp.asarray(coefficients),), 1.0, [shape])
        np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-4)


class TestHypernetwork:
    def test_is_two_layers_on_embeddings(self):
        generator = Hypernetwork(num_floats=600, condition_size=2)
        params = generator.init(jax.random.key(0), SHAPES)
        condition = np.array([0.3, -1.2])
        w = {name: np.asarray(value, np.float64) for name, value in params._asdict().items()}
        inputs = np.concatenate([w["embeddings"], np.tile(condition, (len(w["embeddings"]), 1))], axis=1)
        hidden = np.tanh(inputs @ w["hidden_kernel"] + w["hidden_bias"])
        width = len(w["hidden_bias"])
        flat = (hidden @ w["out_kernel"] + w["out_bias"]).ravel() / (0.1 * math.sqrt(width / 2))
        start = 0
        for kernel, shape in zip(generator.generate(params, condition, SHAPES), SHAPES, strict=True):
            expected = flat[start : start + math.prod(shape)].reshape(shape) * math.sqrt(2 / math.prod(shape[:-1]))
            np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-5)
            start += math.prod(shape)

    def test_the_condition_decides(self):
        generator = Hypernetwork(num_floats=600, condition_size=2)
        params = generator.init(jax.random.key(0), SHAPES)
        one, other = (generator.generate(params, jnp.array(c), SHAPES)[0] for c in ([1.0, 0.0], [0.0, 1.0]))
        assert np.abs(one - other).max() > 0.01

    def test_a_condition_of_another_shape(self):
        generator = Hypernetwork(num_floats=600, condition_size=2)
        params = generator.init(jax.random.key(0), SHAPES)
        with pytest.raises(ValueError, match=r"a condition must have shape \(2,\), got \(3,\)"):
            generator.generate(params, jnp.ones(3), SHAPES)
        with pytest.raises(ValueError, match="condition_size must be at least 1"):
            Hypernetwork(num_floats=600, condition_size=0)


class TestShared:
    def test_each_weight_is_a_float_with_a_sign(self):
        generator = Shared(num_floats=7, seed=3)
        params = generator.init(jax.random.key(0), SHAPES)
        for n, (kernel, shape) in enumerate(zip(generator.generate(params, 1.0, SHAPES), SHAPES, strict=True)):
            unit = np.asarray(kernel).ravel() * 0.1 / math.sqrt(2 / math.prod(shape[:-1]))
            places = np.asarray(random_words(math.prod(shape), 3, 2 * n)) % 7
            np.testing.assert_allclose(np.abs(unit), np.abs(np.asarray(params.values)[places]), rtol=1e-5)
            assert np.bincount(places, minlength=7).min() > 0.8 * len(unit) / 7
