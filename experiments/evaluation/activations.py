"""Peak memory of activations, from what a network computes and not from how it is written."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from puppet_jax.cpu.fast_convolution import is_convolution, is_filter_each
from puppet_jax.mirrored_convolution import is_mirrored_convolution

_CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "checkpoint": "jaxpr"}
"""Primitives that run a program, and the parameter that holds it."""
_ELSEWHERE = ("dot_general", "gather", "rev", "transpose", "sort", "pad", "concatenate", "scan", "while", "cond")
"""Primitives whose result cannot take the place of what they read, beside convolutions and windows."""


class _Operation(NamedTuple):
    """Which values it reads and makes, the sizes of those made, whether they may take the place of one that is read."""

    read: tuple[int, ...]
    made: tuple[int, ...]
    sizes: tuple[int, ...]
    in_place: bool


def peak_activations(function: Callable[[Any], Any], images: Any) -> int:
    """Most numbers that follow from the images and are held at once, if operations run one after the other.

    Nothing is computed. Convolutions, products and windows write elsewhere than they read; what works entry by entry
    (biases, norms, ReLU, a residual sum) writes where it reads, if that is not read again. Weights do not count.

    Args:
        function: of the images alone, can be traced by `jax.make_jaxpr`.
        images: an array or a `jax.ShapeDtypeStruct`.

    Returns:
        Their number: bytes, in 8 bits.
    """
    program = jax.make_jaxpr(function)(images).jaxpr
    values = itertools.count()
    operations: list[_Operation] = []
    begin = tuple(next(values) for _ in program.invars)
    results = _run(program, begin, values, operations)
    last = {value: n for n, operation in enumerate(operations) for value in operation.read}
    last |= dict.fromkeys(results, len(operations))
    held = dict(zip(begin, map(_size, program.invars), strict=True))
    peak = sum(held.values())
    for n, operation in enumerate(operations):
        read = [value for value in operation.read if value in held]
        if not read:
            continue  # of weights alone
        made = dict(zip(operation.made, operation.sizes, strict=True))
        place = max((held[value] for value in read if last[value] == n), default=0)
        fits = operation.in_place and sum(made.values()) <= place
        peak = max(peak, sum(held.values()) + (0 if fits else sum(made.values())))
        held = {value: size for value, size in (held | made).items() if last.get(value, -1) > n}
    return peak


def _run(program: Jaxpr, given: Sequence[int], values: Iterator[int], operations: list[_Operation]) -> tuple[int, ...]:
    """Adds the operations of a program, and of those that it calls; returns its results."""
    known: dict[Any, int] = dict(zip(program.invars, given, strict=True))

    def number(variable: Any) -> int:
        if isinstance(variable, Literal):
            return -1
        return known.setdefault(variable, next(values))

    for equation in program.eqns:
        read = tuple(map(number, equation.invars))
        inner = _program(equation)
        if inner is not None:
            known |= zip(equation.outvars, _run(inner, read, values, operations), strict=True)
        else:
            made = tuple(map(number, equation.outvars))
            sizes = tuple(_size(variable) for variable in equation.outvars)
            operations.append(_Operation(read, made, sizes, _in_place(equation)))
    return tuple(map(number, program.outvars))


def _program(equation: Any) -> Jaxpr | None:
    """What an equation calls, where that is no convolution of the library's."""
    if is_filter_each(equation) or is_convolution(equation) or is_mirrored_convolution(equation):
        return None
    inner = equation.params.get(_CALLS.get(equation.primitive.name, ""))
    return inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner


def _in_place(equation: Any) -> bool:
    name = equation.primitive.name
    elsewhere = name in _ELSEWHERE or name.startswith(("conv_general", "reduce_window", "select_and_"))
    return not (elsewhere or name in _CALLS)


def _size(variable: Any) -> int:
    return int(variable.aval.size)
