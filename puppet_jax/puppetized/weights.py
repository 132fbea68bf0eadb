"""Finds the weights of a Flax NNX model that are to be generated, and takes them out."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax.numpy as jnp
from flax import nnx
from jax import lax

from puppet_jax.convolution import convolve
from puppet_jax.puppetized.plan import Generated, Path, name_of

Where = Callable[[Path, nnx.Module], bool]
Weights = str | Callable[[Path, nnx.Variable], bool]

_CONVOLUTIONS = (nnx.Conv, nnx.ConvTranspose)
_MATRICES = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum)
_WEIGHTS: dict[Any, str] = dict.fromkeys((*_CONVOLUTIONS, *_MATRICES), "kernel") | {nnx.Embed: "embedding"}


def take_weights(model: nnx.Module, weights: Weights, where: Where | None) -> tuple[tuple[Generated, ...], list[Any]]:
    """Takes the weights to be generated out of `model`, in place; returns what they were, and their values.

    Raises:
        TypeError, ValueError: see `puppetize`.
    """
    found = list(_parameters(model))
    candidates = [one for one in found if _is_candidate(weights, *one)]
    if weights not in ("convolutions", "all") and not callable(weights):
        raise ValueError(f"weights must be convolutions, all or a function, got {weights!r:.80}.")
    if not candidates:
        what = "no nnx.Conv and no nnx.ConvTranspose" if weights == "convolutions" else "no such weight"
        raise ValueError(f"{type(model).__name__} holds {what}; nothing to generate{_other(weights, found)}.")
    chosen = [one for one in candidates if where is None or where(one[0][:-1], one[1])]
    if not chosen:
        names = ", ".join(name_of(path) for path, *_ in candidates)
        raise ValueError(f"where matches none of the {len(candidates)} weights ({names}).")
    sharing: dict[int, tuple[Generated, list[Path]]] = {}
    values: dict[int, Any] = {}
    for path, module, variable in chosen:
        if id(variable) not in sharing:
            sharing[id(variable)] = _describe(path, module, variable), []
            values[id(variable)] = variable.get_value()
        sharing[id(variable)][-1].append(path)
    for path, module, _ in chosen:
        put(model, path, nnx.data(None))
        if isinstance(module, nnx.Conv) and module.conv_general_dilated is lax.conv_general_dilated:
            module.conv_general_dilated = convolve
    generated = tuple(dataclasses.replace(one, paths=tuple(paths)) for one, paths in sharing.values())
    return generated, list(values.values())


def at(model: Any, path: Path) -> Any:
    """What lies at a path."""
    for part in path:
        model = model[part] if _by_key(model, part) else getattr(model, part)
    return model


def put(model: Any, path: Path, value: Any) -> None:
    """Puts a value where a path leads to, in place."""
    *parents, last = path
    parent = at(model, tuple(parents))
    if _by_key(parent, last):
        parent[last] = value
    else:
        setattr(parent, last, value)


def _by_key(container: Any, part: Any) -> bool:
    return isinstance(container, dict | list | tuple) or not isinstance(part, str)


def _parameters(model: nnx.Module) -> Iterator[tuple[Path, Any, Any]]:
    """Path, module and variable of each parameter, once for each module that holds it."""
    for path, node in nnx.iter_graph(model):
        if not isinstance(node, nnx.Pytree | list | dict) or isinstance(node, nnx.Variable):
            continue
        own = _weight_of(node)
        if own is not None:  # also one that is no parameter, or missing
            yield (*path, own), node, getattr(node, own)
        for name, child in nnx.iter_children(node):
            if isinstance(child, nnx.Param) and name != own:
                yield (*path, name), node, child


def _weight_of(module: Any) -> str | None:
    """The name of the weight of a layer of Flax."""
    return next((name for kind, name in _WEIGHTS.items() if isinstance(module, kind)), None)


def _is_candidate(weights: Weights, path: Path, module: Any, variable: Any) -> bool:
    if callable(weights):
        return isinstance(variable, nnx.Param) and weights(path, variable)
    return path[-1] == _weight_of(module) and (weights == "all" or isinstance(module, _CONVOLUTIONS))


def _other(weights: Weights, found: Sequence[tuple[Path, Any, Any]]) -> str:
    """A hint, where there are weights of another kind."""
    others = [path for path, module, variable in found if _is_candidate("all", path, module, variable)]
    if weights != "convolutions" or not others:
        return ""
    return f'. With weights="all" {name_of(others[0])} would be'


def _describe(path: Path, module: Any, variable: Any) -> Generated:
    """The kernels of one parameter.

    Raises:
        TypeError, ValueError: if there are none that could be generated.
    """
    shape = tuple(getattr(variable, "shape", ()))
    own = _own_shape(path, module, shape)
    lead = len(shape) - len(own)
    if lead < 0 or shape[lead:] != own:
        raise TypeError(
            f"{name_of(path)} holds a weight of shape {shape}, where {own} was expected, or a stack of such on the "
            "first axes: already puppetized weights and others cannot be generated; leave them alone with `where`."
        )
    dtype = variable.dtype
    if not jnp.issubdtype(dtype, jnp.floating) or 0 in shape:
        raise ValueError(f"{name_of(path)} has shape {shape} and dtype {dtype}; only floats can be generated.")
    if isinstance(module, _CONVOLUTIONS) and path[-1] == "kernel":
        *window, c_in, c_out = own
        hwio = (math.prod(window[:-1]), window[-1], c_in, c_out)
    else:
        outs = module.out_features if isinstance(module, nnx.LinearGeneral) else own[-1:]
        hwio = (1, 1, math.prod(own) // math.prod(outs), math.prod(outs))
    lookup = isinstance(module, nnx.Embed)
    return Generated((path,), shape, dtype, hwio, math.prod(shape[:lead]), lookup)


def _own_shape(path: Path, module: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one kernel, without the axes of a stack."""
    if path[-1] != _weight_of(module):
        if len(shape) < 2:
            raise ValueError(f"{name_of(path)} has shape {shape}; only weights of two axes or more can be generated.")
        return shape
    if isinstance(module, _CONVOLUTIONS):
        return tuple(module.kernel_shape)
    if isinstance(module, nnx.LinearGeneral):
        return (*module.in_features, *module.out_features)
    if isinstance(module, nnx.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nnx.Embed):
        return module.num_embeddings, module.features
    return tuple(cast(nnx.Einsum, module).kernel_shape)
