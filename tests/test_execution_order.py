"""Which arrays a function uses first, by closed cases and on models whose names mislead."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax

import puppet_jax as pj

W = {name: jnp.eye(3) * (1 + place) for place, name in enumerate("abc")}  # leaves 0, 1, 2
X = jnp.ones((2, 3))


def order(function, weights=W, *args):
    return pj.execution_order(function, weights, *(args or (X,)))


def test_a_function_that_does_not_use_all_or_uses_some_twice():
    assert order(lambda w, x: x @ w["c"] @ w["a"]) == (2, 0)
    assert order(lambda w, x: x @ w["b"] @ w["c"] @ w["b"] @ w["a"]) == (1, 2, 0)
    assert order(lambda w, x: x) == ()
    assert order(lambda w, x: jnp.zeros(()) * x @ w["a"], {"a": W["a"]}) == (0,)


def test_both_operands_of_one_operation_count_from_left_to_right():
    assert order(lambda w, x: x @ (w["c"] @ w["b"]) @ w["a"]) == (2, 1, 0)


def test_weights_and_inputs_may_be_described_only():
    described = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), (W, X))
    assert pj.execution_order(lambda w, x: x @ w["b"] @ w["a"], *described) == (1, 0)


def test_further_arguments_are_pytrees_and_do_not_count():
    function = lambda w, batch: batch["x"] @ batch["scale"] @ w["b"] @ w["a"]  # noqa: E731
    assert order(function, W, {"x": X, "scale": jnp.eye(3)}) == (1, 0)


def reversed_order(w, x):
    return x @ w["c"] @ w["b"] @ w["a"]


@pytest.mark.parametrize(
    "wrapped",
    [
        pytest.param(jax.jit(reversed_order), id="jit"),
        pytest.param(jax.jit(lambda w, x: jax.jit(reversed_order)(w, x) + 1), id="jit in jit"),
        pytest.param(jax.checkpoint(reversed_order), id="remat"),
        pytest.param(lambda w, x: jax.vmap(reversed_order, in_axes=(None, 0))(w, x[:, None]), id="vmap"),
        pytest.param(lambda w, x: jax.vjp(reversed_order, w, x)[0], id="vjp"),
        pytest.param(
            lambda w, x: lax.cond(x.sum() > 0, reversed_order, lambda w, x: x @ w["c"] @ w["b"] @ w["a"] + 1, w, x),
            id="cond",
        ),
    ],
)
def test_programs_inside_programs(wrapped):
    assert order(wrapped) == (2, 1, 0)


def test_custom_derivatives():
    @jax.custom_vjp
    def reverse(w, x):
        return reversed_order(w, x)

    reverse.defvjp(lambda w, x: (reverse(w, x), (w, x)), lambda saved, g: (saved[0], g))

    @jax.custom_jvp
    def forward(w, x):
        return reversed_order(w, x)

    forward.defjvp(lambda primals, tangents: (forward(*primals), tangents[1]))
    assert order(reverse) == order(forward) == (2, 1, 0)


def test_the_branches_of_a_cond_are_taken_one_after_the_other():
    """The last branch of `lax.cond` is the true one; each uses a weight that the other does not."""
    function = lambda w, x: lax.cond(x.sum() > 0, lambda: x @ w["a"], lambda: x @ w["c"]) @ w["b"]  # noqa: E731
    assert order(function) == (2, 0, 1)


def test_scan_over_stacked_inputs_with_constant_weights():
    """The loop's operands are constants, carry and inputs, whatever the order in which they are used."""

    def function(w, xs):
        def body(carry, x):
            return (carry + x @ w["c"]) @ w["a"], carry @ w["b"]

        return lax.scan(body, jnp.zeros(3), xs)

    assert order(function) == (2, 0, 1)


def test_scan_over_stacked_weights():
    stacked = {"first": jnp.eye(3), "layers": jnp.ones((4, 3, 3))}
    function = lambda w, x: lax.scan(lambda y, one: (y @ one, None), x, w["layers"])[0] @ w["first"]  # noqa: E731
    assert order(function, stacked) == (1, 0)


def test_while_whose_condition_uses_weights_too():
    def function(w, x):
        condition = lambda y: ((y @ w["c"]).sum() + (y @ w["b"]).sum()) < 100.0  # noqa: E731
        return lax.while_loop(condition, lambda y: y @ w["a"], x)

    assert order(function) == (2, 1, 0)
    assert order(lambda w, x: lax.fori_loop(0, x.shape[0], lambda i, y: y @ w["b"] @ w["a"], x)) == (1, 0)


def test_formatting_all_weights_up_front_is_no_use():
    """Mixed precision casts the whole tree, and layouts are changed, before the first layer runs."""

    def function(w, x):
        w = jax.tree.map(lambda one: jnp.transpose(one.astype(jnp.bfloat16))[None].reshape(3, 3), w)
        return reversed_order(w, x)

    assert order(function) == (2, 1, 0)


def test_formatting_in_a_program_of_its_own_is_no_use():
    half = jax.jit(lambda w: jax.tree.map(lambda one: one.astype(jnp.bfloat16).T, w))
    assert order(lambda w, x: reversed_order(half(w), x)) == (2, 1, 0)
    assert order(lambda w, x: reversed_order(lax.optimization_barrier(w), x)) == (2, 1, 0)
    twice = lambda w, x: jax.jit(lambda w: half(half(w)))(w)["c"] @ w["a"]  # noqa: E731
    assert order(twice) == (2, 0)


def test_linen_with_more_than_ten_convolutions():
    """Sorted, Conv_10 and Conv_11 come before Conv_2, and the named shortcut after all of them."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            skip = nn.Conv(4, (1, 1), name="Shortcut", use_bias=False)(x)
            for _ in range(12):
                x = nn.relu(nn.Conv(4, (3, 3), use_bias=False)(x))
            return x + skip

    net, x = Net(), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    names = sorted(params)
    assert names[:4] == ["Conv_0", "Conv_1", "Conv_10", "Conv_11"]  # the order of jax.tree.leaves
    places = pj.execution_order(lambda p, x: net.apply({"params": p}, x), params, x)
    assert [names[place] for place in places] == ["Shortcut", *(f"Conv_{n}" for n in range(12))]
