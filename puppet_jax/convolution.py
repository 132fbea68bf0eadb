"""Convolutions with one kernel, or with several that serve equal parts of a batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from puppet_jax.fast_convolution import convolve_one, find_windows, is_plain, shifted


def convolve(x: Array, kernel: Array, window_strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated`, whose kernel may have a leading axis of sets.

    Sets are what `generate_kernels` gives under `jax.vmap`. Their number divides the batch, and each serves as many
    neighbouring images, in order.

    Args:
        x: (batch, ...), as `conv_general_dilated` takes it.
        kernel: of the rank of `x`, or one more for sets.
        window_strides: as in `conv_general_dilated`.
        padding: likewise.
        **options: likewise.

    Returns:
        (batch, ...).

    Raises:
        ValueError: if the number of sets does not divide the batch, or only the images are under `jax.vmap`: it is not
            known then which axis of theirs the sets belong to.
    """
    if kernel.ndim == x.ndim:
        return convolve_one(x, kernel, window_strides, padding, **options)
    if _is_batched(x) and not _is_batched(kernel):
        raise ValueError(
            f"{len(kernel)} sets of kernels cannot be paired with images under jax.vmap; give one set (a scalar h), or "
            "let jax.vmap go over images and sets together."
        )
    sets, batch = len(kernel), len(x)
    if sets == 0 or batch % sets:
        raise ValueError(f"the number of kernel sets must divide the batch, got {sets} for {batch} images.")
    if sets == batch:
        return _own_kernels(x, kernel, window_strides, padding, **options)
    # A loop in Python: under `vmap` or `scan` the gradient of a convolution is 50 times slower on a CPU.
    parts = zip(jnp.split(x, sets), kernel, strict=True)
    return jnp.concatenate([convolve_one(part, one, window_strides, padding, **options) for part, one in parts])


def _is_batched(x: Array) -> bool:
    """Whether `x` is inside `jax.vmap`; JAX has no public name for the class of such values."""
    return isinstance(x, jax.core.Tracer) and type(x).__name__ == "BatchTracer"


def _own_kernels(x: Array, kernel: Array, window_strides: Any, padding: Any, **options: Any) -> Array:
    if not is_plain(x, kernel.shape[1:], **options):
        one = lambda image, own: lax.conv_general_dilated(image[None], own, window_strides, padding, **options)[0]  # noqa: E731
        return jax.vmap(one)(x, kernel)
    images, rows, columns, consumed, produced = kernel.shape
    groups = options.get("feature_group_count", 1)
    windows = find_windows(x.shape, (rows, columns), window_strides, padding, options.get("rhs_dilation"))
    taps = shifted(x, windows)
    if groups == x.shape[-1] == produced:
        flat = kernel.reshape(images, rows * columns, produced)
        return functools.reduce(jnp.add, (tap * flat[:, n, None, None] for n, tap in enumerate(taps)))
    seen = jnp.stack(taps, axis=-2)  # (batch, rows, columns, taps, channels)
    seen = seen.reshape(*seen.shape[:-1], groups, consumed)
    matrices = kernel.reshape(images, rows * columns, consumed, groups, produced // groups)
    y = jnp.einsum("bhwtgi,btigo->bhwgo", seen, matrices, precision=options.get("precision"))
    return y.reshape(*y.shape[:3], produced)
