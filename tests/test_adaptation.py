"""Equations 10 and 11: values, limits, slopes, and the refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import puppet_jax as pj

LEVELS = np.concatenate([[0.0, 0.15, 0.3, 0.5, 0.9], np.linspace(1, 5.6, 24), [8.3, 20.2, 100.0]]).astype(np.float32)
NEARLY_ZERO = np.array([0.0, np.finfo(np.float32).tiny, 1e-30, 1e-20, 1e-13, 1e-7, 1e-3, 0.02], np.float32)
FUNCTIONS = {"step_size": pj.step_size, "depth": pj.depth, "initial_level": pj.initial_level}
SLOPES = {
    "step_size": lambda h: -((np.cosh(1 / h) * h) ** -2),
    "initial_level": lambda h: 2 * h**-3 * np.exp(1 - h**-2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_matches_reference(name):
    expected = [getattr(reference, name)(h) for h in LEVELS]
    if name == "depth":
        # The floor jumps where 1/dl is whole; none of the levels may be that near.
        distance = [abs(1 / reference.step_size(h) - round(1 / reference.step_size(h))) for h in LEVELS if h > 0.3]
        assert min(distance) > 1e-4
    for actual in (FUNCTIONS[name](jnp.asarray(LEVELS)), jax.jit(FUNCTIONS[name])(LEVELS)):
        assert actual.dtype == (jnp.int32 if name == "depth" else jnp.float32)
        np.testing.assert_allclose(actual, expected, rtol=0 if name == "depth" else 1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scalars_and_vmap(name):
    whole = FUNCTIONS[name](LEVELS)
    np.testing.assert_allclose(jax.vmap(FUNCTIONS[name])(jnp.asarray(LEVELS)), whole, rtol=1e-6)
    scalar = FUNCTIONS[name](jnp.float32(LEVELS[9]))
    assert scalar.shape == ()
    np.testing.assert_allclose(scalar, whole[9], rtol=1e-6)


@pytest.mark.parametrize(("h", "expected"), [(0.0, 1), (1.0, 1), (1.9, 2), (3.5, 3), (4.5, 4), (5.0, 5)])
def test_depth_by_hand(h, expected):
    """E.g. tanh(1/5) = 0.1974 goes five whole times into one."""
    assert reference.depth(h) == expected
    assert pj.depth(jnp.float32(h)) == expected


def test_limits_at_zero():
    np.testing.assert_array_equal(pj.step_size(NEARLY_ZERO), 1)
    np.testing.assert_array_equal(pj.depth(NEARLY_ZERO), 1)
    np.testing.assert_array_equal(pj.initial_level(NEARLY_ZERO), 0)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("name", SLOPES)
def test_slopes_vanish_at_zero(name, transform):
    for shape in ((), (1,)):
        slope = transform(jax.grad(lambda h: FUNCTIONS[name](h).sum()))
        for h in NEARLY_ZERO:
            np.testing.assert_array_equal(slope(jnp.full(shape, h)), np.zeros(shape), err_msg=f"h = {h}")


@pytest.mark.parametrize("name", SLOPES)
def test_slopes_match_their_formulas(name):
    h = np.array([0.3, 0.7, 1.0, 2.5, 5.0, 50.0])
    slopes = jax.vmap(jax.grad(FUNCTIONS[name]))(jnp.asarray(h, jnp.float32))
    np.testing.assert_allclose(slopes, SLOPES[name](h), rtol=1e-4)  # 1 - tanh² cancels at h = 0.3


def test_steps_of_the_depth_fill_the_unit_interval():
    h = np.linspace(0.1, 30, 500).astype(np.float32)
    dl, depth = np.asarray(pj.step_size(h), np.float64), np.asarray(pj.depth(h))
    assert np.all(depth >= 1)
    assert np.all(np.diff(depth) >= 0)
    assert np.all(depth * dl <= 1 + 1e-6)
    assert np.all((depth + 1) * dl > 1 - 1e-6)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("h", "match"),
    [
        pytest.param(np.float32(np.nan), "nan", id="nan"),
        pytest.param(np.array([1.0, np.nan], np.float32), "nan", id="nan-in-batch"),
        pytest.param(np.float32(np.inf), "finite.*inf", id="infinite"),
        pytest.param(np.float32(-1.0), "at least 0.*-1", id="negative"),
        pytest.param(
            np.array([1.0, -0.5], np.float32),
            "at least 0.*-0.5",
            id="negative-in-batch",
        ),
    ],
)
def test_refuses(name, h, match):
    with pytest.raises(ValueError, match=match):
        FUNCTIONS[name](jnp.asarray(h))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("h", [np.int64(2**33), np.uint64(2**63), np.array([2**33, 5]), np.int8(7)])
def test_integers_of_numpy_are_their_floats(h):
    for function in FUNCTIONS.values():
        found, expected = function(h), function(np.asarray(h, np.float32))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert jnp.all(pj.depth(h) > 4)
