"""Convolutions with one kernel, or with several that serve equal parts of a batch."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

NHWC = ("NHWC", "HWIO", "NHWC")


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
        return lax.conv_general_dilated(x, kernel, window_strides, padding, **options)
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
    return jnp.concatenate(
        [lax.conv_general_dilated(part, one, window_strides, padding, **options) for part, one in parts]
    )


def _is_batched(x: Array) -> bool:
    """Whether `x` is inside `jax.vmap`; JAX has no public name for the class of such values."""
    return isinstance(x, jax.core.Tracer) and type(x).__name__ == "BatchTracer"


def _own_kernels(x: Array, kernel: Array, window_strides: Any, padding: Any, **options: Any) -> Array:
    groups, dilation = options.get("feature_group_count", 1), options.get("rhs_dilation") or ()
    if not is_plain(x, kernel.shape[1:], **options) or groups != 1 or any(d != 1 for d in dilation):
        one = lambda image, own: lax.conv_general_dilated(image[None], own, window_strides, padding, **options)[0]  # noqa: E731
        return jax.vmap(one)(x, kernel)
    patches = jnp.concatenate(shifted(x, kernel.shape[1:3], window_strides, padding), axis=-1)  # and one product
    flat = kernel.reshape(kernel.shape[0], -1, kernel.shape[-1])
    return jnp.einsum("bhwi,bio->bhwo", patches, flat, precision=options.get("precision"))


def shifted(x: Array, size: Any, strides: Any, padding: Any, dilation: Any = (1, 1)) -> list[Array]:
    """What each tap of a window of `size` sees of NHWC images, row by row: (batch, rows, columns, channels) each.

    Args:
        x: (batch, height, width, channels).
        size: of the window.
        strides: as of `jax.lax.conv_general_dilated`.
        padding: likewise.
        dilation: of the window's taps.
    """
    if isinstance(padding, str):
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
        padding = lax.padtype_to_pads(x.shape[1:3], reach, strides, padding)
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0)))
    spans = [  # from the first place to behind the last
        (full - d * (k - 1) - 1) // s * s + 1
        for full, k, s, d in zip(padded.shape[1:3], size, strides, dilation, strict=True)
    ]
    (rows, columns), (sh, sw), (dh, dw) = spans, strides, dilation
    return [
        padded[:, dh * i : dh * i + rows : sh, dw * j : dw * j + columns : sw]
        for i in range(size[0])
        for j in range(size[1])
    ]


def is_plain(x: Array, shape: tuple[int, ...], **options: Any) -> bool:
    """Whether it is a convolution of NHWC images with HWIO kernels, and nothing more but groups and dilated taps.

    Args:
        x: the images.
        shape: of the kernel.
        **options: of `jax.lax.conv_general_dilated`.
    """
    dims = options.get("dimension_numbers")
    return (
        x.ndim == len(shape) == 4
        and dims is not None
        and lax.conv_dimension_numbers(x.shape, shape, dims) == lax.conv_dimension_numbers(x.shape, shape, NHWC)
        and options.get("batch_group_count", 1) == 1
        and all(d == 1 for d in options.get("lhs_dilation") or ())
        and options.get("preferred_element_type") is None
        and options.get("out_sharding") is None
    )
