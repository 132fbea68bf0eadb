"""Trees of arrays as safetensors files: what is stored of a model, and reading it without running code."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_META = "puppet_jax"


def save_tree(path: Path, tree: Any, meta: Mapping[str, Any]) -> None:
    """Writes every array leaf under a readable name, at once: a reader sees the old file or the new one.

    Args:
        path: of the file.
        tree: a pytree of arrays; its top level (a tuple, say) gives no part of a name.
        meta: JSON values from which the tree's structure can be made again.
    """
    from safetensors.numpy import save

    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _named(tree)}
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(save(arrays, metadata={_META: json.dumps(meta)}))  # `save_file` lets nobody else read it
    os.replace(partial, path)


def load_tree(path: Path, like: Callable[[dict[str, Any]], Any]) -> tuple[Any, dict[str, Any]]:
    """Reads what `save_tree` wrote.

    Args:
        path: of the file.
        like: from `meta` to a tree of the structure, shapes and dtypes that are expected, such as the result of
            `jax.eval_shape`.

    Returns:
        `(tree, meta)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or not what `like` expects.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is no file.")
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {})[_META])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        wanted = like(meta)
        leaves = [_checked(arrays, name, leaf) for name, leaf in _named(wanted)]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no model of this project ({error})") from None
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves), meta


def _named(tree: Any) -> list[tuple[str, Any]]:
    """Every array leaf with a readable name, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path[1:], simple=True, separator="."), leaf) for path, leaf in leaves]


def _checked(arrays: dict[str, np.ndarray], name: str, like: Any) -> jax.Array:
    array = arrays[name]
    if array.shape != like.shape:
        raise ValueError(f"{name} has shape {array.shape} where {like.shape} is expected")
    return jnp.asarray(array, like.dtype)
