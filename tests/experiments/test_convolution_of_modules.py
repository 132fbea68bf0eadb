"""Filters of each image, and which multiply-accumulates are counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.evaluation.macs import count_macs
from experiments.networks.convolution import filter_each, use_fast_convolutions
from puppet_jax.fast_convolution import countable


@pytest.mark.parametrize("stride", [1, 2])
def test_filters_of_each_image(stride):
    rng = np.random.default_rng(0)
    x, filters = rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(2, 3, 3, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.array(
        [
            [
                [(padded[n, i : i + 3, j : j + 3] * filters[n]).sum(axis=(0, 1)) for j in range(0, 6, stride)]
                for i in range(0, 5, stride)
            ]
            for n in range(2)
        ]
    )
    found = jax.jit(lambda x, filters: filter_each(x, filters, stride))(np.float32(x), np.float32(filters))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with countable():
        again = jax.jit(lambda x, filters: filter_each(x, filters, stride))(np.float32(x), np.float32(filters))
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-5)

    def slopes(x, filters):
        return jax.grad(lambda x, filters: (filter_each(x, filters, stride) ** 2).sum(), argnums=(0, 1))(x, filters)

    ours = jax.jit(lambda x, filters: slopes(x, filters))(np.float32(x), np.float32(filters))
    with countable():
        theirs = jax.jit(lambda x, filters: slopes(x, filters))(np.float32(x), np.float32(filters))
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)


def test_macs_are_counted_where_they_must_be():
    """A depthwise convolution on a CPU is sums and multiples of slices, which do not count."""
    layer = nnx.Conv(4, 4, (3, 3), feature_group_count=4, use_bias=False, rngs=nnx.Rngs(0))
    use_fast_convolutions(layer)
    x, filters = jnp.ones((1, 6, 5, 4)), jnp.ones((1, 3, 3, 4))

    def count():  # functions of its own, since JAX keeps what it has traced
        return count_macs(lambda x: layer(x), x), count_macs(lambda x: filter_each(x, filters), x)

    assert count() == (0, 0)
    with countable():
        assert count() == (6 * 5 * 4 * 9, 6 * 5 * 4 * 9)
    assert count() == (0, 0)
