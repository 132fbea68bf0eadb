"""Filters of each image, products of two axes, and which multiply-accumulates are counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from experiments.networks.convolution import filter_each, multiply, use_fast_layers
from experiments.networks.macs import count_macs
from puppet_jax.convolution import convolve
from puppet_jax.cpu.windows import NHWC

GROUPS = {"feature_group_count": 3}


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


def test_gradients_of_filters_of_each_image():
    rng = np.random.default_rng(0)
    x, filters = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((2, 5, 6, 3), (2, 3, 3, 3)))

    def one(image, own):
        kernel = own[:, :, None]
        return lax.conv_general_dilated(image[None], kernel, (1, 1), "SAME", dimension_numbers=NHWC, **GROUPS)[0]

    def slopes(function):
        return jax.jit(jax.grad(lambda *args: jnp.square(function(*args)).sum(), argnums=(0, 1)))(x, filters)

    for own, other in zip(slopes(filter_each), slopes(jax.vmap(one)), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)


def test_macs_are_counted():
    """A depthwise convolution on a CPU is sums and multiples of slices: it counts as what it stands for."""
    layer = nnx.Conv(4, 4, (3, 3), feature_group_count=4, use_bias=False, rngs=nnx.Rngs(0))
    x, filters = jnp.ones((2, 6, 5, 4)), jnp.ones((2, 3, 3, 4))
    plain = count_macs(lambda x: layer(x), x)
    use_fast_layers(layer)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(lambda x: layer(x))(x))
    assert count_macs(lambda x: layer(x), x) == plain == 2 * 6 * 5 * 4 * 9
    assert count_macs(lambda x: filter_each(x, filters), x) == 2 * 6 * 5 * 4 * 9
    assert count_macs(lambda x: filter_each(x, filters, 2), x) == 2 * 3 * 3 * 4 * 9


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_macs_of_kernels_of_each_image_are_counted(groups):
    x, kernels = jnp.ones((2, 6, 5, 4)), jnp.ones((2, 3, 3, 4 // groups, 4))
    options = {"dimension_numbers": NHWC, "feature_group_count": groups}
    found = count_macs(lambda x, kernels: convolve(x, kernels, (1, 1), "SAME", **options), x, kernels)
    assert found == 2 * 6 * 5 * 4 * 9 * (4 // groups)


@pytest.mark.parametrize(
    ("shape", "kernel", "axes"),
    [
        ((2, 5, 4), (4, 3), ((2,), (0,))),
        ((2, 5, 4), (4, 3, 2), ((2,), (0,))),
        ((2, 5, 3, 2), (3, 2, 4), ((2, 3), (0, 1))),
    ],
    ids=["linear", "to heads", "from heads"],
)
def test_products_of_two_axes(shape, kernel, axes):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, kernel))
    found, expected = (function(x, kernel, (axes, ((), ()))) for function in (multiply, lax.dot_general))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    jaxpr = jax.make_jaxpr(lambda x, kernel: multiply(x, kernel, (axes, ((), ()))))(x, kernel)
    (equation,) = (one for one in jaxpr.jaxpr.eqns if one.primitive.name == "dot_general")
    assert [one.aval.ndim for one in equation.invars] == [2, 2]


def test_other_products_are_those_of_jax():
    x, kernel = jnp.ones((2, 5, 4)), jnp.ones((2, 4, 3))
    assert multiply(x, kernel, (((2,), (1,)), ((0,), (0,)))).shape == (2, 5, 3)


def test_linear_layers_are_computed_so():
    layer = nnx.MultiHeadAttention(2, 4, 4, decode=False, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4)), jnp.float32)
    plain = layer(x)
    use_fast_layers(layer)
    assert layer.query.dot_general is layer.out.dot_general is multiply
    np.testing.assert_allclose(layer(x), plain, atol=1e-6)
