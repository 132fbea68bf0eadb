"""The same kernels, the same gradients, in Flax NNX, Flax Linen, Equinox, Haiku and plain JAX."""

import re
from pathlib import Path

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pytest
from flax import linen as nn, nnx
from helpers import quick

import puppet_jax as pj

SHAPES = ((3, 3, 3, 8), (3, 3, 8, 8))
H = 4.3
IMAGES = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
PAGE = Path(__file__).parents[1] / "docs" / "composing.md"


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


# Kernels by hand.


def test_in_flax_nnx_with_convolutions_of_its_own(puppeteer, expected):
    """Generated kernels are put into ordinary `nnx.Conv` layers."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
            self.b = nnx.Conv(8, 8, (3, 3), use_bias=False, rngs=rngs)

        def __call__(self, x):
            return self.b(self.a(x))

    net = models.build(Net)
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


# Trees of parameters whose names mislead: sorted, Conv_10 comes before Conv_2, and z after a.

DEPTH = 12
TREE_SHAPES = ((3, 3, 3, 8), *[(1, 1, 8, 8)] * DEPTH, (3, 3, 8, 4))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), name="z", use_bias=False)(x)
        for _ in range(DEPTH):
            x = x + jnp.tanh(nn.Conv(8, (1, 1), use_bias=False)(x))
        return nn.Conv(4, (3, 3), name="a")(x)


class EquinoxNet(eqx.Module):
    a: eqx.nn.Conv2d
    layers: list
    z: eqx.nn.Conv2d

    def __init__(self, key):
        self.a = eqx.nn.Conv2d(8, 4, 3, padding=1, key=key)
        self.layers = [eqx.nn.Conv2d(8, 8, 1, use_bias=False, key=key) for _ in range(DEPTH)]
        self.z = eqx.nn.Conv2d(3, 8, 3, padding=1, use_bias=False, key=key)

    def __call__(self, x):
        x = self.z(x)
        for layer in reversed(self.layers):
            x = x + jnp.tanh(layer(x))
        return self.a(x)


def haiku_net(x):
    x = hk.Conv2D(8, 3, name="z", with_bias=False)(x)
    for _ in range(DEPTH):
        x = x + jnp.tanh(hk.Conv2D(8, 1, with_bias=False)(x))
    return hk.Conv2D(4, 3, name="a")(x)


def linen():
    net = LinenNet()
    params = jax.eval_shape(net.init, jax.random.key(0), IMAGES)["params"]
    return params, lambda params, x: net.apply({"params": params}, x), (0, 1, 2, 3)


def equinox():
    shapes = eqx.filter_eval_shape(EquinoxNet, jax.random.key(0))
    params, rest = eqx.partition(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    channels_first = lambda params, x: jax.vmap(eqx.combine(params, rest))(x.transpose(0, 3, 1, 2))  # noqa: E731
    return params, lambda params, x: channels_first(params, x).transpose(0, 2, 3, 1), (2, 3, 1, 0)


def haiku():
    net = hk.without_apply_rng(hk.transform(haiku_net))
    return jax.eval_shape(net.init, jax.random.key(0), IMAGES), net.apply, (0, 1, 2, 3)


@pytest.fixture(scope="module")
def by_loop(puppeteer):
    first, *middle, last = pj.generate_kernels(puppeteer, H, TREE_SHAPES)
    x = convolve([first], IMAGES)
    for kernel in middle:
        x = x + jnp.tanh(convolve([kernel], x))
    return jnp.square(convolve([last], x) - 1).mean()


@pytest.mark.parametrize("framework", [linen, equinox, haiku])
def test_in_the_parameter_tree_of_a_model(framework, puppeteer, by_loop):
    """All three compute one function of the puppeteer, that of a loop over the generated kernels."""
    params, apply, hwio = framework()
    leaves, treedef = jax.tree.flatten(params)
    places = [place for place, leaf in enumerate(leaves) if leaf.ndim == 4]

    def with_kernels(leaves, kernels):
        leaves = list(leaves)
        for place, kernel in zip(places, kernels, strict=True):
            leaves[place] = kernel
        return treedef.unflatten(leaves)

    kernels, rest = [leaves[place] for place in places], [jnp.zeros(leaf.shape) for leaf in leaves]
    order = pj.execution_order(lambda kernels: apply(with_kernels(rest, kernels), IMAGES), kernels)
    assert len(order) == len(kernels) == DEPTH + 2 and order != tuple(range(DEPTH + 2))
    assert [tuple(kernels[place].shape[axis] for axis in hwio) for place in order] == list(TREE_SHAPES)

    def loss(puppeteer):
        generated = dict(zip(order, pj.generate_kernels(puppeteer, H, TREE_SHAPES), strict=True))
        placed = [generated[place].transpose(np.argsort(hwio)) for place in range(len(order))]
        return jnp.square(apply(with_kernels(rest, placed), IMAGES) - 1).mean()

    step = jax.jit(jax.value_and_grad(loss))
    value, grads = step(puppeteer)
    np.testing.assert_allclose(value, by_loop, rtol=1e-5)
    optimizer = optax.adam(1e-3)
    state = optimizer.init(puppeteer)
    for _ in range(3):
        updates, state = optimizer.update(grads, state)
        puppeteer = optax.apply_updates(puppeteer, updates)
        after, grads = step(puppeteer)
    assert after < value


# The page.

BLOCKS = dict(re.findall(r"## ([\w ]+)\n[^#]*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL))


def test_the_page_has_a_block_for_each_library():
    ours = ["Flax NNX", "A network without norms", "Weights of any layer", "Other generators"]
    assert list(BLOCKS) == [*ours, "Flax Linen", "Equinox", "Haiku"]
    assert PAGE.read_text().count("```python") == len(BLOCKS)


@pytest.mark.parametrize("library", quick(BLOCKS, "Other generators", "Flax Linen", "Equinox", "Haiku"))
def test_the_blocks_of_the_page(library):
    """Each runs on its own, and its step makes the loss smaller."""
    names = {}
    exec(compile(BLOCKS[library], f"{PAGE.name}, {library}", "exec"), names)
    if library == "A network without norms":
        activations = names["puppet"].instantiate(4.5).encode(names["images"])
        assert 0.2 < activations.std() / names["net"].encode(names["images"]).std() < 5
    elif library == "Weights of any layer":
        assert len(names["puppet"].kernels) == 6 and names["each"].shape == (4, 12, 50)
        assert np.abs(names["each"][0] - names["puppet"](names["tokens"])[0]).max() > 1e-3
    elif library == "Other generators":
        assert pj.num_floats(names["other"].puppeteer) <= names["floats"]
        assert np.abs(names["first"] - names["second"]).max() > 1e-3
    if "step" not in names:
        return
    if library == "Flax NNX":
        names["puppet"].train()
        after = names["step"](*(names[name] for name in ("puppet", "optimizer", "images", "labels")), names["h"].mean())
    else:
        after, _ = names["step"](names["trained"], 4.5)
    assert np.isfinite(after) and after < names["loss"]
