"""From a state of the trajectory to a convolution kernel: adaptive average pooling (v1 Sec. 3.3)."""

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from puppet_jax.checks import as_array


def adaptive_average_pool(x: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Averages `x` over bins along every axis, to `shape`.

    Along an axis of length n that becomes m, bin i covers [floor(i n / m), ceil((i + 1) n / m)); bins overlap
    where m does not divide n.

    Args:
        x: any rank.
        shape: as many lengths as `x` has axes, each in [1, length of that axis].

    Returns:
        Array of `shape`, dtype of `x`.

    Raises:
        TypeError: if `x` is not floating.
        ValueError: if `shape` has another rank than `x`, or a length is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from puppet_jax.projection import adaptive_average_pool
        >>> adaptive_average_pool(jnp.arange(6.0), (4,)).tolist()
        [0.5, 1.5, 3.5, 4.5]
    """
    x, shape = as_array("x", x), tuple(shape)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"x must be floating, got dtype {x.dtype}.")
    if len(shape) != x.ndim or any(not 1 <= m <= n for m, n in zip(shape, x.shape, strict=True)):
        raise ValueError(
            f"shape must give a length in [1, n] for each axis of x, got {shape} for x of shape {tuple(x.shape)}."
        )
    for axis, m in enumerate(shape):
        n = x.shape[axis]
        if n % m == 0:
            x = x.reshape(*x.shape[:axis], m, n // m, *x.shape[axis + 1 :]).mean(axis=axis + 1)
        else:
            weights = jnp.asarray(_averaging_matrix(n, m), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(weights, x, (1, axis), precision=jax.lax.Precision.HIGHEST), 0, axis)
    return x


def project(state: Float[Array, "C C taps"], shape: tuple[int, ...]) -> Float[Array, "kh kw c_in c_out"]:
    """The kernel of one layer: the state pooled to (c_out, c_in, kh kw), reshaped and transposed to HWIO.

    Args:
        state: (C, C, K**2), output channels by input channels by taps.
        shape: HWIO, (kh, kw, c_in, c_out) with kh kw <= K**2 and channels <= C.

    Returns:
        Array of `shape`, dtype of `state`.

    Raises:
        ValueError: if `shape` is no HWIO shape or is larger than the state.
    """
    kh, kw, c_in, c_out = shape = as_kernel_shape(shape)
    _check_taps(shape, jnp.shape(state))
    if max(c_in, c_out) > len(state):
        raise ValueError(
            f"Kernel shape {shape} (HWIO) is larger than the state: it has {c_out} x {c_in} channels, the state "
            f"{len(state)} x {len(state)}. `generate_kernels` joins such a kernel from several states."
        )
    return read(state.transpose(), shape)


def read(state: Float[Array, "taps C C"], shape: tuple[int, ...]) -> Float[Array, "kh kw c_in c_out"]:
    """`project` of a state whose axes are in the order of a kernel's: taps, input channels, output channels."""
    kh, kw, c_in, c_out = shape
    return adaptive_average_pool(state, (kh * kw, c_in, c_out)).reshape(shape)


def blocks(shape: tuple[int, ...], max_channels: int, kernel_size: int | None = None) -> tuple[tuple[int, ...], ...]:
    """How a kernel of HWIO `shape` is cut into blocks that a state can be pooled to.

    Args:
        shape: HWIO.
        max_channels: C of the state.
        kernel_size: K of the state; None for one that has taps enough.

    Returns:
        HWIO shapes; one block for a kernel that fits. Rows of the window are slowest, then its columns, input channels,
        output channels. Blocks along an axis differ by one at most, larger ones first. A window of at most K**2 taps
        is not cut.
    """
    return tuple(itertools.product(*_cuts(shape, max_channels, kernel_size)))


def join(
    parts: Sequence[Float[Array, "..."]], shape: tuple[int, ...], max_channels: int, kernel_size: int | None = None
) -> Float[Array, "kh kw c_in c_out"]:
    """The kernel of `shape` whose `blocks` are `parts`."""
    found = list(parts)
    for axis, lengths in reversed(list(enumerate(_cuts(shape, max_channels, kernel_size)))):
        count = len(lengths)
        found = [jnp.concatenate(found[n : n + count], axis) for n in range(0, len(found), count)]
    return found[0]


def _cuts(shape: tuple[int, ...], max_channels: int, kernel_size: int | None) -> list[tuple[int, ...]]:
    """Lengths of the blocks along each axis."""
    kh, kw, c_in, c_out = shape
    window = max(kh, kw) if kernel_size is None or kh * kw <= kernel_size**2 else kernel_size
    limits = window, window, max_channels, max_channels
    return [_parts(length, at_most) for length, at_most in zip((kh, kw, c_in, c_out), limits, strict=True)]


def _parts(length: int, at_most: int) -> tuple[int, ...]:
    count = -(-length // at_most)
    return tuple(length // count + (n < length % count) for n in range(count))


def as_kernel_shape(shape: Any) -> tuple[int, int, int, int]:
    """The shape as a tuple of ints; raises a ValueError unless it is HWIO, four positive integers."""
    try:
        kh, kw, c_in, c_out = map(operator.index, shape)
    except (TypeError, ValueError):
        raise ValueError(f"A kernel shape must be HWIO, four positive integers, got {shape!r:.80}.") from None
    if min(kh, kw, c_in, c_out) < 1:
        raise ValueError(f"A kernel shape must be HWIO, four positive integers, got {shape!r:.80}.")
    return kh, kw, c_in, c_out


def _check_taps(shape: tuple[int, ...], state_shape: tuple[int, ...]) -> None:
    """Raises a ValueError unless a state of `state_shape` has the taps of HWIO `shape`."""
    kh, kw, _, _ = shape
    if len(state_shape) != 3:
        raise ValueError(f"A state must have shape (C, C, K**2), got {tuple(state_shape)}.")
    taps = state_shape[-1]
    if kh * kw > taps:
        raise ValueError(
            f"Kernel shape {tuple(shape)} (HWIO) is larger than the state: it has {kh * kw} taps, the state {taps}. "
            "`generate_kernels` joins such a kernel from several states."
        )


def least_state(shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """The least C, and the least odd K, of a state that holds every kernel of `shapes`, (*window, c_in, c_out)."""
    taps = max(math.prod(shape[:-2]) for shape in shapes)
    size = math.isqrt(taps - 1) + 1 if taps > 1 else 1
    return max(max(shape[-2:]) for shape in shapes), size + 1 - size % 2


def _averaging_matrix(n: int, m: int) -> np.ndarray:
    """(m, n) weights of the bins [floor(i n / m), ceil((i + 1) n / m))."""
    weights = np.zeros((m, n))
    for i in range(m):
        low, high = i * n // m, -(-(i + 1) * n // m)
        weights[i, low:high] = 1.0 / (high - low)
    return weights
