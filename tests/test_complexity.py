"""Equations 8 and 9 against the NumPy reference, closed forms, and the refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import quick

import puppet_jax as pj
from puppet_jax.complexity import _spectrum_entropy, entropy, spectrum_bins

SIZES = [(32, 32, 3), (28, 28, 1), (17, 23, 4), (84, 84, 3), (5, 1, 2), (1, 1, 1)]


def random_images(size, batch=3):
    return np.random.default_rng(0).integers(0, 256, (batch, *size), dtype=np.uint8)


def smooth_images(size, batch=3):
    """A few low waves and a little noise: broad histograms and decaying spectra, as photographs have."""
    rng = np.random.default_rng(1)
    y, x = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]), indexing="ij")
    images = np.zeros((batch, *size))
    for b in range(batch):
        for c in range(size[2]):
            for _ in range(4):
                fy, fx, phase = rng.uniform(0.2, 3, 3)
                images[b, :, :, c] += np.sin(2 * np.pi * (fy * y + fx * x) + phase) / (fy + fx)
    images += 0.05 * rng.standard_normal(images.shape)
    low, high = images.min(), images.max()
    return ((images - low) / (high - low) * 255).astype(np.uint8)


def constant_images(size, values=(1, 100, 254)):
    return np.stack([np.full(size, value, np.uint8) for value in values])


IMAGES = {
    "random": random_images,
    "smooth": smooth_images,
    "constant": constant_images,
    "black": lambda size: np.zeros((3, *size), np.uint8),
    "white": lambda size: np.full((3, *size), 255, np.uint8),
    "colour": lambda size: np.broadcast_to(np.arange(40, 40 + size[2], dtype=np.uint8), (3, *size)).copy(),
}


def show_size(size):
    return "x".join(map(str, size))


def assert_close_to_reference(images, tolerance):
    actual, expected = pj.complexity(images), reference.complexity(images)
    assert actual.shape == (len(images),)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(expected.max(), 1e-2))


@pytest.mark.parametrize("size", quick(SIZES, (32, 32, 3), (17, 23, 4), (1, 1, 1)), ids=show_size)
@pytest.mark.parametrize("kind", IMAGES)
def test_matches_reference(kind, size):
    assert_close_to_reference(IMAGES[kind](size), 1e-5)


@pytest.mark.parametrize("kind", IMAGES)
def test_floats_count_as_their_bytes(kind):
    images = IMAGES[kind]((32, 32, 3))
    floats = images.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(pj.complexity(floats), pj.complexity(images))
    np.testing.assert_array_equal(pj.complexity(jnp.asarray(floats)), pj.complexity(images))
    np.testing.assert_array_equal(pj.complexity(images / 255.0), pj.complexity(images))


def test_floats_between_bytes_are_rounded():
    floats = np.random.default_rng(2).uniform(size=(20, 28, 28, 1)).astype(np.float32)
    assert_close_to_reference(floats, 1e-5)


def test_jit_vmap_and_batching_change_nothing():
    images = np.stack([*random_images((28, 28, 1), batch=1), *smooth_images((28, 28, 1), batch=2)])
    h = pj.complexity(images)
    np.testing.assert_allclose(jax.jit(pj.complexity)(images), h, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(pj.complexity)(images.astype(np.float32) / 255), h, rtol=1e-5)
    np.testing.assert_allclose([pj.complexity(image[None])[0] for image in images], h, rtol=1e-5)
    mapped = jax.vmap(lambda image: pj.complexity(image[None])[0])(jnp.asarray(images))
    np.testing.assert_allclose(mapped, h, rtol=1e-5)


def test_closed_form_of_one_colour():
    """The pixels say nothing; of the H·W magnitudes, one is not zero."""
    p = 1 / (16 * 16)
    spectral = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    np.testing.assert_allclose(pj.complexity(np.full((1, 16, 16, 1), 77, np.uint8)), 0.5 * spectral, rtol=1e-5)


def test_closed_form_of_a_chessboard():
    """Two values of pixels, and two equal magnitudes, of wave numbers zero and a half, among zeros."""
    board = (255 * (np.indices((16, 16)).sum(0) % 2)).astype(np.uint8)[None, :, :, None]
    p = 2 / 256
    spectral = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    np.testing.assert_allclose(pj.complexity(board), 0.5 * math.log(2) + 0.5 * spectral, rtol=1e-5)


def test_black_is_zero_and_noise_is_above_smooth():
    black, smooth, noise = (pj.complexity(IMAGES[kind]((32, 32, 3)))[0] for kind in ("black", "smooth", "random"))
    assert black == 0
    assert black < smooth < noise <= math.log(256)


def test_does_not_depend_on_orientation_or_order_of_channels():
    images = smooth_images((32, 32, 3))
    h = pj.complexity(images)
    for changed in (images[:, ::-1], images[:, :, ::-1], images.transpose(0, 2, 1, 3), images[..., ::-1]):
        np.testing.assert_allclose(pj.complexity(changed), h, rtol=1e-5)


def with_value(value):
    images = np.full((2, 4, 4, 3), 0.5, np.float32)
    images[1, 2, 3, 0] = value
    return images


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("images", "match"),
    [
        pytest.param(np.zeros((32, 32), np.uint8), "batch, height, width, channels", id="rank-2"),
        pytest.param(np.zeros((32, 32, 3), np.uint8), "batch, height, width, channels", id="rank-3"),
        pytest.param(np.zeros((1, 2, 8, 8, 3), np.uint8), "batch, height, width, channels", id="rank-5"),
        pytest.param(np.zeros((2, 8, 8, 3), np.int32), "int32", id="int32"),
        pytest.param(np.zeros((2, 8, 8, 3), bool), "bool", id="bool"),
        pytest.param(np.zeros((2, 8, 8, 3), np.complex64), "complex64", id="complex"),
        pytest.param(np.zeros((0, 8, 8, 3), np.uint8), "empty", id="empty-batch"),
        pytest.param(np.zeros((2, 0, 8, 3), np.uint8), "empty", id="no-rows"),
        pytest.param(np.zeros((2, 8, 8, 0), np.uint8), "empty", id="no-channels"),
        pytest.param(with_value(np.nan), "NaN", id="nan"),
        pytest.param(with_value(np.inf), r"\[0, 1\]", id="infinite"),
        pytest.param(with_value(1.5), r"\[0, 1\]", id="above"),
        pytest.param(with_value(-0.1), r"\[0, 1\]", id="below"),
        pytest.param(255 * with_value(1.0), r"\[0, 1\]", id="bytes-as-floats"),
    ],
)
def test_refuses(images, match):
    with pytest.raises(ValueError, match=match):
        pj.complexity(images)
    with pytest.raises(ValueError, match=match):
        pj.complexity(jnp.asarray(images))


def test_entropy_is_xlogy_to_the_last_bit():
    """Written otherwise, a trajectory of training takes another turn."""
    bins = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1)).astype(np.int32) // 4

    @jax.jit
    def plain(bins):
        rows = jnp.arange(len(bins))[:, None]
        counts = jnp.zeros((len(bins), 256), jnp.float32).at[rows, bins.reshape(len(bins), -1)].add(1.0)
        p = counts / 64
        return jnp.maximum(-jax.scipy.special.xlogy(p, p).sum(axis=1), 0.0)

    np.testing.assert_array_equal(jax.jit(entropy)(bins), plain(bins))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (5, 4), (4, 5), (8, 8), (7, 1)])
def test_half_of_the_spectrum_stands_for_all_of_it(height, width):
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, height, width, 3)), jnp.int32)
    whole = spectrum_bins(pixels)
    for image, bins in zip(np.asarray(pixels), np.asarray(whole), strict=True):
        np.testing.assert_array_equal(bins, np.moveaxis(reference.spectrum_bins(image), 0, -1))
    found = _spectrum_entropy(pixels)
    np.testing.assert_array_equal(found, entropy(whole))


def test_more_pixels_than_a_float_counts():
    assert entropy(jnp.zeros((1, 2**25), jnp.int32)).tolist() == [0.0]
