"""Mirrored pairs: what the second half shows is what the first half shows of the mirror image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from puppet_jax.mirror import for_both_of_pairs, mean_of_pairs, with_mirrored

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
