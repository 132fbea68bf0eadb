"""Mirrored pairs: what the second half shows is what the first half shows of the mirror image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.networks.macs import count_macs
from puppet_jax.mirror import for_both_of_pairs, mean_of_pairs, with_mirrored
from puppet_jax.mirrored_convolution import convolve_mirrored, mirrored_convolution

RNG = np.random.default_rng(0)


def convolved(x, kernel):
    """A 'SAME' convolution by hand."""
    kh, kw = kernel.shape[:2]
    padded = np.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    out = np.zeros((*x.shape[:3], kernel.shape[-1]), np.float32)
    for i in range(kh):
        for j in range(kw):
            out += padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ kernel[i, j]
    return out


def exchanged(x):
    """Each channel in the place of the other of its pair."""
    return np.roll(x, x.shape[-1] // 2, axis=-1)


@pytest.mark.parametrize("mirrored_input", [False, True])
def test_a_mirrored_image_mirrors_the_channels_and_exchanges_pairs(mirrored_input):
    x = RNG.standard_normal((2, 5, 6, 4)).astype(np.float32)
    kernel = np.asarray(with_mirrored(jnp.asarray(RNG.standard_normal((3, 3, 4, 3)), jnp.float32), mirrored_input))
    assert kernel.shape == (3, 3, 4, 6)
    other = exchanged(x) if mirrored_input else x
    np.testing.assert_allclose(
        convolved(other[:, :, ::-1], kernel), exchanged(convolved(x, kernel))[:, :, ::-1], atol=1e-5
    )


def test_the_first_half_is_the_kernel_and_sets_stay_apart():
    kernels = jnp.asarray(RNG.standard_normal((2, 3, 3, 4, 3)), jnp.float32)
    mirrored = with_mirrored(kernels, True)
    np.testing.assert_array_equal(mirrored[..., :3], kernels)
    for one, alone in zip(mirrored, map(lambda kernel: with_mirrored(kernel, True), kernels), strict=True):
        np.testing.assert_array_equal(one, alone)


def test_means_and_copies_by_hand():
    np.testing.assert_array_equal(mean_of_pairs(jnp.array([[1.0, 2.0, 5.0, 8.0]])), [[3, 5]])
    np.testing.assert_array_equal(for_both_of_pairs(jnp.array([3.0, 5.0])), [3, 5, 3, 5])


def test_without_pairs_values_stay():
    x = jnp.arange(3.0)
    assert mean_of_pairs(x, mirror=False) is x
    assert for_both_of_pairs(x, mirror=False) is x


def test_nothing_but_the_mean_of_pairs_survives_both_ways():
    x = jax.random.normal(jax.random.key(0), (6,))
    np.testing.assert_allclose(mean_of_pairs(for_both_of_pairs(mean_of_pairs(x))), mean_of_pairs(x), rtol=1e-6)


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 4, 5), (1, 20, 20), (4, 9, 16)])
def test_half_the_products_give_the_whole_convolution(side, batch, height, width):
    x = RNG.standard_normal((batch, height, width, 6)).astype(np.float32)
    kernel = jnp.asarray(RNG.standard_normal((side, side, 6, 5)), jnp.float32)
    expected = convolved(x, np.asarray(with_mirrored(kernel, True)))
    np.testing.assert_allclose(mirrored_convolution(jnp.asarray(x), kernel), expected, atol=3e-5)


def test_gradients_of_half_the_products_are_those_of_the_whole():
    x, kernel, g = (jnp.asarray(RNG.standard_normal(shape)) for shape in ((2, 8, 8, 64), (3, 3, 64, 32), (2, 8, 8, 64)))

    def whole(x, kernel):
        return jax.lax.conv_general_dilated(
            x, with_mirrored(kernel, True), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    found, expected = (
        jax.grad(lambda x, k, f=f: (f(x, k) * g).sum(), (0, 1))(x, kernel) for f in (mirrored_convolution, whole)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_wide_layers_take_half_of_the_multiply_accumulates():
    def macs(shape, *kernel):
        x, kernels = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(kernel, jnp.float32)
        return count_macs(
            lambda x, kernel: convolve_mirrored(x, kernel, mirrored_input=kernel.shape[-2] > 3), x, kernels
        )

    assert macs((1, 8, 8, 128), 3, 3, 128, 64) == 64 * 9 * 128 * 128 // 2
    assert macs((4, 8, 8, 128), 2, 3, 3, 128, 64) == 4 * 64 * 9 * 128 * 128 // 2
    assert macs((1, 8, 8, 64), 3, 3, 64, 32) == 64 * 9 * 64 * 64
    assert macs((1, 32, 32, 3), 3, 3, 3, 32) == 1024 * 9 * 3 * 64


def test_sets_of_kernels_serve_equal_parts_of_the_batch():
    x = jnp.asarray(RNG.standard_normal((4, 8, 8, 128)), jnp.float32)
    kernels = jnp.asarray(RNG.standard_normal((2, 3, 3, 128, 64)), jnp.float32)
    expected = jnp.concatenate([mirrored_convolution(x[:2], kernels[0]), mirrored_convolution(x[2:], kernels[1])])
    np.testing.assert_array_equal(convolve_mirrored(x, kernels, mirrored_input=True), expected)
    with pytest.raises(ValueError, match="must divide the batch, got 2 for 3 images"):
        convolve_mirrored(x[:3], kernels, mirrored_input=True)
    with pytest.raises(ValueError, match="cannot be paired with images under jax.vmap"):
        jax.vmap(lambda x: convolve_mirrored(x, kernels, mirrored_input=True))(x[None])
