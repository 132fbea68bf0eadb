"""Data parallelism: every device holds all parameters and a part of each batch; process 0 keeps the run's folder."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.errors import RunError

T = TypeVar("T")


class Layout(NamedTuple):
    """Where arrays lie on the devices of all processes: `whole` on each of them, or `split` along the first axis."""

    whole: NamedSharding
    split: NamedSharding


def make_layout(batch_size: int) -> Layout | None:
    """The layout of a run on all devices, or None where there is one.

    Raises:
        RunError: if the devices do not divide the batch.
    """
    count = jax.device_count()
    if count == 1:
        return None
    if batch_size % count:
        raise RunError(
            f"--batch-size must be a multiple of the {count} devices, got {batch_size}. Choose another, or fewer "
            "devices (CUDA_VISIBLE_DEVICES)."
        )
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))
    return Layout(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data")))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays that every process has, as arrays on the devices of all processes."""

    def one(leaf):
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(one, tree)


def local(tree: Any) -> Any:
    """Arrays that each device holds whole, as arrays of this process's first device."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def alone() -> bool:
    """Whether there is no other process."""
    return jax.process_count() == 1


def is_first() -> bool:
    """Whether this is process 0, which alone writes files and speaks."""
    return jax.process_index() == 0


def by_first(function: Callable[[], T]) -> T | None:
    """What `function` gives in process 0, None elsewhere.

    Raises:
        Exception: what `function` raises in process 0; a RunError that says it elsewhere, so that none waits in vain.
    """
    if alone():
        return function()
    result, error = None, None
    if is_first():
        try:
            result = function()
        except Exception as found:  # raised below, once the others know
            error = found
    message = told(None if error is None else str(error) or type(error).__name__)
    if message is not None:
        raise error or RunError(f"process 0: {message}")
    return result


def told(value: Any) -> Any:
    """A JSON value of process 0, in every process."""
    if alone():
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = text if is_first() else np.zeros(size, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(text), np.uint8)))


def agreed(tree: Any) -> Any:
    """The arrays of process 0, in every process."""
    return tree if alone() else multihost_utils.broadcast_one_to_all(tree)


def any_of(number: int) -> int:
    """The largest of a small number of each process."""
    if alone():
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def shared_out(run: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """What `run` gives for indices of `count` rows; each process runs a part, and all get the whole."""
    processes = jax.process_count()
    if processes == 1:
        return run(np.arange(count))
    each = -(-count // processes)
    start = jax.process_index() * each
    found = run(np.minimum(np.arange(start, start + each), count - 1))  # the last part repeats the last row
    return np.concatenate(list(multihost_utils.process_allgather(found)))[:count]
