"""What the tests of several files use."""

import jax

import puppet_jax as pj

# One program instead of one an operation: for calls that are repeated.
apply_puppet = jax.jit(pj.apply_puppet, static_argnums=(0, 5, 6), static_argnames=("puppet", "depth", "dtype"))
