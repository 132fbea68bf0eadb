"""What the computation runs on: its name, its memory, its cache of compiled programs."""

import os
import sys
from pathlib import Path

import jax


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


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes, unless the user has chosen where already."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "puppet-jax" / "compiled"))
