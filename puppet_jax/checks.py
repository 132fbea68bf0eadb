"""Checks of values that can be made only where the values are known, that is outside `jit`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
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


def check_images(images: ArrayLike) -> Array | np.ndarray:
    """The images as an array; raises a ValueError unless they are (batch, height, width, channels), uint8 or in [0, 1].

    Inside `jit` values cannot be looked at, and pass.
    """
    images = images if isinstance(images, jax.Array) else np.asarray(images)
    shape, dtype = images.shape, images.dtype
    if len(shape) != 4:
        raise ValueError(
            f"images must have 4 axes (batch, height, width, channels), got shape {shape}. "
            "A single image needs a leading axis: image[None]; a grey one a last axis: image[..., None]."
        )
    if 0 in shape:
        raise ValueError(f"images must not be empty, got shape {shape}.")
    if dtype == jnp.uint8:
        return images
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"images must be uint8, or floating in [0, 1], got dtype {dtype}.")
    if is_concrete(images):
        values = np.asarray(images, dtype=np.float32)
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"floating images must lie in [0, 1] and hold no NaN, got {values[where]} at index {where} "
                f"({int(bad.sum())} bad values). For 8-bit values pass dtype uint8; for others rescale first."
            )
    return images
