"""Convolutions with one kernel, or with several that serve equal parts of a batch."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


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
    if not _is_plain(x, kernel, **options):
        one = lambda image, own: lax.conv_general_dilated(image[None], own, window_strides, padding, **options)[0]  # noqa: E731
        return jax.vmap(one)(x, kernel)
    kh, kw = kernel.shape[1:3]  # shifted slices and one product
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (kh, kw), window_strides, padding)
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0)))
    (sh, sw), (height, width) = window_strides, padded.shape[1:3]
    rows, columns = (height - kh) // sh + 1, (width - kw) // sw + 1
    patches = jnp.concatenate(
        [
            padded[:, i : i + sh * (rows - 1) + 1 : sh, j : j + sw * (columns - 1) + 1 : sw]
            for i in range(kh)
            for j in range(kw)
        ],
        axis=-1,
    )
    flat = kernel.reshape(kernel.shape[0], -1, kernel.shape[-1])
    return jnp.einsum("bhwi,bio->bhwo", patches, flat, precision=options.get("precision"))


def _is_plain(x: Array, kernel: Array, **options: Any) -> bool:
    """Whether it is a convolution of NHWC images with HWIO kernels, and nothing more."""
    dims = options.get("dimension_numbers")
    return (
        x.ndim == 4
        and dims is not None
        and lax.conv_dimension_numbers(x.shape, kernel.shape[1:], dims)
        == lax.conv_dimension_numbers(x.shape, kernel.shape[1:], ("NHWC", "HWIO", "NHWC"))
        and options.get("feature_group_count", 1) == 1
        and options.get("batch_group_count", 1) == 1
        and all(d == 1 for name in ("lhs_dilation", "rhs_dilation") for d in options.get(name) or (1,))
        and options.get("preferred_element_type") is None
        and options.get("out_sharding") is None
    )
