"""Checks of values that can be made only where the values are known, that is outside `jit`."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike


def is_concrete(x: ArrayLike) -> bool:
    """Whether the values of `x` can be read now (false inside `jit`, `grad` and `vmap`)."""
    return not isinstance(x, jax.core.Tracer)


def as_integer(name: str, value: Any, least: int = 1, most: int = 2**31 - 1) -> int:
    """The integer `value`, of whatever library, as an int of Python.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is out of range; `name` stands in the message.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r:.80}.") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}.")
    if number > most:
        raise ValueError(f"{name} must be at most {most}, got {number}.")
    return number


def check_number(name: str, value: Any) -> None:
    """Raises a TypeError unless `value` is a real number."""
    if not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r:.80}.")
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"{name} must be finite, got {value!r:.40}..., more than floats hold.") from None


def as_floats(name: str, x: ArrayLike, dtype: DTypeLike) -> np.ndarray:
    """Known values as an array of floats on the host; raises a ValueError if one is more than floats hold."""
    try:
        return np.asarray(x, dtype)
    except OverflowError:
        raise ValueError(f"{name} must be finite, got {x!r:.40}..., more than floats hold.") from None


def as_array(name: str, x: ArrayLike) -> Array:
    """The array, also inside `jit`; raises a ValueError if `x` is an integer of Python that JAX cannot hold."""
    try:
        return jnp.asarray(x)
    except OverflowError:
        raise ValueError(f"{name} must be an array, or a number that JAX can hold, got {x!r:.40}....") from None


@jax.jit
def are_finite(tree: Any) -> Array:
    """Whether all values are finite, for each array of a pytree in the order of `jax.tree.leaves`: (leaves,) bool."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])


def check_complexity(h: ArrayLike) -> None:
    """Raises if a complexity is not a real number, or if a known value is negative, NaN or more than floats hold."""
    try:
        dtype = jnp.result_type(h)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"The complexity h must be a real number (nats) or an array of them, got {h!r:.80}.") from None
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"The complexity h must be a real number (nats), got dtype {dtype}.")
    if is_concrete(h):
        values = as_floats("The complexity h", h, np.float64)
        bad = ~((values >= 0) & (values <= jnp.finfo(jnp.promote_types(dtype, jnp.float32)).max))
        if bad.any():
            raise ValueError(
                f"The complexity h must be finite and at least 0 nats, got {values[bad].flat[0]} "
                f"({int(bad.sum())} of {values.size} values are bad). Check the images it was computed from."
            )


def as_complexity(h: ArrayLike) -> Array:
    """The complexity as an array, after `check_complexity`; integers of Python and NumPy become floats."""
    check_complexity(h)
    if isinstance(h, np.ndarray | np.integer) and np.issubdtype(h.dtype, np.integer):
        return jnp.asarray(h.astype(np.float32))  # JAX would cut those of 64 bits
    return jnp.asarray(float(h) if isinstance(h, int) else h)


def check_images(images: ArrayLike) -> Array | np.ndarray:
    """The images as an array; raises a ValueError unless they are (batch, height, width, channels), uint8 or in [0, 1].

    Inside `jit` values cannot be looked at, and pass.
    """
    images = as_native(images)
    shape, dtype = images.shape, images.dtype
    if len(shape) != 4:
        raise ValueError(
            f"images must have 4 axes (batch, height, width, channels), got shape {shape}. "
            "A single image needs a leading axis: image[None]; a grey one a last axis: image[..., None]."
        )
    if shape[-1] > 4 and shape[1] in (1, 3, 4):
        raise ValueError(
            f"images must have their channels last, got shape {shape}, which looks like channels first; "
            "images.transpose(0, 2, 3, 1) moves them."
        )
    if 0 in shape:
        raise ValueError(f"images must not be empty, got shape {shape}.")
    if dtype == np.uint8:  # to compare with jnp.uint8 takes longer than all else here
        return images
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"images must be uint8, or floating in [0, 1], got dtype {dtype}. Integers in 0..255: "
            "images.astype(np.uint8)."
        )
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


def check_image_size(images: np.ndarray, image_size: tuple[int, int] | None) -> None:
    """Raises a ValueError unless the images have this (height, width), where there is one."""
    if image_size is not None and images.ndim == 4 and images.shape[1:3] != tuple(image_size):
        height, width = images.shape[1:3]
        raise ValueError(
            f"images must be of {image_size[0]} x {image_size[1]} pixels, as those that the model was trained on, got "
            f"{height} x {width}: resize them, or give the predictor image_size=None."
        )


def check_floating(name: str, dtype: DTypeLike) -> None:
    """Raises a TypeError unless the dtype is one of real floats."""
    try:
        floating = jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise TypeError(f"{name} must be floating, such as jnp.bfloat16, got {dtype!r:.80}.")


def check_threshold(threshold: float) -> None:
    """Raises unless it is a number that confidences can be compared with."""
    check_number("threshold", threshold)
    if threshold != threshold:
        raise ValueError("threshold must be a number to compare confidences with, got NaN.")


def as_native(images: ArrayLike) -> Array | np.ndarray:
    """The images as an array in the byte order of this machine, as JAX needs it."""
    if isinstance(images, jax.Array):
        return images
    array = np.asarray(images)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
