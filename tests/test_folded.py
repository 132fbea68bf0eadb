"""A folded puppet answers as `apply_puppet` does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import puppet_jax as pj
from puppet_jax.folded import apply_folded, fold, merge_statistics
from puppet_jax.mirrored_convolution import HALVES_CHANNELS
from puppet_jax.puppet import apply_puppet, centred

PLAIN = pj.Puppet(channels=(6, 8), layers=(2, 2), in_channels=1, num_classes=3)
MIRRORED = dataclasses.replace(PLAIN, mirror=True, residual=True, affine=True)
WIDE = dataclasses.replace(MIRRORED, channels=(HALVES_CHANNELS,), layers=(2,))


def made(puppet):
    """Floats, statistics and kernels that are nowhere one or zero, and images."""
    rng = np.random.default_rng(0)
    params = pj.init_puppet(jax.random.key(0), puppet, pj.init_puppeteer(jax.random.key(1), 8))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32), params)
    depth = puppet.only_depth
    stats = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 2, leaf.shape), jnp.float32), pj.init_batch_stats(puppet, depth)
    )
    kernels = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in puppet.kernel_shapes(depth)]
    return params, stats, kernels, rng.integers(0, 256, (3, 9, 7, 1)).astype(np.uint8)


@pytest.mark.parametrize("in_halves", [False, True])
@pytest.mark.parametrize(
    "puppet",
    [PLAIN, MIRRORED, WIDE, dataclasses.replace(MIRRORED, classifier="generated")],
    ids=["plain", "mirrored", "wide", "generated"],
)
def test_logits(puppet, in_halves):
    params, stats, kernels, images = made(puppet)
    wanted, _ = apply_puppet(puppet, params, stats, kernels, images, puppet.only_depth)
    folded = fold(puppet, params, stats, kernels, puppet.only_depth, in_halves=in_halves)
    assert [isinstance(one, tuple) for one in folded.kernels].count(True) == (in_halves and puppet is WIDE)
    found = jax.jit(apply_folded)(folded, centred(images))
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize("puppet", [dataclasses.replace(PLAIN, affine=True), MIRRORED], ids=["plain", "mirrored"])
def test_merged_statistics_are_not_needed(puppet):
    params, stats, kernels, images = made(puppet)
    wanted, _ = apply_puppet(puppet, params, stats, kernels, images, 4)
    merged = merge_statistics(puppet, params, stats, 4)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, params)
    found, _ = apply_puppet(puppet, merged, pj.init_batch_stats(puppet, 4), kernels, images, 4)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5 * float(jnp.abs(wanted).max()))


def test_half_precision():
    params, stats, kernels, images = made(PLAIN)
    wanted, _ = apply_puppet(PLAIN, params, stats, kernels, images, 4)
    folded = fold(PLAIN, params, stats, kernels, 4, dtype=jnp.bfloat16)
    assert {leaf.dtype.name for leaf in (*folded.kernels, *folded.biases)} == {"bfloat16"}
    found = apply_folded(folded, centred(images).astype(jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=0.05 * float(jnp.abs(wanted).max()))


def test_nothing_is_made_while_images_wait():
    """Neither the factor of a norm nor a mirrored kernel."""
    params, stats, kernels, images = made(MIRRORED)
    folded = fold(MIRRORED, params, stats, kernels, 4)
    names = {equation.primitive.name for equation in jax.make_jaxpr(apply_folded)(folded, centred(images)).eqns}
    assert not {"rsqrt", "sub", "rev", "concatenate"} & names


def test_floats_of_another_puppet():
    params, stats, kernels, _ = made(PLAIN)
    with pytest.raises(ValueError, match="params must have affine norms"):
        fold(dataclasses.replace(PLAIN, affine=True), params, stats, kernels, 4)
