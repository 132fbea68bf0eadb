"""Long trajectories of which a gradient keeps few states, and no products: the same numbers in less memory."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import puppet_jax as pj
from puppet_jax.puppetized.summary import TrajectorySize

trajectory = importlib.import_module("puppet_jax.trajectory")
SAME = ((3, 3, 8, 8),) * 18
"""One loop: four segments of four steps, and two steps more."""
MIXED = ((3, 3, 3, 8), *((1, 1, 8, 8), (3, 3, 8, 8)) * 8)
"""Kernels of very different sizes, written one behind the other."""
GROUPS = (*((3, 3, 8, 8),) * 12, *((1, 1, 8, 4),) * 16)
"""Two loops, of three and four segments of four."""
H = 3.3


@pytest.fixture
def few_states(monkeypatch):
    """From here on no more bytes are kept than must be."""

    def keep(most):
        whole = trajectory._generate.__wrapped__
        monkeypatch.setattr(trajectory, "MOST_STATES", most)
        monkeypatch.setattr(trajectory, "MOST_PRODUCTS", most // 2)
        own = jax.jit(lambda *args, sizes: whole(*args, sizes=sizes), static_argnames="sizes")  # traced once more
        monkeypatch.setattr(trajectory, "_generate", own)

    return keep


def loss(puppeteer, shapes, h=H):
    return sum(jnp.square(kernel - 0.1).sum() for kernel in pj.generate_kernels(puppeteer, h, shapes))


@pytest.mark.parametrize(
    ("shapes", "kernels_from"),
    [
        pytest.param(SAME, "state", id="same"),
        pytest.param(MIXED, "velocity", id="mixed"),
        pytest.param(GROUPS, "state", id="groups", marks=pytest.mark.slow),
    ],
)
def test_kernels_and_gradients_are_the_same(few_states, shapes, kernels_from):
    puppeteer = pj.init_puppeteer(jax.random.key(0), 8, kernels_from=kernels_from)
    wanted = pj.generate_kernels(puppeteer, H, shapes)
    slopes = jax.grad(loss)(puppeteer, shapes)
    few_states(0)
    for kernel, one in zip(pj.generate_kernels(puppeteer, H, shapes), wanted, strict=True):
        np.testing.assert_allclose(kernel, one, rtol=1e-5, atol=1e-6)  # loops may round otherwise
    steepest = max(float(jnp.abs(slope).max()) for slope in jax.tree.leaves(slopes))
    for own, slope in zip(jax.tree.leaves(jax.grad(loss)(puppeteer, shapes)), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(own, slope, rtol=1e-4, atol=1e-5 * steepest)


@pytest.mark.slow
def test_every_transform(few_states):
    """Forward mode, second order and `vmap` over complexities."""
    puppeteer, shapes = pj.init_puppeteer(jax.random.key(0), 8), SAME[:16]
    h = jnp.array([2.5, 3.5])

    def slopes(h):
        total = lambda h: loss(puppeteer, shapes, h)  # noqa: E731
        return jax.jvp(total, (h,), (1.0,))[1], jax.grad(total)(h), jax.jacfwd(jax.grad(total))(h)

    wanted = jax.vmap(slopes)(h)
    few_states(0)
    found = jax.vmap(slopes)(h)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
    for own, one in zip(found, wanted, strict=True):
        np.testing.assert_allclose(own, one, rtol=1e-4)


def test_memory(few_states):
    """100 steps: 20 states instead of 100 states and as many products, beside the kernels and their cotangents."""
    puppeteer, shapes = pj.init_puppeteer(jax.random.key(0), 64), ((1, 1, 8, 8),) * 100
    state = 64 * 64 * 9 * 4

    def temporary():
        compiled = jax.jit(jax.grad(lambda one: loss(one, shapes))).lower(puppeteer).compile()
        return compiled.memory_analysis().temp_size_in_bytes / state

    assert temporary() > 200
    few_states(99 * state)
    assert temporary() < 50


@pytest.mark.parametrize(("steps", "kept"), [(15, 15), (16, 8), (100, 20), (103, 21)])
def test_a_summary_says_how_many(few_states, steps, kept):
    few_states(1000)
    size = TrajectorySize(
        max_channels=4, kernel_size=3, widest="a", largest="a", steps=(steps - 2, 2), state_bytes=4 * 4 * 9 * 4
    )
    assert size.kept_states == 1 + kept
    assert size.kept_products == 0
    assert size.num_bytes == size.kept_states * size.state_bytes
