"""Puppeteers: their sizes and leaves, the frozen pattern that they start from, and what is refused."""

import hashlib
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import puppet_jax as pj

VECTORS = ("depthwise_bias", "pointwise_bias", "norm1_scale", "norm1_bias", "norm2_scale", "norm2_bias")
INITIAL_STATES = ("seeded", "constant", "learned")
PATTERN_SHA256 = "76704a4f78329f19b80e70bf01b88c0c68d896562aa32685931acbb84535b21b"
"""Of the bytes of `seeded_pattern(64, 3, 0)`. A stored puppeteer means nothing if this ever changes."""


@pytest.mark.parametrize(
    ("channels", "millions", "megabytes"),
    [
        (64, "0.04", "0.02"),
        (128, "0.17", "0.07"),
        (256, "0.66", "0.28"),
        (512, "2.63", "1.08"),
        (1024, "10.50", "4.26"),
        (2048, "41.97", "16.90"),
        (4096, "167.83", "67.35"),
    ],
)
def test_sizes_are_those_of_the_papers(channels, millions, megabytes):
    """Their "Total Params (M)" counts the state, their "Param Size (MB)" the trainable floats."""

    def sizes(initial_state):
        init = partial(pj.init_puppeteer, max_channels=channels, initial_state=initial_state)
        leaves = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))
        return sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    count = channels**2 + 15 * channels
    assert sizes("seeded") == sizes("constant") == (count, 4 * count)
    assert sizes("learned") == (count + 9 * channels**2, 4 * (count + 9 * channels**2))
    assert f"{sizes('learned')[0] / 1e6:.2f}" == millions
    assert f"{sizes('seeded')[1] / 1e6:.2f}" == megabytes


@pytest.mark.parametrize("initial_state", INITIAL_STATES)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_leaves(kernel_size, initial_state):
    init = partial(pj.init_puppeteer, max_channels=8, kernel_size=kernel_size, initial_state=initial_state)
    puppeteer = init(jax.random.key(0))
    shapes = dict.fromkeys(VECTORS, (8,)) | {"depthwise_kernel": (3, 3, 8), "pointwise_kernel": (8, 8)}
    if initial_state == "learned":
        shapes["initial_state"] = (8, 8, kernel_size**2)
    assert {name: getattr(puppeteer, name).shape for name in shapes} == shapes
    leaves = jax.tree.leaves(puppeteer)
    assert len(leaves) == len(shapes)
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    for same, leaf in zip(jax.tree.leaves(init(jax.random.key(0))), leaves, strict=True):
        np.testing.assert_array_equal(same, leaf)
    other = init(jax.random.key(1))
    assert np.any(other.depthwise_kernel != puppeteer.depthwise_kernel)
    assert np.any(other.pointwise_kernel != puppeteer.pointwise_kernel)


# The seeded pattern.


def test_pattern_is_the_one_recorded():
    """If this fails, stored puppeteers have lost their initial state: restore the generator, not the hash."""
    pattern = np.asarray(pj.seeded_pattern(64, 3, 0))
    assert hashlib.sha256(pattern.tobytes()).hexdigest() == PATTERN_SHA256


def test_pattern_does_not_depend_on_transformations_or_flags():
    pattern = pj.seeded_pattern(8, 3, 5)
    assert pattern.shape == (8, 8, 9)
    assert pattern.dtype == jnp.float32

    def check(other):
        assert other.dtype == jnp.float32
        np.testing.assert_array_equal(other, pattern)

    check(pj.seeded_pattern(8, 3, 5))
    check(jax.jit(lambda: pj.seeded_pattern(8, 3, 5))())
    with jax.enable_x64(True):
        check(pj.seeded_pattern(8, 3, 5))
    with jax.default_prng_impl("rbg"):
        check(pj.seeded_pattern(8, 3, 5))
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        check(pj.seeded_pattern(8, 3, 5))
    np.random.seed(1)
    check(pj.seeded_pattern(8, 3, 5))


def test_pattern_is_standard_normal():
    pattern = np.asarray(pj.seeded_pattern(64, 3, 0), np.float64)
    bound = 4 / math.sqrt(pattern.size)  # four standard errors of the mean
    assert abs(pattern.mean()) < bound
    assert abs(pattern.std() - 1) < bound
    assert abs((pattern**4).mean() - 3) < 10 * bound
    for level, share in [(-2, 0.02275), (-1, 0.15866), (0, 0.5), (1, 0.84134), (2, 0.97725)]:
        assert abs((pattern < level).mean() - share) < bound
    for axis in range(3):  # neighbours know nothing of each other
        a, b = np.delete(pattern, 0, axis), np.delete(pattern, -1, axis)
        assert abs((a * b).mean()) < bound


def test_patterns_of_different_seeds_differ():
    patterns = [np.asarray(pj.seeded_pattern(16, 3, seed)).ravel() for seed in (0, 1, 2, 2**31, 2**32)]
    correlation = np.corrcoef(patterns)
    assert np.max(np.abs(correlation - np.eye(len(patterns)))) < 0.1


# Refusals.


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("changed", "match"),
    [
        pytest.param({"initial_state": "random"}, "(?s)initial_state.*seeded", id="unknown-state"),
        pytest.param({"max_channels": 0}, "max_channels", id="no-channels"),
        pytest.param({"max_channels": -4}, "max_channels", id="negative-channels"),
        pytest.param({"kernel_size": 2}, "kernel_size", id="even-kernel"),
        pytest.param({"kernel_size": 0}, "kernel_size", id="no-kernel"),
        pytest.param({"kernel_size": -3}, "kernel_size", id="negative-kernel"),
        pytest.param({"seed": -1}, "seed", id="negative-seed"),
        pytest.param({"kernels_from": "field"}, "kernels_from must be.*velocity, got 'field'", id="unknown-reading"),
    ],
)
def test_init_refuses(changed, match):
    with pytest.raises(ValueError, match=match):
        pj.init_puppeteer(jax.random.key(0), **{"max_channels": 8} | changed)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0, 3, 0), "max_channels"),
        ((8, 2, 0), "kernel_size"),
        ((8, -1, 0), "kernel_size"),
        ((8, 3, -1), "seed"),
    ],
)
def test_pattern_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        pj.seeded_pattern(*arguments)
