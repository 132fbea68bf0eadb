"""Model files (safetensors, format 3): every field is written out, one function reads them, no code is run."""

import dataclasses
import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float16, Int8, UInt8

from puppet_jax.architecture import Puppet
from puppet_jax.model_format import FORMAT as FORMAT, check_description, read_puppet as read_puppet, upgrade as upgrade
from puppet_jax.puppeteer import Puppeteer, idle_leaves
from puppet_jax.seeded import pattern_hash

_KEY = "puppet_jax"


class Quantized(NamedTuple):
    """An array as stored.

    Attributes:
        codes: 8 bits: (..., channels) int8; 4 bits: (ceil(size / 2),) uint8, two codes a byte, the earlier one low.
        scale: (channels,) float16, or (1,) for all channels; a float is its code times the scale of its channel.
    """

    codes: Int8[Array, "..."] | UInt8[Array, " bytes"]
    scale: Float16[Array, " scales"]


FEW_VALUES = 8
"""A channel of fewer values, as in a vector, has no scale of its own: it would take too much room."""


def num_scales(shape: tuple[int, ...]) -> int:
    """How many scales an array of few bits has: one a channel, or one."""
    return shape[-1] if math.prod(shape[:-1]) >= FEW_VALUES else 1


def dequantize(stored: Quantized, shape: tuple[int, ...], bits: Literal[8, 4]) -> Float[Array, "..."]:
    """The floats (float32) of `shape` that `puppet_jax.extras.quantize` stored; not for use inside `jit`.

    Raises:
        ValueError: if `bits` is neither 8 nor 4.
    """
    if bits not in (8, 4):
        raise ValueError(f"bits must be 8 or 4, got {bits}.")
    codes = np.asarray(stored.codes)
    if bits == 4:
        pairs = np.stack([codes & 15, codes >> 4], axis=-1).astype(np.int8)
        codes = ((pairs ^ 8) - 8).reshape(-1)[: math.prod(shape)]  # the fourth bit is the sign
    return jnp.asarray(codes.reshape(shape).astype(np.float32) * np.asarray(stored.scale, np.float32))


def describe_puppet(puppet: Puppet, puppeteer: Puppeteer, image_size: tuple[int, int]) -> dict[str, Any]:
    """The field "network" of a puppet's description; `image_size` is the (height, width) of its images."""
    return {
        "kind": "puppet",
        "puppet": dataclasses.asdict(puppet),
        "puppeteer": {
            "max_channels": puppeteer.max_channels,
            "kernel_size": puppeteer.kernel_size,
            "initial_state": puppeteer.initial_state_kind,
            "seed": puppeteer.seed,
            "scale": puppeteer.scale,
            "kernels_from": puppeteer.kernels_from,
        },
        "image_size": image_size,
    }


def save_model(path: str | Path, tree: Any, description: Mapping[str, Any]) -> None:
    """Writes a model at once: a reader sees the old file or the new one, never half of one.

    Args:
        path: of the file.
        tree: `(params, {depth: stats})` as they are stored: float32, or params as `quantize_tree` gives them.
        description: JSON values for every field of the format but "format" and "sha256", which are added.

    Raises:
        ValueError: if a field is missing, unknown or out of range, or a tensor is not finite.
    """
    from safetensors.numpy import save

    path = Path(path)
    arrays = {name: np.asarray(leaf, order="C") for name, leaf, _ in _leaves(tree)}
    description = {"format": FORMAT, **description}
    text = json.dumps(description | {"sha256": checksum(description, arrays)})
    check_description(json.loads(text), len(arrays))
    for name, array in arrays.items():
        _check_values(name, array)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")  # another writer has a file of its own
    try:
        with partial.open("xb") as file:  # `save_file` lets nobody else read it
            file.write(save(arrays, metadata={_KEY: text}))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_model(path: str | Path, like: Callable[[dict[str, Any]], Any]) -> tuple[Any, dict[str, Any]]:
    """Reads a model file of this format, or of an earlier one.

    Args:
        path: of the file.
        like: from the description to a tree `(params, {depth: stats})` of the structure, shapes and dtypes that are
            expected, such as the result of `jax.eval_shape`. Params that are stored in few bits come back in these.

    Returns:
        `(tree, description)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another version, has a field or tensor missing, too many or out of range, or
            was trained with another seeded pattern than this version generates.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is no file.")
    arrays, stored = _read(path)
    try:
        description = upgrade(stored)
        if "format" not in stored:
            description["sha256"] = checksum(description, arrays)  # files of format 1 have none
        check_description(description, len(arrays))
        if "format" in stored and description["sha256"] != checksum(stored, arrays):
            raise ValueError("it is not as it was written (sha256); copy or train it again.")
        wanted = like(description)
        idle = jax.tree.leaves(idle_leaves(wanted))
        leaves = [
            _taken(arrays, *leaf, description["bits"], may_lack)
            for leaf, may_lack in zip(_leaves(wanted), idle, strict=True)
        ]
        if arrays:
            raise ValueError(f"it has the tensor {min(arrays)} too many.")
        _check_pattern(description)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: its network cannot be made again ({error!r}).") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves), description


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and description, as stored."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            description = json.loads((file.metadata() or {})[_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if not isinstance(description, dict):
            raise ValueError("no description")
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} is damaged or no model file of puppet-jax ({error}).") from None
    return arrays, description


def _leaves(tree: Any) -> list[tuple[str, Any, bool]]:
    """Every array leaf with a readable name, in the order of `jax.tree.leaves`, and whether it is trainable."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (jax.tree_util.keystr(path[1:], simple=True, separator="."), leaf, path[0].idx == 0) for path, leaf in leaves
    ]


def _taken(
    arrays: dict[str, np.ndarray], name: str, like: Any, trainable: bool, bits: Literal[32, 8, 4], may_lack: bool
) -> Array:
    """Takes a tensor, or one of few bits, out of `arrays`; raises a ValueError if it is missing or another."""
    if not trainable or bits == 32:
        return jnp.asarray(_tensor(arrays, name, like.shape, like.dtype))
    if name in arrays:  # as formats 1 and 2 store vectors
        return jnp.asarray(_tensor(arrays, name, like.shape, np.float16), like.dtype)
    codes, scale = f"{name}.codes", f"{name}.scale"
    if may_lack and codes not in arrays:
        return jnp.zeros(like.shape, like.dtype)
    scales = arrays[scale].shape if scale in arrays else ()  # formats 1 and 2 always have one a channel
    own: Literal[8, 4] = 4 if bits == 4 and codes in arrays and arrays[codes].dtype == np.uint8 else 8
    stored = Quantized(
        _tensor(arrays, codes, (-(-like.size // 2),) if own == 4 else like.shape, np.uint8 if own == 4 else np.int8),
        _tensor(arrays, scale, scales if scales == like.shape[-1:] else (num_scales(like.shape),), np.float16),
    )
    return dequantize(stored, like.shape, own)


def _tensor(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    if name not in arrays:
        raise ValueError(f"the tensor {name} is missing.")
    array = arrays.pop(name)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"the tensor {name} must be {np.dtype(dtype)} of shape {shape}, got {array.dtype} of shape {array.shape}."
        )
    _check_values(name, array)
    return array


def _check_values(name: str, array: np.ndarray) -> None:
    """Raises a ValueError if floats are not finite, or a variance is negative."""
    if not np.issubdtype(array.dtype, np.floating):
        return
    if not np.isfinite(array).all():
        raise ValueError(f"the tensor {name} holds NaN or infinity; take the model from before its training failed.")
    if name.rsplit(".")[-1] in ("variance", "var") and array.min(initial=0) < 0:
        raise ValueError(f"the tensor {name} holds a negative variance, {array.min()}.")


def checksum(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all other fields, and of names, dtypes, shapes and little-endian bytes, in the order of names."""
    fields = {name: value for name, value in description.items() if name != "sha256"}
    found = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        found.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()


def _check_pattern(description: Mapping[str, Any]) -> None:
    if description["network"]["kind"] in ("puppet", "early_exit"):
        settings = description["network"]["puppeteer"]
        found = pattern_hash(*(settings[name] for name in ("max_channels", "kernel_size", "seed")))
        if found != description["pattern_sha256"]:
            raise ValueError(
                "it was trained with another seeded pattern (pattern_sha256) than this version of puppet-jax "
                "makes, so its kernels cannot be made again; use the version that wrote it."
            )
