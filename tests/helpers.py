"""What the tests of several files use."""

import jax

import puppet_jax as pj

# One program instead of one an operation.
apply_puppet = jax.jit(pj.apply_puppet, static_argnums=(0, 5, 6), static_argnames=("puppet", "depth", "dtype"))
generate_kernels = jax.jit(pj.generate_kernels, static_argnums=2)
