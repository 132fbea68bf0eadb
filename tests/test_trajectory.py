"""Field, trajectory, kernels: against NumPy, closed forms and finite differences."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import puppet_jax as pj
from puppet_jax import puppeteer as puppeteer_module

LEAVES = (
    "depthwise_kernel",
    "depthwise_bias",
    "norm1_scale",
    "norm1_bias",
    "pointwise_kernel",
    "pointwise_bias",
    "norm2_scale",
    "norm2_bias",
)
INITIAL_STATES = ("seeded", "constant", "learned")
SCALE = 0.3
H = 2.3


def make_puppeteer(max_channels, kernel_size=3, initial_state="seeded", seed=0, **settings):
    """A puppeteer none of whose leaves is trivially one or zero."""
    puppeteer = pj.init_puppeteer(
        jax.random.key(0),
        max_channels=max_channels,
        kernel_size=kernel_size,
        initial_state=initial_state,
        seed=seed,
        scale=SCALE,
        **settings,
    )
    rng = np.random.default_rng(7)

    def normal(shape, mean=0.0, std=0.3):
        return jnp.asarray(mean + std * rng.standard_normal(shape), jnp.float32)

    c = max_channels
    leaves = {name: normal(c, mean=1.0 if name.endswith("scale") else 0.0) for name in LEAVES}
    leaves |= {"depthwise_kernel": normal((3, 3, c)), "pointwise_kernel": normal((c, c), std=c**-0.5)}
    if initial_state == "learned":
        leaves["initial_state"] = normal((c, c, kernel_size**2), std=SCALE)
    return dataclasses.replace(puppeteer, **leaves)


def as_params(puppeteer):
    return {name: np.asarray(getattr(puppeteer, name), np.float64) for name in LEAVES}


def unit_pattern(puppeteer, max_channels, kernel_size, initial_state, seed=0):
    """The initial state at level one."""
    if initial_state == "learned":
        return np.asarray(puppeteer.initial_state, np.float64)
    if initial_state == "seeded":
        return SCALE * np.asarray(pj.seeded_pattern(max_channels, kernel_size, seed), np.float64)
    return np.ones((max_channels, max_channels, kernel_size**2))


def layer_shapes(channels, kernel_size):
    small = max(kernel_size - 2, 1)
    return (
        (kernel_size, kernel_size, 3, channels // 2),
        (small, small, channels // 2, channels - 1),
        (kernel_size, kernel_size, channels, channels),
    )


SHAPES = layer_shapes(8, 3)


@partial(jax.jit, static_argnames="num_steps")
def trajectory(puppeteer, h, *, num_steps):
    """Compiled once for all tests that share a shape."""
    return pj.trajectory(puppeteer, h, num_steps=num_steps)


@partial(jax.jit, static_argnames="shapes")
def generate_kernels(puppeteer, h, *, shapes):
    """Compiled once for all tests that share the shapes."""
    return pj.generate_kernels(puppeteer, h, shapes)


# Values.


def size_cases():
    """Every combination; of the larger sizes only one initial state by default, for the time that compiling takes."""
    for channels in (8, 64, 512):
        for i, kernel_size in enumerate((1, 3, 5)):
            for j, initial_state in enumerate(INITIAL_STATES):
                usual = i == j if channels < 512 else i == j == 0
                marks = () if usual else pytest.mark.slow
                yield pytest.param(channels, kernel_size, initial_state, marks=marks)


@pytest.mark.parametrize(("channels", "kernel_size", "initial_state"), list(size_cases()))
def test_kernels_match_reference(channels, kernel_size, initial_state):
    puppeteer = make_puppeteer(channels, kernel_size, initial_state)
    pattern = unit_pattern(puppeteer, channels, kernel_size, initial_state)
    shapes = layer_shapes(channels, kernel_size)
    kernels = generate_kernels(puppeteer, jnp.float32(H), shapes=shapes)
    expected = reference.generate_kernels(as_params(puppeteer), np.float32(H), pattern, shapes)
    assert isinstance(kernels, tuple)
    assert [kernel.shape for kernel in kernels] == list(shapes)
    for kernel, wanted in zip(kernels, expected, strict=True):
        assert kernel.dtype == jnp.float32
        assert reference.relative_error(kernel, wanted) <= 1e-5


@pytest.mark.parametrize("h", [0.0, 0.4, 1.0, 4.5, 30.0])
@pytest.mark.parametrize("initial_state", INITIAL_STATES)
def test_trajectory_matches_reference(initial_state, h):
    puppeteer = make_puppeteer(8, 3, initial_state)
    pattern = unit_pattern(puppeteer, 8, 3, initial_state)
    states = trajectory(puppeteer, jnp.float32(h), num_steps=8)
    assert states.shape == (9, 8, 8, 9)
    assert states.dtype == jnp.float32
    expected = reference.trajectory(as_params(puppeteer), np.float32(h), pattern, 8)
    assert reference.relative_error(states[0], expected[0]) <= 1e-6
    # Where planes are of one value, as at h = 0, the norms divide mere rounding by sqrt(1e-5).
    assert reference.relative_error(states, expected) <= {0.0: 1e-3, 0.4: 1e-4}.get(h, 1e-5)


@pytest.mark.parametrize("h", [0.4, 2.3, 30.0, 1e6])
def test_kernels_from_the_velocity_are_the_field(h):
    """Layer n is the projected G(S_n), also where the steps are small."""
    puppeteer = make_puppeteer(8, kernels_from="velocity")
    states = reference.trajectory(as_params(puppeteer), np.float32(h), unit_pattern(puppeteer, 8, 3, "seeded"), 3)
    kernels = generate_kernels(puppeteer, jnp.float32(h), shapes=SHAPES)
    for state, kernel, shape in zip(states, kernels, SHAPES, strict=False):
        expected = reference.project(reference.field(state, as_params(puppeteer)), shape)
        assert reference.relative_error(kernel, expected) <= {0.4: 1e-4}.get(h, 1e-5)
    (wide,) = generate_kernels(puppeteer, jnp.float32(h), shapes=((3, 3, 16, 8),))
    halves = generate_kernels(puppeteer, jnp.float32(h), shapes=((3, 3, 8, 8),) * 2)
    np.testing.assert_array_equal(wide, np.concatenate(halves, axis=2))


def test_kernels_are_projected_states():
    puppeteer = make_puppeteer(8)
    states = trajectory(puppeteer, jnp.float32(H), num_steps=len(SHAPES))
    kernels = generate_kernels(puppeteer, jnp.float32(H), shapes=SHAPES)
    for state, kernel, shape in zip(states[1:], kernels, SHAPES, strict=True):
        assert reference.relative_error(kernel, pj.project(state, shape)) <= 1e-6


def test_wide_kernels_are_joined_from_several_states():
    """Input channels of 17 make blocks of 6, 6 and 5, output channels of 9 blocks of 5 and 4."""
    puppeteer = make_puppeteer(8)
    shapes = ((3, 3, 3, 8), (3, 3, 17, 9), (1, 1, 8, 16), (3, 3, 8, 8))
    states = trajectory(puppeteer, jnp.float32(H), num_steps=1 + 6 + 2 + 1)[1:]
    first, wide, pointwise, last = generate_kernels(puppeteer, jnp.float32(H), shapes=shapes)
    assert reference.relative_error(first, pj.project(states[0], shapes[0])) <= 1e-6
    parts = [pj.project(states[1 + n], (3, 3, (6, 6, 5)[n // 2], (5, 4)[n % 2])) for n in range(6)]
    expected = np.block([[np.asarray(parts[2 * row]), np.asarray(parts[2 * row + 1])] for row in range(3)])
    assert wide.shape == expected.shape == shapes[1]
    assert reference.relative_error(wide, expected) <= 1e-6
    halves = np.concatenate([pj.project(states[7 + n], (1, 1, 8, 8)) for n in range(2)], axis=-1)
    assert reference.relative_error(pointwise, halves) <= 1e-6
    assert reference.relative_error(last, pj.project(states[9], shapes[3])) <= 1e-6


def test_wide_windows_are_joined_from_several_states():
    """Five rows make blocks of 3 and 2; a window of nine taps is one block, whatever its form."""
    puppeteer = make_puppeteer(8)
    shapes = ((5, 4, 3, 9), (1, 9, 8, 8))
    states = trajectory(puppeteer, jnp.float32(H), num_steps=8 + 1)[1:]
    wide, flat = generate_kernels(puppeteer, jnp.float32(H), shapes=shapes)
    sizes = [(rows, 2, 3, channels) for rows in (3, 2) for _ in range(2) for channels in (5, 4)]
    parts = [np.asarray(pj.project(state, size)) for state, size in zip(states, sizes, strict=False)]
    rows = [
        np.concatenate([np.concatenate(parts[n + 2 * side : n + 2 * side + 2], -1) for side in (0, 1)], axis=1)
        for n in (0, 4)
    ]
    assert reference.relative_error(wide, np.concatenate(rows, axis=0)) <= 1e-6
    assert reference.relative_error(flat, pj.project(states[8], (1, 9, 8, 8))) <= 1e-6
    assert pj.num_steps(shapes, 8, kernel_size=3) == 9
    assert pj.num_steps(shapes, 8) == 3


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((3, 3, 8, 8), 1),
        ((3, 3, 9, 8), 2),
        ((3, 3, 8, 9), 2),
        ((3, 3, 16, 16), 4),
        ((1, 1, 17, 24), 9),
        ((1, 1, 1, 1), 1),
    ],
)
def test_number_of_steps(shape, steps):
    assert pj.num_steps([shape, np.zeros((3, 3, 3, 4))], 8) == steps + 1


def test_longer_networks_begin_with_the_same_kernels():
    puppeteer = make_puppeteer(8)
    short = generate_kernels(puppeteer, jnp.float32(H), shapes=SHAPES)
    long = generate_kernels(puppeteer, jnp.float32(H), shapes=SHAPES + SHAPES[:2])
    for kernel, same in zip(short, long, strict=False):
        assert reference.relative_error(same, kernel) <= 1e-6


def test_shapes_may_be_anything_with_a_shape():
    puppeteer = make_puppeteer(8)
    for shapes in (
        list(SHAPES),
        [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in SHAPES],
        [np.zeros(shape) for shape in SHAPES],
        [SHAPES[0], list(SHAPES[1]), jnp.zeros(SHAPES[2])],
    ):
        kernels = jax.eval_shape(lambda h, shapes=shapes: pj.generate_kernels(puppeteer, h, shapes), 1.0)
        assert isinstance(kernels, tuple)
        assert tuple(kernel.shape for kernel in kernels) == SHAPES


# Closed forms.


def test_no_field_leaves_the_state_where_it_is():
    zeros = jnp.zeros(8)
    puppeteer = dataclasses.replace(make_puppeteer(8), norm2_scale=zeros, norm2_bias=zeros)
    states = trajectory(puppeteer, jnp.float32(H), num_steps=5)
    assert np.any(states[0] != 0)
    np.testing.assert_array_equal(states, np.broadcast_to(states[0], states.shape))


@pytest.mark.parametrize("vanishing", ["norm2_scale", "pointwise_kernel"])
@pytest.mark.parametrize("initial_state", INITIAL_STATES)
def test_constant_field_moves_on_a_line(initial_state, vanishing):
    """Without variation before the last norm, S_n = S_0 + n dl tanh(bias)."""
    puppeteer = make_puppeteer(8, 3, initial_state)
    gone = {vanishing: jnp.zeros_like(getattr(puppeteer, vanishing)), "pointwise_bias": jnp.full(8, 0.5)}
    puppeteer = dataclasses.replace(puppeteer, **gone)
    states = np.asarray(trajectory(puppeteer, jnp.float32(H), num_steps=5), np.float64)
    slope = reference.step_size(np.float32(H)) * np.tanh(np.asarray(puppeteer.norm2_bias, np.float64))
    expected = states[0] + np.arange(6)[:, None, None, None] * slope[:, None, None]
    assert reference.relative_error(states, expected) <= 5e-7


def test_biases_before_a_norm_change_nothing():
    puppeteer = make_puppeteer(8)
    other = {name: getattr(puppeteer, name) + 1 for name in puppeteer_module.IDLE_BIASES}
    changed = dataclasses.replace(puppeteer, **other)
    states = [trajectory(one, jnp.float32(H), num_steps=3) for one in (puppeteer, changed)]
    np.testing.assert_array_equal(*states)


def test_one_channel_with_one_tap():
    """The norms of a single entry leave their biases."""
    puppeteer = dataclasses.replace(make_puppeteer(1, 1, "constant"), norm2_bias=jnp.array([0.7]))
    states = trajectory(puppeteer, jnp.float32(1.0), num_steps=3)
    expected = 1.0 + np.arange(4) * math.tanh(1.0) * math.tanh(0.7)
    np.testing.assert_allclose(states.ravel(), expected, rtol=1e-6)


def test_order_of_convergence():
    """Euler's error halves as the steps double.

    The time covered is num_steps · tanh(1/h), so h is chosen to keep it at one, and the learned initial
    state to cancel the level that h implies.
    """
    puppeteer = make_puppeteer(4, 3, "learned")
    params, start = as_params(puppeteer), np.asarray(puppeteer.initial_state, np.float64)
    exact, dt = start, 1 / 100
    for _ in range(100):  # the classical Runge-Kutta method
        k1 = reference.field(exact, params)
        k2 = reference.field(exact + dt / 2 * k1, params)
        k3 = reference.field(exact + dt / 2 * k2, params)
        k4 = reference.field(exact + dt * k3, params)
        exact = exact + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    steps, errors = np.array([16, 32, 64]), []
    for num_steps in steps:
        h = np.float32(1 / math.atanh(1 / num_steps))
        scaled = dataclasses.replace(puppeteer, initial_state=puppeteer.initial_state / reference.initial_level(h))
        states = pj.trajectory(scaled, jnp.asarray(h), num_steps=int(num_steps))
        errors.append(np.max(np.abs(np.asarray(states[-1], np.float64) - exact)))
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 0.85 < order < 1.15, (order, errors)


# Transformations. The initial states differ in nothing but the first row.

CASES = [("trajectory", "seeded"), ("generate_kernels", "constant"), ("generate_kernels", "learned")]
FUNCTIONS = {
    "trajectory": partial(trajectory, num_steps=3),
    "generate_kernels": partial(generate_kernels, shapes=SHAPES),
}
EAGER_FUNCTIONS = {
    "trajectory": partial(pj.trajectory, num_steps=3),
    "generate_kernels": partial(pj.generate_kernels, shapes=SHAPES),
}


def assert_outputs_close(actual, expected, tolerance):
    for got, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert reference.relative_error(got, wanted) <= tolerance


@pytest.mark.parametrize(("function", "initial_state"), CASES)
def test_jit_changes_nothing(function, initial_state):
    puppeteer = make_puppeteer(8, 3, initial_state)
    eager = EAGER_FUNCTIONS[function](puppeteer, jnp.float32(H))
    assert_outputs_close(FUNCTIONS[function](puppeteer, jnp.float32(H)), eager, 1e-6)


@pytest.mark.parametrize(("function", "initial_state"), CASES)
def test_vmap_over_levels_is_a_loop(function, initial_state):
    puppeteer = make_puppeteer(8, 3, initial_state)
    levels = jnp.array([0.7, 1.3, 2.9, 5.1])
    mapped = jax.vmap(FUNCTIONS[function], in_axes=(None, 0))(puppeteer, levels)
    for i, h in enumerate(levels):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
        assert_outputs_close(one, FUNCTIONS[function](puppeteer, h), 1e-5)


def test_vmap_over_puppeteers_is_a_loop():
    puppeteers = [make_puppeteer(8), jax.tree.map(lambda leaf: 0.5 * leaf, make_puppeteer(8))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *puppeteers)
    mapped = jax.vmap(FUNCTIONS["trajectory"], in_axes=(0, None))(stacked, jnp.float32(H))
    for states, puppeteer in zip(mapped, puppeteers, strict=True):
        assert_outputs_close(states, FUNCTIONS["trajectory"](puppeteer, jnp.float32(H)), 1e-5)


def test_one_program_serves_every_level():
    traces = 0

    @jax.jit
    def last_state(puppeteer, h):
        nonlocal traces
        traces += 1
        return pj.trajectory(puppeteer, h, num_steps=2)[-1]

    puppeteer = make_puppeteer(8)
    a, b = last_state(puppeteer, jnp.float32(1.0)), last_state(puppeteer, jnp.float32(4.0))
    assert traces == 1
    assert np.any(a != b)


# Gradients.

GRADIENT_SHAPES = ((3, 3, 2, 4), (2, 2, 4, 5), (3, 3, 5, 5))
OUTPUTS = {
    "trajectory": (
        lambda puppeteer, h: [pj.trajectory(puppeteer, h, num_steps=3)],
        lambda params, h, pattern: [reference.trajectory(params, h, pattern, 3)],
    ),
    "generate_kernels": (
        lambda puppeteer, h: pj.generate_kernels(puppeteer, h, GRADIENT_SHAPES),
        lambda params, h, pattern: reference.generate_kernels(params, h, pattern, GRADIENT_SHAPES),
    ),
}


def reference_gradients(loss, puppeteer, pattern, initial_state):
    """Finite differences of loss(params, h, pattern) by every leaf, and by h."""
    params = as_params(puppeteer)
    by_leaf = {
        name: reference.gradient(lambda x, name=name: loss(params | {name: x}, H, pattern), params[name])
        for name in LEAVES
    }
    if initial_state == "learned":
        by_leaf["initial_state"] = reference.gradient(lambda x: loss(params, H, x), pattern)
    return by_leaf, reference.gradient(lambda h: loss(params, h, pattern), H)


def assert_gradients_close(puppeteer, h, expected, by_h, tolerance):
    """Leaf by leaf; a leaf that a norm cancels has no slope of its own, hence the common magnitude."""
    magnitude = max(np.max(np.abs(slope)) for slope in expected.values())
    for name, slope in expected.items():
        error = np.max(np.abs(np.asarray(getattr(puppeteer, name), np.float64) - slope))
        assert error <= tolerance * max(np.max(np.abs(slope)), 0.01 * magnitude), (name, error)
    assert abs(float(h) - by_h) <= tolerance * max(abs(by_h), 0.01 * magnitude)


@pytest.mark.parametrize(
    ("function", "initial_state"),
    [
        ("generate_kernels", "seeded"),
        pytest.param("trajectory", "seeded", marks=pytest.mark.slow),
        *(
            pytest.param("generate_kernels", kind, marks=pytest.mark.slow)
            for kind in INITIAL_STATES
            if kind != "seeded"
        ),
    ],
)
def test_gradients_match_finite_differences_of_the_reference(function, initial_state):
    """In float64 tightly; once in float32, as well as that can."""
    outputs, reference_outputs = OUTPUTS[function]
    puppeteer = make_puppeteer(5, 3, initial_state)
    pattern = unit_pattern(puppeteer, 5, 3, initial_state)
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal(array.shape) for array in reference_outputs(as_params(puppeteer), H, pattern)]

    def reference_loss(params, h, pattern):
        arrays = reference_outputs(params, h, pattern)
        return sum(np.sum(w * np.sin(a)) for w, a in zip(weights, arrays, strict=True))

    def loss(puppeteer, h):
        arrays = outputs(puppeteer, h)
        return sum((jnp.asarray(w, a.dtype) * jnp.sin(a)).sum() for w, a in zip(weights, arrays, strict=True))

    expected, by_h = reference_gradients(reference_loss, puppeteer, pattern, initial_state)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), puppeteer)
        double = jax.jit(jax.grad(loss, argnums=(0, 1)))(wide, jnp.float64(H))
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(double))
        assert_gradients_close(*double, expected, by_h, 1e-6)
    if (function, initial_state) == ("generate_kernels", "seeded"):
        single = jax.jit(jax.grad(loss, argnums=(0, 1)))(puppeteer, jnp.float32(H))
        assert_gradients_close(*single, expected, by_h, 1e-4)


@pytest.mark.parametrize(("channels", "taps"), [(8, 9), (8, 1), (7, 25), (1, 9)])
def test_gradients_of_the_depthwise_convolution_are_those_of_the_sum_of_shifts(channels, taps):
    """A CPU has other forms of both; both modes, and a vmap of them."""
    rng = np.random.default_rng(4)
    state, kernel, seen = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((taps, channels, channels), (3, 3, channels), (taps, channels, channels))
    )

    @jax.jit
    def results(state, kernel, seen):
        def both(function):
            out, pull = jax.vjp(function, state, kernel)
            forward = jax.jvp(function, (state, kernel), (jnp.cos(state), jnp.cos(kernel)))[1]
            several = jax.vmap(jax.grad(lambda one: jnp.sum(jnp.sin(function(state, one)))))(jnp.stack([kernel] * 2))
            return out, *pull(seen), forward, several

        return both(puppeteer_module._depthwise), both(puppeteer_module._shifted)

    for own, expected in zip(*results(state, kernel, seen), strict=True):
        np.testing.assert_allclose(own, expected, atol=2e-6 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("initial_state", INITIAL_STATES)
def test_gradient_is_a_puppeteer(initial_state):
    puppeteer = make_puppeteer(8, 3, initial_state)

    def loss(puppeteer):
        return sum((kernel**2).sum() for kernel in pj.generate_kernels(puppeteer, jnp.float32(H), SHAPES))

    grads = jax.eval_shape(jax.grad(loss), puppeteer)
    assert type(grads) is type(puppeteer)
    assert jax.tree.structure(grads) == jax.tree.structure(puppeteer)
    for name in LEAVES + ("initial_state",) * (initial_state == "learned"):
        grad, leaf = getattr(grads, name), getattr(puppeteer, name)
        assert (grad.shape, grad.dtype) == (leaf.shape, leaf.dtype)


@pytest.mark.parametrize("initial_state", INITIAL_STATES)
def test_gradients_are_finite_at_and_near_zero(initial_state):
    def loss(puppeteer, h):
        return (pj.trajectory(puppeteer, h, num_steps=2) ** 2).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    puppeteer = make_puppeteer(8, 3, initial_state)
    for h in (0.0, 1e-30, 1e-20, 1e-3, 0.1):
        by_leaf, by_h = gradient(puppeteer, jnp.float32(h))
        assert np.isfinite(by_h), h
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(by_leaf)), h


# The initial state.


def test_defaults():
    """The seeded initial state of seed 0 at a tenth, and three by three taps."""
    puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=16)
    start = trajectory(puppeteer, jnp.float32(1.0), num_steps=1)[0]
    np.testing.assert_allclose(start, 0.1 * pj.seeded_pattern(16, 3, 0), rtol=1e-6)


def test_seed_and_scale_reach_the_initial_state():
    for seed in (0, 3):
        start = trajectory(make_puppeteer(8, seed=seed), jnp.float32(1.0), num_steps=1)[0]
        np.testing.assert_allclose(start, SCALE * pj.seeded_pattern(8, 3, seed), rtol=1e-6)


# Refusals.


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("function", OUTPUTS)
@pytest.mark.parametrize(
    ("h", "match"),
    [
        pytest.param(np.ones(1, np.float32), "scalar", id="vector"),
        pytest.param(np.ones((2, 2), np.float32), "scalar", id="matrix"),
        pytest.param(np.float32(np.nan), "nan", id="nan"),
        pytest.param(np.float32(-1.0), "at least 0.*-1", id="negative"),
    ],
)
def test_level_refused(function, h, match):
    with pytest.raises(ValueError, match=match):
        OUTPUTS[function][0](make_puppeteer(5), jnp.asarray(h))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("num_steps", [0, -1])
def test_trajectory_refuses(num_steps):
    with pytest.raises(ValueError, match="num_steps"):
        pj.trajectory(make_puppeteer(8), jnp.float32(H), num_steps=num_steps)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        pytest.param((), "at least one", id="none"),
        pytest.param(((3, 3, 8),), "HWIO", id="rank-3"),
        pytest.param(((3, 3, 0, 8),), "positive", id="no-inputs"),
    ],
)
def test_kernels_refused(shapes, match):
    with pytest.raises(ValueError, match=match):
        pj.generate_kernels(make_puppeteer(8), jnp.float32(H), shapes)
