"""In which order a model uses the weights that are generated for it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from puppet_jax.execution_order import uses
from puppet_jax.puppetized.plan import Generated, Plan
from puppet_jax.puppetized.weights import put


class Kernel(nnx.Param):
    """A generated kernel inside an instantiated model, a parameter of it like any other.

    The puppet that made the model holds none.
    """


def call(model: Any, /, *args: Any, **kwargs: Any) -> Any:
    """What a model returns."""
    return model(*args, **kwargs)


def find_order(model: nnx.Module, plan: Plan, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    """Traces `function(model, *args, **kwargs)`, unless it is `call` and was traced on such inputs before.

    Fills the order of `plan`, or compares it. Another function is not remembered: it may hold arrays.

    Args:
        model: without the weights that are generated.
        plan: of the model.
        function: that runs the model.
        *args: of the function.
        **kwargs: likewise.

    Raises:
        ValueError: if a weight is not used, or the order is another than before.
    """
    graphdef, state = nnx.split(model)
    leaves, treedef = jax.tree.flatten((args, kwargs))
    described = tuple(map(_described, leaves))
    key: Any = (graphdef, treedef, described) if function is call else None
    try:
        if key is not None and key in plan.seen:
            return
    except TypeError:  # a static attribute of the model cannot be hashed: trace every call
        key = None

    arrays = [x for x in leaves if _is_traced(x)]

    def run(kernels: list[Any], state: Any, arrays: list[Any]) -> Any:
        model = nnx.merge(graphdef, state, copy=True)
        put_kernels(model, plan.kernels, kernels)
        given = iter(arrays)
        args, kwargs = jax.tree.unflatten(treedef, [next(given) if _is_traced(x) else x for x in leaves])
        result = function(model, *args, **kwargs)
        return [x for x in jax.tree.leaves(result) if isinstance(x, jax.Array)]

    like = [jax.ShapeDtypeStruct(generated.shape, generated.dtype) for generated in plan.kernels]
    used = uses(run, like, state, arrays)
    order = tuple(dict.fromkeys(place for place, _ in used))
    if plan.order is None:
        missing = [str(plan.kernels[place]) for place in sorted(set(range(len(like))) - set(order))]
        if missing:
            raise ValueError(
                f"a call with these inputs does not use {', '.join(missing)}, so their place in the trajectory is "
                "not known. Give puppetize an example for which they run, or leave them alone with `where`."
            )
        plan.order = order
    elif [place for place in plan.order if place in order] != list(order):
        then, now = ([str(plan.kernels[place]) for place in places] for places in (plan.order, order))
        raise ValueError(
            f"the weights are used in another order than in the first call: then {', '.join(then)}; now "
            f"{', '.join(now)}. A kernel's place in the trajectory must not depend on the input."
        )
    plan.altered |= {place for place, primitive in used if primitive != "conv_general_dilated"}
    if key is not None:
        plan.seen.add(key)


def put_kernels(model: nnx.Module, places: Sequence[Generated], kernels: Sequence[Array]) -> None:
    """Puts kernels where they belong in `model`, in place."""
    for generated, kernel in zip(places, kernels, strict=True):
        value = Kernel(kernel.astype(generated.dtype))
        for path in generated.paths:
            put(model, path, value)


def _is_traced(leaf: Any) -> bool:
    """Arrays are; numbers stay what they are, those of NumPy too: a model may branch or make shapes by them."""
    return hasattr(leaf, "dtype") and not isinstance(leaf, np.generic)


def _described(leaf: Any) -> Any:
    """What of an input may decide the order: of a float, as of an array, not its value."""
    if _is_traced(leaf):
        return leaf.shape, str(leaf.dtype)
    return float if isinstance(leaf, float | np.floating) else repr(leaf)
