"""What a call makes in a copy of a model, brought back to the model itself."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
from flax import nnx

from puppet_jax.puppetized.order import Kernel

_NONE = object()


class Pair(NamedTuple):
    """A module or variable of a copy, and that of the model at the same path.

    Attributes:
        made: of the copy.
        kept: of the model.
        generated: names of the attributes of `made` that are generated kernels; `kept` has none there.
    """

    made: Any
    kept: Any
    generated: frozenset[str]


def pair_up(made: nnx.Module, kept: nnx.Module) -> list[Pair]:
    """Pairs of a copy that no call has changed yet."""
    originals = dict(nnx.iter_graph(kept))
    return [
        Pair(node, originals[path], frozenset(name for name, value in _attributes(node) if isinstance(value, Kernel)))
        for path, node in nnx.iter_graph(made)
        if _is_node(node) and _is_node(originals.get(path))
    ]


def bring_back(pairs: Sequence[Pair]) -> None:
    """Gives the modules of a model what a call has made, set or deleted in those of its copy.

    What the call took from elsewhere in the copy is taken from there in the model. What holds a generated kernel stays
    with the copy.
    """
    originals = {id(pair.made): pair.kept for pair in pairs}
    for made, kept, generated in pairs:
        if not isinstance(made, nnx.Pytree):
            continue
        _set_attributes(made, kept, generated, lambda value: _original(value, originals))
        for name in {name for name, _ in _attributes(kept)} - {name for name, _ in _attributes(made)}:
            delattr(kept, name)


def _set_attributes(made: Any, kept: Any, left_out: frozenset[str], original: Callable[[Any], Any]) -> None:
    for name, value in _attributes(made):
        is_data = not made._pytree__is_pytree or made._pytree__nodes[name]
        found = original(value) if is_data else value
        if name not in left_out and not _is_same(found, vars(kept).get(name, _NONE)) and not _holds_kernel(found):
            setattr(kept, name, nnx.data(found) if is_data else nnx.static(found))


def _original(value: Any, originals: dict[int, Any]) -> Any:
    """The value with the nodes of the model in place of those of its copy, inside new modules and containers too."""
    if id(value) in originals:
        return originals[id(value)]
    if isinstance(value, nnx.Pytree):
        originals[id(value)] = value  # new: it becomes one of the model's
        _set_attributes(value, value, frozenset(), lambda one: _original(one, originals))
    if not _is_container(value):
        return value
    return jax.tree.map(lambda one: _original(one, originals), value, is_leaf=_is_node)


def _attributes(node: Any) -> list[tuple[str, Any]]:
    own = vars(node).items() if isinstance(node, nnx.Pytree) else ()
    return [(name, value) for name, value in own if not name.startswith("_pytree__")]


def _is_node(value: Any) -> bool:
    return isinstance(value, nnx.Pytree | nnx.Variable)


def _is_container(value: Any) -> bool:
    return not _is_node(value) and not jax.tree_util.all_leaves([value], is_leaf=_is_node)


def _is_same(one: Any, other: Any) -> bool:
    """Whether both are one object, or containers of the same objects."""
    if one is other or not (_is_container(one) and _is_container(other)):
        return one is other
    ones, others = (jax.tree.leaves(value, is_leaf=_is_node) for value in (one, other))
    structure, same = (cast(Any, jax.tree.structure(value, is_leaf=_is_node)) for value in (one, other))
    return bool(structure == same) and all(a is b for a, b in zip(ones, others, strict=True))


def _holds_kernel(value: Any) -> bool:
    nodes = jax.tree.leaves(value, is_leaf=_is_node) if _is_container(value) else [value]
    return any(isinstance(node, Kernel) for top in nodes if _is_node(top) for _, node in nnx.iter_graph(top))
