"""Adaptive average pooling and the projection of a state to an HWIO kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import quick
from hypothesis import given, settings, strategies as st

import puppet_jax as pj
from puppet_jax.projection import adaptive_average_pool

# Every example of a new shape is traced, which takes longer than the default deadline.
few_examples = settings(max_examples=8, deadline=None, derandomize=True, database=None)
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=3)


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def sizes_and_smaller(draw):
    shape = draw(sizes)
    return shape, [draw(st.integers(1, n)) for n in shape]


@st.composite
def sizes_and_divisors(draw):
    target = draw(sizes)
    return [m * draw(st.integers(1, 4)) for m in target], target


@few_examples
@given(sizes_and_smaller(), st.integers(0, 9))
def test_pool_matches_reference(shapes, seed):
    before, after = shapes
    x = normal(before, seed)
    actual = adaptive_average_pool(jnp.asarray(x), tuple(after))
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, reference.adaptive_average_pool(x, after), rtol=1e-5, atol=1e-6)


@few_examples
@given(sizes_and_divisors())
def test_pool_keeps_the_mean_where_sizes_divide(shapes):
    before, after = shapes
    x = normal(before)
    pooled = adaptive_average_pool(jnp.asarray(x), tuple(after))
    np.testing.assert_allclose(pooled.mean(), x.mean(dtype=np.float64), rtol=1e-5, atol=1e-6)


@few_examples
@given(sizes_and_smaller(), st.floats(-100, 100, width=32))
def test_pool_keeps_constants(shapes, value):
    before, after = shapes
    pooled = adaptive_average_pool(jnp.full(before, value, jnp.float32), tuple(after))
    np.testing.assert_allclose(pooled, np.full(after, value), rtol=1e-5, atol=1e-30)


@few_examples
@given(sizes)
def test_pool_to_the_same_shape_is_the_identity(shape):
    x = normal(shape)
    np.testing.assert_array_equal(adaptive_average_pool(jnp.asarray(x), tuple(shape)), x)


def test_pool_by_hand():
    """Five to three: the bins [0, 2), [1, 4), [3, 5) overlap."""
    pooled = adaptive_average_pool(jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]), (3,))
    np.testing.assert_allclose(pooled, [1.5, 14 / 3, 12.0], rtol=1e-6)


def hwio_shapes(channels, kernel_size):
    """Shapes whose bins are whole, overlap, cover everything or are single entries."""
    yield (kernel_size, kernel_size, channels, channels)
    yield (kernel_size, kernel_size, min(3, channels), channels // 2)
    yield (kernel_size, 1, channels // 2 + 1, channels - 1)
    yield (1, 1, channels, 1)
    if kernel_size > 2:
        yield (kernel_size - 1, kernel_size - 2, channels // 3 + 1, channels // 2)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("channels", quick([8, 64, 512], 8))
def test_project_matches_reference(channels, kernel_size):
    state = normal((channels, channels, kernel_size**2))
    for shape in hwio_shapes(channels, kernel_size):
        kernel = pj.project(jnp.asarray(state), shape)
        assert kernel.shape == shape
        assert kernel.dtype == jnp.float32
        assert reference.relative_error(kernel, reference.project(state, shape)) <= 1e-5, shape


def test_project_reads_taps_row_by_row():
    state = jnp.arange(2 * 2 * 9, dtype=jnp.float32).reshape(2, 2, 9)
    kernel = pj.project(state, (3, 3, 2, 2))
    for c_out in range(2):
        for c_in in range(2):
            np.testing.assert_array_equal(kernel[:, :, c_in, c_out].ravel(), state[c_out, c_in])


def test_project_under_jit_and_vmap():
    states = jnp.asarray(normal((3, 8, 8, 9)))
    shape = (3, 3, 3, 5)
    eager = jnp.stack([pj.project(state, shape) for state in states])
    np.testing.assert_allclose(jax.jit(lambda s: pj.project(s, shape))(states[0]), eager[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda s: pj.project(s, shape))(states), eager, rtol=1e-5, atol=1e-6)


def test_gradient_is_the_transpose():
    """Projection is linear, so <project(u), w> = <u, gradient of <project(x), w> at x>."""
    shape = (3, 2, 5, 3)
    u, x, w = normal((8, 8, 9), 1), normal((8, 8, 9), 2), normal(shape, 3)
    gradient = jax.grad(lambda s: (pj.project(s, shape) * w).sum())(jnp.asarray(x))
    expected = np.sum(reference.project(u, shape) * w)
    np.testing.assert_allclose(np.sum(u * np.asarray(gradient, np.float64)), expected, rtol=1e-5)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("shape", "match"),
    [
        pytest.param((3, 3, 8, 9), "larger than the state", id="too-many-outputs"),
        pytest.param((3, 3, 9, 8), "larger than the state", id="too-many-inputs"),
        pytest.param((5, 5, 8, 8), "larger than the state", id="too-many-taps"),
        pytest.param((3, 3, 8), "HWIO", id="rank-3"),
        pytest.param((8,), "HWIO", id="rank-1"),
        pytest.param((3, 3, 0, 8), "positive", id="no-inputs"),
        pytest.param((3, -3, 8, 8), "positive", id="negative"),
    ],
)
def test_project_refuses(shape, match):
    with pytest.raises(ValueError, match=match):
        pj.project(jnp.zeros((8, 8, 9)), shape)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("shape", "match"),
    [
        pytest.param((4, 6, 2), r"\(4, 6, 2\)", id="larger"),
        pytest.param((4, 5), "each axis", id="rank"),
        pytest.param((4, 0, 2), r"\(4, 0, 2\)", id="empty"),
    ],
)
def test_pool_refuses(shape, match):
    with pytest.raises(ValueError, match=match):
        adaptive_average_pool(jnp.zeros((4, 5, 6)), shape)
