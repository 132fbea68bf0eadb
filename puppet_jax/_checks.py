"""Checks of values that can be made only where the values are known, that is outside `jit`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def is_concrete(x: ArrayLike) -> bool:
    """Whether the values of `x` can be read now (false inside `jit`, `grad` and `vmap`)."""
    return not isinstance(x, jax.core.Tracer)


def check_complexity(h: ArrayLike) -> None:
    """Raises if a complexity is not a real number, or if a known value is negative, infinite or NaN."""
    dtype = jnp.result_type(h)
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"The complexity h must be a real number (nats), got dtype {dtype}.")
    if is_concrete(h):
        values = np.asarray(h, dtype=np.float64)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            raise ValueError(
                f"The complexity h must be finite and at least 0 nats, got {values[bad].flat[0]} "
                f"({int(bad.sum())} of {values.size} values are bad). Check the images it was computed from."
            )
