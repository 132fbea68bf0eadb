"""From a state of the trajectory to a convolution kernel: adaptive average pooling (v1 Sec. 3.3)."""

import math
import operator
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
    check_taps(shape, jnp.shape(state))
    if max(c_in, c_out) > len(state):
        raise ValueError(
            f"Kernel shape {shape} (HWIO) is larger than the state: it has {c_out} x {c_in} channels, the state "
            f"{len(state)} x {len(state)}. `generate_kernels` joins such a kernel from several states."
        )
    pooled = adaptive_average_pool(state, (c_out, c_in, kh * kw))
    return pooled.reshape(c_out, c_in, kh, kw).transpose(2, 3, 1, 0)


def blocks(shape: tuple[int, ...], max_channels: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """How a kernel of HWIO `shape` is cut into blocks that a state of C = `max_channels` can be pooled to.

    Returns:
        HWIO shapes by input channels, then by output channels; one block for a kernel no wider than C. Blocks along
        an axis differ by one channel at most, wider ones first.
    """
    kh, kw, c_in, c_out = shape
    return tuple(tuple((kh, kw, i, o) for o in _parts(c_out, max_channels)) for i in _parts(c_in, max_channels))


def _parts(channels: int, at_most: int) -> tuple[int, ...]:
    count = -(-channels // at_most)
    return tuple(channels // count + (n < channels % count) for n in range(count))


def as_kernel_shape(shape: Any) -> tuple[int, int, int, int]:
    """The shape as a tuple of ints; raises a ValueError unless it is HWIO, four positive integers."""
    try:
        kh, kw, c_in, c_out = map(operator.index, shape)
    except (TypeError, ValueError):
        raise ValueError(f"A kernel shape must be HWIO, four positive integers, got {shape!r:.80}.") from None
    if min(kh, kw, c_in, c_out) < 1:
        raise ValueError(f"A kernel shape must be HWIO, four positive integers, got {shape!r:.80}.")
    return kh, kw, c_in, c_out


def check_taps(shape: tuple[int, ...], state_shape: tuple[int, ...], name: str | None = None) -> None:
    """Raises a ValueError, which begins with `name`, unless a state of `state_shape` has the taps of HWIO `shape`."""
    kh, kw, _, _ = shape
    if len(state_shape) != 3:
        raise ValueError(f"A state must have shape (C, C, K**2), got {tuple(state_shape)}.")
    taps = state_shape[-1]
    if kh * kw > taps:
        name = name or f"Kernel shape {tuple(shape)} (HWIO)"
        raise ValueError(
            f"{name} is larger than the state: it has {kh * kw} taps, the state {taps}. Use a puppeteer with "
            f"kernel_size of at least {odd_at_least(kh * kw)}."
        )


def odd_at_least(taps: int) -> int:
    """The least odd kernel size K with K**2 >= taps."""
    size = math.isqrt(taps - 1) + 1 if taps > 1 else 1
    return size + 1 - size % 2


def _averaging_matrix(n: int, m: int) -> np.ndarray:
    """(m, n) weights of the bins [floor(i n / m), ceil((i + 1) n / m))."""
    weights = np.zeros((m, n))
    for i in range(m):
        low, high = i * n // m, -(-(i + 1) * n // m)
        weights[i, low:high] = 1.0 / (high - low)
    return weights
