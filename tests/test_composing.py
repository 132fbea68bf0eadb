"""The same kernels, the same gradients, in Flax NNX, Flax Linen, Equinox and plain JAX."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import puppet_jax as pj

SHAPES = ((3, 3, 3, 8), (3, 3, 8, 8))
H = 4.3
IMAGES = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)


def convolve(kernels, x):
    for kernel in kernels:
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return x


@pytest.fixture(scope="module")
def puppeteer():
    return pj.init_puppeteer(jax.random.key(0), max_channels=8)


@pytest.fixture(scope="module")
def expected(puppeteer):
    def loss(puppeteer):
        return jnp.square(convolve(pj.generate_kernels(puppeteer, H, SHAPES), IMAGES)).sum()

    return jax.jit(jax.value_and_grad(loss))(puppeteer)


def check(value, grads, expected):
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


def test_in_flax_nnx_with_convolutions_of_its_own(puppeteer, expected):
    """Generated kernels are put into ordinary `nnx.Conv` layers."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
            self.b = nnx.Conv(8, 8, (3, 3), use_bias=False, rngs=rngs)

        def __call__(self, x):
            return self.b(self.a(x))

    net = Net(nnx.Rngs(0))
    graphdef, state = nnx.split(net)

    def loss(puppeteer):
        model = nnx.merge(graphdef, state, copy=True)
        kernels = pj.generate_kernels(puppeteer, H, [model.a.kernel, model.b.kernel])  # anything with .shape
        model.a.kernel[...], model.b.kernel[...] = kernels
        return jnp.square(model(IMAGES)).sum()

    check(*jax.jit(jax.value_and_grad(loss))(puppeteer), expected)


def test_in_flax_linen(puppeteer, expected):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for shape in SHAPES:
                x = nn.Conv(shape[-1], shape[:2], use_bias=False)(x)
            return x

    def loss(puppeteer):
        first, second = pj.generate_kernels(puppeteer, H, SHAPES)
        params = {"Conv_0": {"kernel": first}, "Conv_1": {"kernel": second}}
        return jnp.square(Net().apply({"params": params}, IMAGES)).sum()

    check(*jax.jit(jax.value_and_grad(loss))(puppeteer), expected)


def test_in_equinox(puppeteer, expected):
    class Net(eqx.Module):
        puppeteer: pj.Puppeteer
        shapes: tuple = eqx.field(static=True)

        def __call__(self, x):
            return convolve(pj.generate_kernels(self.puppeteer, H, self.shapes), x)

    value, grads = eqx.filter_jit(eqx.filter_value_and_grad(lambda net: jnp.square(net(IMAGES)).sum()))(
        Net(puppeteer, SHAPES)
    )
    check(value, grads.puppeteer, expected)
