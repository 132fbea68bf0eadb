"""Counts the multiply-accumulates of any JAX function, from what it computes and not from how it is written."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from puppet_jax.cpu.fast_convolution import is_convolution, is_filter_each
from puppet_jax.mirrored_convolution import is_mirrored_convolution


def count_macs(function: Callable[..., Any], *args: Any) -> int:
    """Multiply-accumulates of the convolutions and matrix products in one call of a function.

    Nothing is computed. What is added or scaled entry by entry (biases, batch norm, pooling) does not count; products
    with the zeros of padding do. A scan counts as often as it runs, a conditional as its costliest branch.

    Args:
        function: can be traced by `jax.make_jaxpr`.
        *args: pytrees of arrays, or of `jax.ShapeDtypeStruct`.

    Returns:
        The number, exact.

    Raises:
        ValueError: if there are products within a `while` loop, whose number of rounds is not known.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if is_convolution(equation):
        kernel = equation.invars[1].aval.shape
        produced = params["dimension_numbers"].rhs_spec[0] if name == "conv_general_dilated" else -1
        return equation.outvars[0].aval.size * math.prod(kernel) // kernel[produced]
    if is_mirrored_convolution(equation):  # half of a kernel for both of each pair of channels
        kernel = equation.invars[1].aval.shape
        return equation.outvars[0].aval.size // 2 * math.prod(kernel[:-1])
    if is_filter_each(equation):  # sums and multiples of slices
        _, height, width, _ = equation.invars[1].aval.shape
        return equation.outvars[0].aval.size * height * width
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    inner = [_count(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if name == "while" and any(inner):
        raise ValueError("the multiply-accumulates of a while loop cannot be counted: how often it runs is not known.")
    if name == "scan":
        return params["length"] * sum(inner)
    return max(inner) if name == "cond" else sum(inner)


def _jaxprs(value: Any) -> Iterator[Jaxpr]:
    """The programs in a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _jaxprs(part)
