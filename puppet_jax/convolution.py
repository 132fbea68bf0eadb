"""Convolutions with one kernel, or with several that serve equal parts of a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from puppet_jax.cpu.fast_convolution import convolve_one, filter_each, is_plain, patches, taps_of_groups
from puppet_jax.cpu.windows import NHWC, find_windows


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
    return convolve_sets(
        x,
        kernel,
        one=lambda x, kernel: convolve_one(x, kernel, window_strides, padding, **options),
        own=lambda x, kernel: _own_kernels(x, kernel, window_strides, padding, **options),
    )


def convolve_same(x: Array, kernel: Array) -> Array:
    """'SAME' `convolve` of stride 1 of NHWC images with HWIO kernels."""
    # float32 means float32: GPUs round the factors to ten bits by default. Who wants speed asks for bfloat16.
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT
    return convolve(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC, precision=precision)


def convolve_sets(
    x: Array, kernel: Array, one: Callable[[Array, Array], Array], own: Callable[[Array, Array], Array]
) -> Array:
    """Convolves images with a kernel, or equal parts of the images with a kernel each.

    Args:
        x: as `convolve` takes it.
        kernel: likewise.
        one: convolves images with one kernel.
        own: convolves images with as many kernels.

    Raises:
        ValueError: as `convolve`.
    """
    if kernel.ndim == x.ndim:
        return one(x, kernel)
    if _is_batched(x) and not _is_batched(kernel):
        raise ValueError(
            f"{len(kernel)} sets of kernels cannot be paired with images under jax.vmap; give one set (a scalar h), or "
            "let jax.vmap go over images and sets together."
        )
    sets, batch = len(kernel), len(x)
    if sets == 0 or batch % sets:
        raise ValueError(f"the number of kernel sets must divide the batch, got {sets} for {batch} images.")
    if sets == batch:
        return own(x, kernel)
    # A loop in Python: under `vmap` or `scan` the gradient of a convolution is 50 times slower on a CPU.
    return jnp.concatenate([one(*pair) for pair in zip(jnp.split(x, sets), kernel, strict=True)])


def _is_batched(x: Array) -> bool:
    """Whether `x` is inside `jax.vmap`; JAX has no public name for the class of such values."""
    return isinstance(x, jax.core.Tracer) and type(x).__name__ == "BatchTracer"


def _own_kernels(x: Array, kernel: Array, window_strides: Any, padding: Any, **options: Any) -> Array:
    if not is_plain(x, kernel.shape[1:], **options):
        one = lambda image, own: lax.conv_general_dilated(image[None], own, window_strides, padding, **options)[0]  # noqa: E731
        return jax.vmap(one)(x, kernel)
    groups, produced = options.get("feature_group_count", 1), kernel.shape[-1]
    windows = find_windows(x.shape, kernel.shape[1:3], window_strides, padding, options.get("rhs_dilation"))
    if groups == x.shape[-1] == produced:
        return filter_each(x, kernel[:, :, :, 0], windows)
    precision = options.get("precision")
    if groups == 1:
        flat = kernel.reshape(len(kernel), -1, produced)
        return jnp.einsum("bhwp,bpo->bhwo", patches(x, windows), flat, precision=precision)
    seen = jnp.moveaxis(taps_of_groups(x, windows, groups), -2, -3)
    seen = seen.reshape(*seen.shape[:-2], -1)  # (batch, rows, columns, groups, patch)
    matrices = kernel.reshape(len(kernel), -1, groups, produced // groups)
    y = jnp.einsum("bhwgp,bpgo->bhwgo", seen, matrices, precision=precision)
    return y.reshape(*y.shape[:3], produced)
