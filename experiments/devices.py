"""What the computation runs on: its name, its memory, its cache of compiled programs."""

import contextlib
import ctypes
import importlib.metadata
import os
import sys
from pathlib import Path

import jax

from experiments.errors import RunError

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Of malloc.h."""


def device_name() -> str:
    """What the computation runs on."""
    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.device_kind} ({device.platform})"


def peak_memory() -> dict[str, int | None]:
    """Most memory that this process has held so far, in bytes: on the host, and on the device where JAX tells."""
    memory: dict[str, int | None] = {"host_peak_bytes": None, "device_peak_bytes": None}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        memory["host_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    device = jax.devices()[0].memory_stats()
    if device:
        memory["device_peak_bytes"] = device["peak_bytes_in_use"]
    return memory


def start_jax(distributed: bool = False) -> None:
    """Finds the devices; keeps freed memory, and compiled programs between processes, unless the user has chosen.

    Args:
        distributed: whether to wait for the other processes of `jax.distributed`.

    Raises:
        RunError: if there is no device of the platform that the user has chosen, or another process does not arrive.
    """
    keep_freed_memory()
    if distributed:
        _join()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        chosen = os.environ.get("JAX_PLATFORMS")
        reason = f" ({error})" if str(error) else ""
        raise RunError(f"JAX finds no device of JAX_PLATFORMS={chosen}{reason}; unset it, or name another.") from None
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    with contextlib.suppress(RuntimeError):  # a user without a home directory, as in a container
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "puppet-jax" / "compiled"))


def keep_freed_memory() -> None:
    """Lets glibc keep memory that is freed, which a program of JAX on a CPU asks for again at its next call.

    Otherwise that memory goes back to the system, and to have it mapped anew takes up to a third of a training step.
    Works before JAX starts its threads. Does nothing without glibc, where the environment sets up its allocator, or
    where JAX has plugins for other devices.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    if os.environ.get("JAX_PLATFORMS") != "cpu" and importlib.metadata.entry_points(group="jax_plugins"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_TRIM_THRESHOLD, -1), (M_MMAP_MAX, 0), (M_ARENA_MAX, 1)):
            mallopt(option, value)


def _join() -> None:
    """Meets the other processes: those that a scheduler knows, else those of three environment variables."""
    numbers: dict[str, int | None] = {}
    for name, default in (("JAX_NUM_PROCESSES", None), ("JAX_PROCESS_ID", None), ("JAX_INITIALIZATION_TIMEOUT", "300")):
        text = os.environ.get(name, default)
        try:
            numbers[name] = None if text is None else int(text)
        except ValueError:
            raise RunError(f"{name} must be an integer, got {text!r}.") from None
    count, own, timeout = numbers.values()
    assert timeout is not None
    advice = (
        "Start each with the same JAX_COORDINATOR_ADDRESS (host:port of process 0) and JAX_NUM_PROCESSES, and its own "
        "JAX_PROCESS_ID from 0 on, or by a scheduler that JAX knows."
    )
    # said before, as JAX aborts the process where another does not arrive
    who = "this process" if own is None else f"process {own} of {count}"
    print(f"{who} waits up to {timeout} s for the others, or else is aborted. {advice}", file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(num_processes=count, process_id=own, initialization_timeout=timeout)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200].rstrip(".")
        raise RunError(f"the processes did not meet: {reason}. {advice}") from None
