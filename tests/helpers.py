"""What the tests of several files use."""

import contextlib
import hashlib
import json

import jax
import jax.numpy as jnp
import pytest

import puppet_jax as pj
from experiments.runs.files import CHECKSUM, with_checksum

# One program instead of one an operation: for calls that are repeated.
apply_puppet = jax.jit(pj.apply_puppet, static_argnums=(0, 5, 6), static_argnames=("puppet", "depth", "dtype"))


def signed(description, arrays):
    """The description with its checksum: SHA-256 of its other fields, then of the tensors in the order of names."""
    fields = {name: value for name, value in description.items() if name != "sha256"}
    found = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.name} {array.shape}\n".encode() + array.tobytes())
    return fields | {"sha256": found.hexdigest()}


def rewrite_json(path, value):
    """A JSON file of a run with another value, as the run would have written it."""
    path.write_text(json.dumps(with_checksum({name: one for name, one in value.items() if name != CHECKSUM})))


def quick(names, *chosen):
    """Values of a parameter, of which all but the chosen are slow."""
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]


@contextlib.contextmanager
def compilations():
    """The names of all programs that are compiled meanwhile, counted as JAX counts them."""
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(kwargs.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def sign_descent(loss, params, rate, steps):
    """Parameters after steps of one size down the gradient's signs, and the loss before each."""

    @jax.jit
    def step(params):
        value, grads = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - rate * jnp.sign(g), params, grads)

    losses = []
    for _ in range(steps):
        value, params = step(params)
        losses.append(float(value))
    return params, losses
