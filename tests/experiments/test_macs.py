"""Multiply-accumulates against closed forms."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from experiments.networks.macs import count_macs


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("options", "kernel", "expected"),
    [
        ({}, (3, 3, 6, 4), 2 * 8 * 10 * 4 * 9 * 6),
        ({"window_strides": (2, 2)}, (3, 3, 6, 4), 2 * 4 * 5 * 4 * 9 * 6),
        ({"rhs_dilation": (2, 2), "padding": "VALID"}, (3, 3, 6, 4), 2 * 4 * 6 * 4 * 9 * 6),
        ({"feature_group_count": 2}, (3, 3, 3, 4), 2 * 8 * 10 * 4 * 9 * 3),
        ({"feature_group_count": 6}, (3, 3, 1, 6), 2 * 8 * 10 * 6 * 9),
        ({}, (1, 5, 6, 7), 2 * 8 * 10 * 7 * 5 * 6),
    ],
    ids=["plain", "strided", "dilated", "grouped", "depthwise", "1x5"],
)
def test_convolution(options, kernel, expected):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options

    def conv(x, kernel):
        return lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)

    assert count_macs(conv, array(2, 8, 10, 6), array(*kernel)) == expected


def test_the_order_of_the_axes_does_not_matter():
    def conv(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME")  # NCHW, OIHW

    assert count_macs(conv, array(2, 6, 8, 10), array(4, 6, 3, 3)) == 2 * 8 * 10 * 4 * 9 * 6


@pytest.mark.parametrize(
    ("spec", "shapes", "expected"),
    [
        ("bi,io->bo", [(3, 4), (4, 5)], 3 * 4 * 5),
        ("sbi,sio->sbo", [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        ("bij,ijo->bo", [(3, 4, 5), (4, 5, 6)], 3 * 4 * 5 * 6),
        ("i,i->", [(7,), (7,)], 7),
    ],
)
def test_matrix_product(spec, shapes, expected):
    assert count_macs(lambda *xs: jnp.einsum(spec, *xs), *map(lambda shape: array(*shape), shapes)) == expected


def product(x, y):
    return jax.nn.relu(x @ y) + 1


X, Y, ONE = array(3, 4), array(4, 4), 3 * 4 * 4


class TestNesting:
    @pytest.mark.parametrize(
        "wrap",
        [jax.jit, jax.checkpoint, jax.custom_jvp, jax.custom_vjp, lambda f: jax.jit(jax.checkpoint(jax.jit(f)))],
        ids=["jit", "checkpoint", "custom_jvp", "custom_vjp", "thrice"],
    )
    def test_within(self, wrap):
        inner = wrap(product)
        if wrap is jax.custom_jvp:
            inner.defjvp(lambda primals, tangents: (product(*primals), tangents[0]))
        elif wrap is jax.custom_vjp:
            inner.defvjp(lambda x, y: (product(x, y), None), lambda _, g: (g, g))
        assert count_macs(lambda x, y: inner(product(x, y), y), X, Y) == 2 * ONE

    def test_a_scan_counts_its_rounds(self):
        def scanned(x, y):
            return lax.scan(lambda carry, _: (product(carry, y), None), x, length=5)

        assert count_macs(scanned, X, Y) == 5 * ONE
        assert count_macs(lambda x, y: lax.fori_loop(0, 5, lambda _, c: product(c, y), x), X, Y) == 5 * ONE

    def test_a_conditional_counts_the_costliest_branch(self):
        def conditional(x, y):
            return lax.cond(x.sum() > 0, lambda: product(x, y), lambda: product(product(x, y), y))

        assert count_macs(conditional, X, Y) == 2 * ONE

    def test_vmap_and_grad(self):
        assert count_macs(jax.vmap(product, in_axes=(0, None)), array(6, 3, 4), Y) == 6 * ONE
        assert count_macs(jax.grad(lambda y, x: product(x, y).sum()), Y, X) == 2 * ONE

    def test_a_loop_of_unknown_length(self):
        def rounds(body):
            return lambda x, y: lax.while_loop(lambda c: c.sum() < 0, lambda c: body(c, y), x)

        with pytest.raises(ValueError, match="while loop"):
            count_macs(rounds(product), X, Y)
        assert count_macs(rounds(lambda x, y: x + 1), X, Y) == 0


def test_entrywise_work_is_free():
    assert count_macs(lambda x, y: jnp.tanh(x * 2 + y[:3]).mean(), X, Y) == 0
