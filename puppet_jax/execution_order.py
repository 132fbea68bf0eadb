"""In which order a model uses its kernels: read from the trace of a call, not from their names."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from puppet_jax.cpu.fast_convolution import is_convolution

# These only rename or reformat an array: a model may cast all its weights before it uses the first.
_ALIASES = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "device_put",
    "expand_dims",
    "optimization_barrier",
    "reduce_precision",
    "reshape",
    "sharding_constraint",
    "squeeze",
    "transpose",
}


def execution_order(function: Callable[..., Any], kernels: Any, *args: Any) -> tuple[int, ...]:
    """Which arrays a function uses, in the order of their first use.

    The names of a parameter tree say little about the order of execution: sorted, `Conv_10` comes before `Conv_2`, and
    a shortcut before the layer that it bypasses. A trajectory runs along the layers, so `generate_kernels` wants shapes
    in network order.

    Args:
        function: of the kernels and `args`, such as `lambda kernels, x: model.apply({"params": kernels}, x)`. It is
            traced, not run.
        kernels: a pytree of arrays or of `jax.ShapeDtypeStruct`.
        *args: further arguments, pytrees likewise.

    Returns:
        Places in `jax.tree.leaves(kernels)`, first used first; a leaf that is not used is not among them.

    Example:
        >>> import jax.numpy as jnp, puppet_jax as pj
        >>> weights = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2)), "c": jnp.ones((2, 2))}
        >>> pj.execution_order(lambda w, x: x @ w["c"] @ w["a"], weights, jnp.ones(2))
        (2, 0)
    """
    return tuple(dict.fromkeys(place for place, _ in uses(function, kernels, *args)))


def uses(function: Callable[..., Any], kernels: Any, *args: Any) -> list[tuple[int, str]]:
    """Every use of the arrays of `kernels` in order: its place, and the name of the primitive that uses it."""
    jaxpr = jax.make_jaxpr(function)(kernels, *args).jaxpr
    count = len(jax.tree.leaves(kernels))
    found: list[tuple[int, str]] = []
    _walk(jaxpr, [place if place < count else None for place in range(len(jaxpr.invars))], found)
    return found


def _walk(jaxpr: Jaxpr, operands: Sequence[int | None], found: list[tuple[int, str]]) -> list[int | None]:
    """Adds the uses to `found`; returns which of the results are arrays of `kernels` themselves."""
    places = dict(zip(jaxpr.invars, operands, strict=True))
    for eqn in jaxpr.eqns:
        used = [places.get(var) if isinstance(var, Var) else None for var in eqn.invars]
        if all(place is None for place in used):
            continue
        results: Sequence[int | None] = ()
        bodies = [] if is_convolution(eqn) else list(_bodies(eqn, used))
        if eqn.primitive.name in _ALIASES:
            results = used
        elif bodies:
            for body, inner in bodies:
                results = _walk(body, inner, found)
        else:
            name = "conv_general_dilated" if is_convolution(eqn) else eqn.primitive.name
            found += [(place, name) for place in used if place is not None]
        places |= zip(eqn.outvars, results, strict=False)
    return [places.get(var) if isinstance(var, Var) else None for var in jaxpr.outvars]


def _bodies(eqn: JaxprEqn, used: list[int | None]) -> Iterator[tuple[Jaxpr, list[int | None]]]:
    """The programs inside an equation, each with what it is given of `used`."""
    if eqn.primitive.name == "while":
        condition, body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        yield eqn.params["cond_jaxpr"].jaxpr, used[:condition] + used[condition + body :]
        yield eqn.params["body_jaxpr"].jaxpr, used[condition:]
        return
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            jaxpr = one.jaxpr if isinstance(one, ClosedJaxpr) else one
            # a branch of `cond` does not take the first operand, which chooses
            if isinstance(jaxpr, Jaxpr) and len(jaxpr.invars) in (len(used), len(used) - 1):
                yield jaxpr, used[len(used) - len(jaxpr.invars) :]
