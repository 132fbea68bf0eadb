"""Convolutions as a CPU computes them fast, against those of JAX, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from experiments.evaluation.macs import count_macs
from experiments.networks.convolution import convolve, countable, filter_each, use_fast_convolutions
from puppet_jax.convolution import NHWC

CASES = {  # image, kernel, strides, padding, options
    "plain": ((6, 5, 2), (3, 3, 2, 3), (1, 1), ((1, 1), (1, 1)), {}),
    "strides": ((7, 6, 2), (3, 3, 2, 3), (2, 2), ((1, 1), (1, 1)), {}),
    "same, strides": ((6, 7, 2), (3, 3, 2, 3), (2, 1), "SAME", {}),
    "even": ((9, 8, 2), (4, 4, 2, 3), (2, 2), ((1, 1), (1, 1)), {}),
    "one by one": ((6, 5, 2), (1, 1, 2, 3), (2, 2), ((0, 0), (0, 0)), {}),
    "few places": ((2, 2, 2), (3, 3, 2, 3), (1, 1), ((1, 1), (1, 1)), {}),
    "depthwise": ((6, 5, 4), (3, 3, 1, 4), (1, 1), "SAME", {"feature_group_count": 4}),
    "depthwise, strides": ((6, 5, 4), (3, 3, 1, 4), (2, 2), ((1, 1), (1, 1)), {"feature_group_count": 4}),
    "depthwise, dilated": ((9, 8, 4), (3, 3, 1, 4), (1, 1), "SAME", {"feature_group_count": 4, "rhs_dilation": (3, 2)}),
    "dilated": ((9, 8, 2), (3, 3, 2, 3), (1, 1), "SAME", {"rhs_dilation": (2, 2)}),
    "groups": ((6, 5, 4), (3, 3, 2, 6), (1, 1), "SAME", {"feature_group_count": 2}),
    "another layout": ((2, 6, 5), (3, 2, 3, 3), (1, 1), "SAME", {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
}


@pytest.mark.parametrize("case", CASES)
def test_is_that_of_jax(case):
    image, shape, strides, padding, options = CASES[case]
    options = {"dimension_numbers": NHWC} | options
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((3, *image), shape))

    def results(function, x, kernel):
        out, pull = jax.vjp(lambda x, kernel: function(x, kernel, strides, padding, **options), x, kernel)
        return out, *pull(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    run = jax.jit(lambda x, kernel: [results(one, x, kernel) for one in (convolve, lax.conv_general_dilated)])
    for own, expected in zip(*run(x, kernel), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)


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
