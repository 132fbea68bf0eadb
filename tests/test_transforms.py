"""JAX's transforms of a trajectory and of its kernels."""

import functools

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compilations, quick
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import puppet_jax as pj
from puppet_jax.puppeteer import kernel_field, start

C, H = 8, 2.3
SHAPES = ((3, 3, 3, 4), (1, 1, 4, 6), (3, 3, 6, 8))


@pytest.fixture(scope="module", params=quick(["state", "velocity"], "velocity"))
def puppeteer(request):
    return pj.init_puppeteer(jax.random.key(1), C, kernels_from=request.param)


def energy(puppeteer, h):
    return sum(jnp.square(kernel).sum() for kernel in pj.generate_kernels(puppeteer, h, SHAPES))


def direction(puppeteer):
    """A tangent of the puppeteer, of entries of about a tenth."""
    leaves, structure = jax.tree.flatten(puppeteer)
    rng = np.random.default_rng(0)
    return structure.unflatten([jnp.asarray(0.1 * rng.standard_normal(leaf.shape), jnp.float32) for leaf in leaves])


def dot(one, other):
    return sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@jax.jit
def solve(puppeteer, h):
    """States of five steps, by diffrax's own loop."""
    dl = pj.step_size(h)
    return dfx.diffeqsolve(
        dfx.ODETerm(lambda t, y, args: args[1] * kernel_field(args[0], y)),
        dfx.Euler(),
        t0=jnp.float32(0),
        t1=jnp.float32(5),
        dt0=jnp.float32(1),
        y0=start(puppeteer, h),
        args=(puppeteer, dl),
        saveat=dfx.SaveAt(t0=True, steps=True),
        max_steps=5,
        throw=False,
    ).ys


def test_a_gradient_of_the_field_outside_jit_is_compiled_once(puppeteer):
    state = pj.trajectory(puppeteer, H, 1)[1]
    gradient = jax.grad(lambda puppeteer, state: pj.field(puppeteer, state).sum(), (0, 1))
    first = gradient(puppeteer, state)
    with compilations() as compiled:
        again = gradient(puppeteer, state)
    assert compiled == []
    jax.tree.map(np.testing.assert_array_equal, again, first)


@pytest.mark.parametrize("h", [0.7, H, 1e4])
def test_states_are_those_of_diffeqsolve(puppeteer, h):
    """To the last bit."""
    h = jnp.float32(h)

    np.testing.assert_array_equal(pj.trajectory(puppeteer, h, 5), solve(puppeteer, h).transpose(0, 3, 2, 1))


def test_forward_mode_is_reverse_mode(puppeteer):
    tangent = direction(puppeteer)
    _, forward = jax.jvp(lambda p: energy(p, H), (puppeteer,), (tangent,))
    assert float(forward) == pytest.approx(dot(jax.grad(energy)(puppeteer, H), tangent), rel=1e-4)


def test_jacobian_by_h(puppeteer):
    """Forward, reverse and differences agree."""
    kernels = functools.partial(pj.generate_kernels, puppeteer, shapes=SHAPES)
    forward, reverse = jax.jacfwd(kernels)(H), jax.jacrev(kernels)(H)
    step = 1e-2
    differences = [(a - b) / (2 * step) for a, b in zip(kernels(H + step), kernels(H - step), strict=True)]
    scale = max(float(jnp.abs(difference).max()) for difference in differences)
    for one, other, difference in zip(forward, reverse, differences, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * scale)
        np.testing.assert_allclose(one, difference, atol=0.02 * scale)


def test_second_order(puppeteer):
    """A product with the Hessian is the difference of two gradients, in both orders of the modes."""
    tangent, step = direction(puppeteer), 1e-3
    gradient = jax.grad(lambda p: energy(p, H))
    _, over_reverse = jax.jvp(gradient, (puppeteer,), (tangent,))
    over_forward = jax.grad(lambda p: jax.jvp(lambda q: energy(q, H), (p,), (tangent,))[1])(puppeteer)
    ahead, behind = (
        gradient(jax.tree.map(lambda a, b: a + sign * step * b, puppeteer, tangent))  # noqa: B023
        for sign in (1, -1)
    )
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)
    norm = dot(difference, difference)
    for product in (over_reverse, over_forward):
        rest = jax.tree.map(jnp.subtract, product, difference)
        assert dot(rest, rest) < 1e-4 * norm


def test_export(puppeteer):
    """A program written to bytes gives the kernels and, asked for one, their derivative."""
    generate = jax.jit(lambda p, h: pj.generate_kernels(p, h, SHAPES))
    leaves, structure = jax.tree.flatten(puppeteer)
    exported = jax.export.export(jax.jit(lambda leaves, h: generate(structure.unflatten(leaves), h)))(
        leaves, jnp.float32(H)
    )
    read = jax.export.deserialize(exported.serialize(vjp_order=1))
    for one, other in zip(read.call(leaves, jnp.float32(H)), generate(puppeteer, jnp.float32(H)), strict=True):
        np.testing.assert_array_equal(one, other)
    found = jax.grad(lambda leaves: sum(jnp.square(k).sum() for k in read.call(leaves, jnp.float32(H))))(leaves)
    for one, other in zip(found, jax.tree.leaves(jax.grad(energy)(puppeteer, H)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_no_call_of_the_host(puppeteer):
    """It would keep the program out of the persistent compilation cache."""
    text = jax.jit(jax.grad(energy)).lower(puppeteer, H).as_text()
    assert "callback" not in text


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_gradient_under_a_mesh(puppeteer, kind):
    """The kind of axis that `jax.make_mesh` gives by default, and the other one."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
    wanted = jax.grad(energy)(puppeteer, H)
    with jax.set_mesh(mesh):
        placed = jax.device_put(puppeteer, NamedSharding(mesh, PartitionSpec()))
        found = jax.jit(jax.grad(energy))(placed, H)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_shard_map(puppeteer):
    """Each device generates the kernels of its own level of complexity."""
    mesh = jax.make_mesh((1,), ("levels",))
    generate = jax.vmap(lambda h: pj.generate_kernels(puppeteer, h, SHAPES))
    spec = PartitionSpec("levels")
    levels = jnp.array([0.9, H])
    placed = jax.device_put(levels, NamedSharding(mesh, spec))
    found = jax.jit(jax.shard_map(generate, mesh=mesh, in_specs=spec, out_specs=spec))(placed)
    for one, other in zip(found, generate(levels), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=5e-7)
