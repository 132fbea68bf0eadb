"""What the computation runs on: its name, its memory, its cache of compiled programs."""

import contextlib
import os
import sys
from pathlib import Path

import jax

from experiments.errors import RunError


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


def start_jax() -> None:
    """Finds the devices, and keeps compiled programs between processes unless the user has chosen where already.

    Raises:
        RunError: if there is no device of the platform that the user has chosen.
    """
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
