"""Settings of JAX for all tests, and memory given back between their modules."""

import gc
import os

# Programs of tests run once or twice: compiling them less well takes three fifths of the time. (Level 0 gives NaN.)
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

import jax
import jaxtyping
import pytest

# Axes are added where they are meant: a shape that is off by one axis is an error, not a larger result.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_go_with_their_module():
    """A process that keeps every program of every module grows to gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def without_type_checks():
    """As users run it: types are not checked at run time, and the library's own refusals have their say."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
