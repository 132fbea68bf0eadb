"""What the computation runs on."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import devices

ROOT = Path(__file__).parents[2]
FAULTS = """
import json, resource, jax, jax.numpy as jnp
from experiments.devices import start_jax
start_jax()
def loss(x):
    y = x
    for _ in range(2):
        y = jnp.tanh(y @ x)
    return y.sum()
step = jax.jit(jax.grad(loss))
x = jnp.eye(1_500)
counts = []
for _ in range(15):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps(counts))
"""


def test_no_home_directory(monkeypatch):
    """As in a container that runs under a user without one."""

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    devices.start_jax()


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="the C library is not glibc")
class TestMemory:
    def faults(self, **variables):
        """Pages mapped anew in a call of a program, the median of fifteen calls, in a process of its own.

        Not each call's own: a thread that is behind frees an array when the next call has begun.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        done = subprocess.run(
            [sys.executable, "-c", FAULTS],
            cwd=ROOT,
            env=environment | {"JAX_PLATFORMS": "cpu"} | variables,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return statistics.median(json.loads(done.stdout))

    def test_what_a_program_frees_is_kept_for_its_next_call(self):
        assert self.faults() < 1000

    def test_the_user_may_choose_otherwise(self):
        """Four arrays of 9 MB in pages of 4 kB are 8,800."""
        assert self.faults(MALLOC_TRIM_THRESHOLD_="131072") > 8_000
