"""Few bits a float, against plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import puppet_jax as pj
from puppet_jax import extras
from puppet_jax.puppeteer import IDLE_BIASES


def reference(x, bits):
    """The scale of least squared error, channel by channel, in plain Python; all as one where each has few values."""
    if x.shape[-1] > 1 and x.size < 8 * x.shape[-1]:
        codes, scales = reference(x.reshape(-1, 1), bits)
        return codes.reshape(x.shape), scales
    half = 2 ** (bits - 1)
    stretched = [half * (1 + n / 16) for n in range(5)]
    codes, scales = np.empty(x.shape, int), np.empty(x.shape[-1], np.float16)
    for channel in range(x.shape[-1]):
        column, least = x[..., channel], np.inf
        extreme = column.flat[np.abs(column).argmax()]
        for divisor in (half - 1, *stretched, 1 - half, *(-one for one in stretched)):
            scale = np.float16(extreme / np.float32(divisor))
            found = np.clip(np.round(column / np.float32(scale)), -half, half - 1)
            error = np.square(found * np.float32(scale) - column).sum()
            if error < least:
                least, scales[channel], codes[..., channel] = error, scale, found
    return codes, scales


def symmetric(x, bits):
    """What is stored with codes of -7 to 7 (4 bits) and nothing clipped."""
    largest = 2 ** (bits - 1) - 1
    scale = (np.abs(x).max(axis=tuple(range(x.ndim - 1))) / largest).astype(np.float16).astype(np.float32)
    return np.clip(np.round(x / scale), -largest, largest) * scale


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(5,), (1, 3), (7, 2), (8, 2), (3, 3, 7), (5, 1)])
def test_codes_and_scales_are_those_of_the_reference(bits, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) * np.float32(0.1)
    stored = extras.quantize(jnp.asarray(x), bits)
    codes, scales = reference(x, bits)
    np.testing.assert_array_equal(stored.scale, scales)
    np.testing.assert_array_equal(
        extras.dequantize(stored, shape, bits), codes.astype(np.float32) * scales.astype(np.float32)
    )
    if bits == 8:
        np.testing.assert_array_equal(stored.codes, codes)


def test_two_codes_share_a_byte_the_earlier_one_low():
    x = jnp.array([[7.0], [-8.0], [3.0]])
    stored = extras.quantize(x, 4)
    assert stored.codes.dtype == jnp.uint8
    assert stored.codes.tolist() == [7 | (16 - 8) << 4, 3]
    np.testing.assert_array_equal(extras.dequantize(stored, (3, 1), 4), x)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 4]), st.floats(-3, 3))
def test_the_error_is_no_larger_than_that_of_symmetric_codes_and_storing_again_changes_nothing(seed, bits, exponent):
    x = np.random.default_rng(seed).normal(size=(8, 5)).astype(np.float32) * np.float32(10**exponent)
    back = np.asarray(extras.dequantize(extras.quantize(jnp.asarray(x), bits), x.shape, bits))
    error, its = (np.square(other - x).sum(axis=0) for other in (back, symmetric(x, bits)))
    assert (error <= its * (1 + 1e-5) + 1e-12).all()
    again = extras.quantize(jnp.asarray(back), bits)
    np.testing.assert_array_equal(extras.dequantize(again, x.shape, bits), back)


def test_the_error_of_four_bits_is_a_quarter_smaller_than_that_of_symmetric_codes():
    x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    back = np.asarray(extras.dequantize(extras.quantize(jnp.asarray(x), 4), x.shape, 4))
    error, its = (np.square(other - x).mean() for other in (back, symmetric(x, 4)))
    assert 0.6 < error / its < 0.75


def test_a_channel_of_zeros():
    stored = extras.quantize(jnp.zeros((8, 2)).at[:, 0].set(1.0), 8)
    assert stored.scale.tolist()[1] == 1
    np.testing.assert_array_equal(extras.dequantize(stored, (8, 2), 8)[:, 1], 0)


class TestFakeQuantize:
    PARAMS = {"matrix": jnp.array([[0.3, -1.0], [0.21, 0.4]]), "vector": jnp.array([1.00001, 0.1])}

    @pytest.mark.parametrize("bits", [8, 4])
    def test_has_the_values_that_are_stored(self, bits):
        faked = extras.fake_quantize(self.PARAMS, {"matrix": bits, "vector": 16})
        stored = extras.dequantize(extras.quantize(self.PARAMS["matrix"], bits), (2, 2), bits)
        np.testing.assert_allclose(faked["matrix"], stored, rtol=1e-6)
        assert not np.array_equal(faked["matrix"], self.PARAMS["matrix"])
        np.testing.assert_allclose(faked["vector"], self.PARAMS["vector"].astype(jnp.float16), rtol=1e-7)

    def test_the_gradient_passes_as_if_nothing_was_rounded(self):
        bits = {"matrix": 4, "vector": 16}

        def loss(params):
            return sum(jnp.square(leaf).sum() for leaf in extras.fake_quantize(params, bits).values())

        grads, rounded = jax.grad(loss)(self.PARAMS), extras.fake_quantize(self.PARAMS, bits)
        for name in self.PARAMS:
            np.testing.assert_allclose(grads[name], 2 * rounded[name], rtol=1e-6)


class TestChooseBits:
    PARAMS = {
        "large": jnp.ones((8, 8)),
        "quarter": jnp.ones((4, 4)),
        "small": jnp.ones((5, 3)),
        "vector": jnp.ones(999),
    }
    MATRICES = {"large": True, "quarter": True, "small": True, "vector": False}

    def test_few_for_large_matrices(self):
        chosen = extras.choose_bits(self.PARAMS, self.MATRICES, 4)
        assert chosen == {"large": 4, "quarter": 4, "small": 8, "vector": 8}
        chosen = extras.choose_bits(self.PARAMS, self.MATRICES, 8)
        assert chosen == {"large": 8, "quarter": 8, "small": 8, "vector": 8}

    def test_without_matrices(self):
        assert extras.choose_bits([jnp.ones(3)], [False], 4) == [8]
        assert extras.choose_bits([], [], 4) == []

    def test_bytes_are_those_of_the_arrays(self):
        chosen = extras.choose_bits(self.PARAMS, self.MATRICES, 4)
        stored = [extras.quantize(leaf, chosen[name]) for name, leaf in self.PARAMS.items()]
        expected = sum(one.codes.nbytes + one.scale.nbytes for one in stored)
        assert stored[-1].codes.nbytes + stored[-1].scale.nbytes == 999 + 2  # a vector has one scale
        assert extras.quantized_bytes(self.PARAMS, chosen) == expected


@pytest.mark.parametrize(("bits", "megabytes"), [(8, 0.27), (4, 0.14)])
def test_the_papers_puppeteer_in_few_bits(bits, megabytes):
    puppeteer = jax.eval_shape(lambda: pj.init_puppeteer(jax.random.key(0), max_channels=512))
    chosen = extras.choose_bits(puppeteer, jax.tree.map(lambda leaf: leaf.ndim > 1, puppeteer), bits)
    c = 512
    expected = c**2 * bits // 8 + 9 * c + 2 * 2 * c + 3 * (c + 2)  # codes; scales of two matrices; three vectors
    assert extras.quantized_bytes(puppeteer, chosen) == expected
    assert expected / 1e6 == pytest.approx(megabytes, abs=0.005)


def test_biases_that_change_nothing_are_not_stored():
    """Of a puppeteer, whatever they are called elsewhere; the kernels are those of the rounded puppeteer."""
    puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=6)
    biased = {name: getattr(puppeteer, name) + 1 for name in IDLE_BIASES}
    params = {"of": dataclasses.replace(puppeteer, **biased), "pointwise_bias": jnp.ones(6)}
    chosen = extras.choose_bits(params, jax.tree.map(lambda leaf: leaf.ndim > 1, params), 8)
    assert {name: getattr(chosen["of"], name) for name in IDLE_BIASES} == dict.fromkeys(IDLE_BIASES, 0)
    assert chosen["pointwise_bias"] == 8
    stored = extras.quantize_tree(params, chosen)
    assert all(getattr(stored["of"], name) is None for name in IDLE_BIASES)
    faked, back = extras.fake_quantize(params, chosen), extras.dequantize_tree(stored, params, chosen)
    for one, other in zip(jax.tree.leaves(faked), jax.tree.leaves(back), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert not any(np.any(getattr(back["of"], name)) for name in IDLE_BIASES)
    shapes = [(3, 3, 3, 6), (3, 3, 6, 6)]
    rounded = dataclasses.replace(back["of"], **biased)
    for one, other in zip(*(pj.generate_kernels(p, 4.5, shapes) for p in (rounded, back["of"])), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("bits", [1, 2, 16, 32])
def test_other_numbers_of_bits_are_refused(bits):
    for call in (
        lambda: extras.quantize(jnp.ones(3), bits),
        lambda: extras.dequantize(extras.quantize(jnp.ones(3), 8), (3,), bits),
        lambda: extras.choose_bits([jnp.ones(3)], [True], bits),
    ):
        with pytest.raises(ValueError, match=f"bits must be 8 or 4, got {bits}"):
            call()


@pytest.mark.usefixtures("without_type_checks")
def test_a_scalar_is_refused():
    with pytest.raises(ValueError, match="at least one axis, got a scalar"):
        extras.quantize(jnp.ones(()), 8)


@pytest.mark.usefixtures("without_type_checks")
def test_integers_are_refused():
    x = jnp.arange(-8, 8).reshape(8, 2)
    for call in (
        lambda: extras.quantize(x, 8),
        lambda: extras.fake_quantize([x], [4]),
        lambda: extras.quantize_tree([x], [16]),
    ):
        with pytest.raises(TypeError, match="must be floating, such as jnp.bfloat16, got dtype.*int32"):
            call()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("bits", [8, 4])
def test_half_precision_is_rounded_in_float32(dtype, bits):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8)), dtype)
    stored, exact = (extras.quantize(one, bits) for one in (x, x.astype(jnp.float32)))
    np.testing.assert_array_equal(stored.codes, exact.codes)
    np.testing.assert_array_equal(stored.scale, exact.scale)
    faked = extras.fake_quantize([x], [bits])[0]
    back = extras.dequantize_tree([stored], [x], [bits])[0]
    assert faked.dtype == back.dtype == dtype
    np.testing.assert_allclose(faked.astype(np.float32), back.astype(np.float32), rtol=1e-2)
    with pytest.raises(ValueError, match="must be finite and at most"):
        extras.quantize(x.at[3, 2].set(jnp.inf), bits)
