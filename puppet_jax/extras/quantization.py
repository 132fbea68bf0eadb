"""Few bits a float: saves up to five sixths of the stored bytes; costs accuracy, of which training gives some back.

Matrices are rounded channel by channel, vectors as a whole; biases that change nothing are not stored.
"""
# The bits of a whole model are a pytree of 0 (not stored), 4, 8 and 16 (float16), one a leaf; `choose_bits` makes it.

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, DTypeLike, Float, Float16, Int8

from puppet_jax.checks import as_array, check_floating, is_concrete
from puppet_jax.model_file import Quantized as Quantized, dequantize as dequantize, num_scales
from puppet_jax.puppeteer import idle_leaves

Bits = Literal[8, 4]
_MOST = float(jnp.finfo(jnp.float16).max)
_STRETCHES = (1.0, 1.0625, 1.125, 1.1875, 1.25)
"""How far beyond the lowest code the largest magnitude of a channel may lie, as a factor."""


def quantize(x: Float[ArrayLike, "... channels"], bits: Bits) -> Quantized:
    """Rounding with one scale a channel, the last axis; zero stays zero.

    Where a channel has fewer than eight values, as in a vector, one scale serves all channels.

    Codes are those of two's complement, -2**(bits - 1) to 2**(bits - 1) - 1. Of a few scales of either sign, which take
    the float of largest magnitude in a channel to the last code at an end or up to a quarter beyond it, where it is
    clipped, a channel gets the one whose squared error is least. Scales are float16 before codes are rounded by them.

    Args:
        x: floating, at least one axis, finite. Fewer than 32 bits are rounded in float32.
        bits: 8 or 4.

    Returns:
        Codes and scales; `dequantize` takes them back.

    Raises:
        TypeError: if `x` is not floating.
        ValueError: if `bits` is neither 8 nor 4, `x` is a scalar, or (outside `jit`) a value is not finite or
            larger than scales in float16 serve: 8.4 million at 8 bits, 524 thousand at 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from puppet_jax import extras
        >>> stored = extras.quantize(jnp.array([1.0, -0.5, 0.3, 0.0]), bits=8)
        >>> stored.codes.tolist(), stored.scale.shape
        ([-128, 64, -38, 0], (1,))
    """
    x = as_array("x", x)
    check_floating("dtype of x", x.dtype)
    _check_bits(bits)
    _check_magnitude(x, _MOST * 2 ** (bits - 1))
    codes, scale = _round(x, bits)
    if bits == 4:
        flat = jnp.pad(codes.reshape(-1), (0, codes.size % 2))
        low, high = (flat[i::2].astype(jnp.uint8) & 15 for i in (0, 1))
        return Quantized(low | high << 4, scale)
    return Quantized(codes, scale)


def choose_bits(params: Any, matrices: Any, bits: Bits) -> Any:
    """The bits of each leaf: few for large matrices, 8 for the rest, 0 for biases of a puppeteer that change nothing.

    A matrix is small with less than a quarter of the floats of the largest: fewer bits would save little there, and a
    classifier loses more accuracy to them than the largest matrix does.

    Args:
        params: a pytree of arrays, or the result of `jax.eval_shape`.
        matrices: the same tree of booleans.
        bits: of the large matrices, 8 or 4.

    Returns:
        The same tree of 0, 4 and 8.
    """
    _check_bits(bits)
    sizes = jax.tree.map(lambda leaf, is_matrix: leaf.size if is_matrix else 0, params, matrices)
    largest = max(jax.tree.leaves(sizes), default=0)
    chosen = jax.tree.map(lambda size: bits if size and 4 * size >= largest else 8, sizes)
    return jax.tree.map(lambda own, idle: 0 if idle else own, chosen, idle_leaves(params))


def fake_quantize(params: Any, bits: Any) -> Any:
    """Parameters with the values they will have once stored; the gradient passes as if nothing was rounded.

    Args:
        params: a pytree of floating arrays, of any dtype.
        bits: the same tree of 0, 4, 8 and 16, see `choose_bits`.

    Returns:
        A pytree like `params`; values that few bits or float16 cannot hold become the nearest that they hold, and what
        is not stored zero. The straight-through estimator of Bengio, Leonard and Courville (2013): its derivative is
        the identity.
    """

    def one(leaf: ArrayLike, bits: int) -> Array:
        leaf = jnp.asarray(leaf)
        check_floating("dtype of params", leaf.dtype)
        if bits == 0:
            return jnp.zeros_like(leaf)
        if bits == 16:
            rounded = leaf.clip(-_MOST, _MOST).astype(jnp.float16).astype(leaf.dtype)
        else:
            codes, scale = _round(jax.lax.stop_gradient(leaf), bits)
            wide, axes = _wide(leaf.dtype), tuple(range(leaf.ndim - 1))
            rounded = (codes.astype(wide) * jnp.expand_dims(scale.astype(wide), axes)).astype(leaf.dtype)
        return leaf + jax.lax.stop_gradient(rounded - leaf)

    return jax.tree.map(one, params, bits)


def quantize_tree(params: Any, bits: Any) -> Any:
    """Parameters as stored: a `Quantized` for each leaf of few bits, float16 for 16, None for 0.

    Args:
        params: a pytree of floating arrays.
        bits: the same tree of 0, 4, 8 and 16, see `choose_bits`.

    Raises:
        TypeError, ValueError: as `quantize` does; float16 holds magnitudes up to 65504.

    Example:
        >>> import jax.numpy as jnp
        >>> from puppet_jax import extras
        >>> params = {"matrix": jnp.eye(8), "vector": jnp.ones(4)}
        >>> stored = extras.quantize_tree(params, {"matrix": 4, "vector": 8})
        >>> stored["matrix"].codes.shape, stored["matrix"].scale.shape, stored["vector"].scale.shape
        ((32,), (8,), (1,))
    """

    def one(leaf: ArrayLike, bits: int) -> Any:
        if bits == 0:
            return None
        if bits != 16:
            return quantize(leaf, bits)  # type: ignore[arg-type]
        leaf = jnp.asarray(leaf)
        check_floating("dtype of params", leaf.dtype)
        _check_magnitude(leaf, _MOST)
        return leaf.astype(jnp.float16)

    return jax.tree.map(one, params, bits)


def dequantize_tree(stored: Any, like: Any, bits: Any) -> Any:
    """The parameters that `quantize_tree` stored: those of `fake_quantize`.

    Args:
        stored: its result.
        like: the parameters, or their shapes and dtypes (`jax.eval_shape`).
        bits: as it was given.
    """

    def one(leaf: Any, bits: int, stored: Any) -> Array:
        if bits == 0:
            return jnp.zeros(leaf.shape, leaf.dtype)
        found = stored if bits == 16 else dequantize(stored, leaf.shape, bits)  # type: ignore[arg-type]
        return jnp.asarray(found, leaf.dtype)

    return jax.tree.map(one, like, bits, stored)


def quantized_bytes(params: Any, bits: Any) -> int:
    """Bytes of `params` once stored: codes and scales, or float16. Works on the result of `jax.eval_shape` too.

    Args:
        params: a pytree of arrays.
        bits: the same tree of 0, 4, 8 and 16, see `choose_bits`.
    """

    def one(leaf: Any, bits: int) -> int:
        return -(-leaf.size * bits // 8) + (2 * num_scales(leaf.shape) if bits in (8, 4) else 0)

    return sum(jax.tree.leaves(jax.tree.map(one, params, bits)))


@functools.partial(jax.jit, static_argnames="bits")  # so that calls outside `jit` compile once too
def _round(x: Float[Array, "... channels"], bits: int) -> tuple[Int8[Array, "... channels"], Float16[Array, " scales"]]:
    """Codes and scales, as `quantize` describes them."""
    _check_bits(bits)
    if x.ndim == 0:
        raise ValueError("x must have at least one axis, got a scalar.")
    if num_scales(x.shape) == 1 < x.shape[-1]:
        codes, scale = _round(x.reshape(-1, 1), bits)
        return codes.reshape(x.shape), scale
    half, axes, x = 2 ** (bits - 1), tuple(range(x.ndim - 1)), x.astype(_wide(x.dtype))

    def by_channel(scale: Array) -> Array:
        return jnp.expand_dims(scale.astype(x.dtype), axes)

    def rounded(scale: Array) -> Array:
        return jnp.clip(jnp.round(x / by_channel(scale)), -half, half - 1)

    def squared_error(scale: Array) -> Array:
        return jnp.square(rounded(scale) * by_channel(scale) - x).sum(axes)

    low, high = x.min(axes), x.max(axes)
    extreme = jnp.where(high > -low, high, low)
    divisors = np.array([half - 1, *(half * stretch for stretch in _STRETCHES)], np.float32)
    scales = extreme[None] / np.concatenate([divisors, -divisors])[:, None]
    scales = scales.clip(-_MOST, _MOST).astype(jnp.float16)
    scales = jnp.where(scales == 0, jnp.ones_like(scales), scales)
    best = jax.vmap(squared_error)(scales).argmin(axis=0)
    scale = jnp.take_along_axis(scales, best[None], axis=0)[0]
    return rounded(scale).astype(jnp.int8), scale


def _wide(dtype: DTypeLike) -> Any:
    """The dtype that codes and scales are computed in: half precision is coarser than codes of 8 bits."""
    return jnp.promote_types(dtype, jnp.float32)


def _check_magnitude(x: Array, most: float) -> None:
    """Raises a ValueError if a known value is not finite, or larger than `most`."""
    if is_concrete(x):
        values = np.asarray(x, _wide(x.dtype))
        bad = ~(np.abs(values) <= most)
        if bad.any():
            raise ValueError(f"what is stored in few bits must be finite and at most {most:g}, got {values[bad][0]}.")


def _check_bits(bits: int) -> None:
    if bits not in (8, 4):
        raise ValueError(f"bits must be 8 or 4, got {bits}.")
