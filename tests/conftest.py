"""Settings of JAX for all tests, and memory given back between their modules."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# Programs of tests run once or twice: compiling them less well takes half the time. (At level 0 gradients are wrong.)
OFF = "xla_cpu_disable_loop_unrolling,xla_cpu_disable_slp_vectorizer"
FLAGS = ["--xla_backend_optimization_level=1", f"--xla_backend_extra_options={OFF}"]
if version("jaxlib").startswith("0.10."):  # later ones do not know these, and end the process
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))

import jax
import jaxtyping
import pytest

# Axes are added where they are meant: a shape that is off by one axis is an error, not a larger result.
jax.config.update("jax_numpy_rank_promotion", "raise")


gc.set_threshold(200_000, 100, 100)  # tracing makes many objects, and few cycles
MEMORY = 3e9
"""Bytes that a process may hold at the end of a module without forgetting its compiled programs."""


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_go_where_memory_is_short():
    """A process that keeps every program of every module grows to gigabytes; one that keeps none compiles them anew."""
    yield
    pages = Path("/proc/self/statm")
    if not pages.exists() or int(pages.read_text().split()[1]) * 4096 > MEMORY:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def without_type_checks():
    """As users run it: types are not checked at run time, and the library's own refusals have their say."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def cifar10_dir():
    """The folder with the official binary files of CIFAR-10, of tests marked `data`."""
    folder = os.environ.get("PUPPET_CIFAR10_DIR")
    if not folder:
        pytest.skip("PUPPET_CIFAR10_DIR is not set to a folder with the official binary files")
    return Path(folder)
