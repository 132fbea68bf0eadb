"""Mirrored pairs of channels: the second half shows what the first half shows of the mirror image.

A network of the group of reflections (Cohen and Welling, Group equivariant convolutional networks, 2016): channel i and
channel i + C / 2 are a pair, which change places where the image is mirrored, so that whatever treats both alike gives
an image and its mirror image the same.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float


def with_mirrored(
    kernel: Float[Array, "*sets kh kw c_in free"], mirrored_input: bool
) -> Float[Array, "*sets kh kw c_in channels"]:
    """The kernels of a layer's first half, and behind them their mirror images for the second.

    Args:
        kernel: of the first half.
        mirrored_input: whether the channels of the input are such pairs; those of an image are none.
    """
    mirrored = jnp.flip(kernel, axis=-3)
    if mirrored_input:
        mirrored = jnp.roll(mirrored, kernel.shape[-2] // 2, axis=-2)
    return jnp.concatenate([kernel, mirrored], axis=-1)


def mean_of_pairs(values: Float[Array, "*rest channels"], mirror: bool = True) -> Float[Array, "*rest free"]:
    """The mean of the values of each pair; without `mirror`, when there are no pairs, the values."""
    if not mirror:
        return values
    # A product with a constant: split or joined vectors, fused into a loop over pixels, slow it by a fifth on a CPU.
    return jnp.dot(values, 0.5 * _pairs(values.shape[-1], values.dtype).T, precision=lax.Precision.HIGHEST)


def for_both_of_pairs(values: Float[Array, " free"], mirror: bool = True) -> Float[Array, " channels"]:
    """A value for each channel, the same for both of a pair; without `mirror` the values."""
    if not mirror:
        return values
    return jnp.dot(values, _pairs(2 * len(values), values.dtype), precision=lax.Precision.HIGHEST)


def _pairs(channels: int, dtype: DTypeLike) -> Float[Array, "free channels"]:
    """1 where a channel is one of the pair of that number, else 0."""
    return jnp.tile(jnp.eye(channels // 2, dtype=dtype), 2)
