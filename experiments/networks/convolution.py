"""Convolutions for modules whose kernels are not generated."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from puppet_jax.convolution import convolve
from puppet_jax.fast_convolution import find_windows, shifted


def use_fast_convolutions(model: nnx.Module) -> None:
    """Lets the convolutions of a module, those of JAX, be computed by `convolve`."""
    for _, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Conv) and node.conv_general_dilated is lax.conv_general_dilated:
            node.conv_general_dilated = convolve


FILTER_EACH = "filter_each"
"""Name of its equation in a jaxpr, by which its products are counted."""


@functools.partial(jax.jit, static_argnames="stride")
def filter_each(
    x: Float[Array, "batch height width channels"], filters: Float[Array, "batch k k channels"], stride: int = 1
) -> Float[Array, "batch height2 width2 channels"]:
    """Convolves each channel of each image with a filter of its own, of odd size, padded by half of it."""
    batch, k, _, channels = filters.shape
    taps = filters.reshape(batch, k * k, channels)
    parts = shifted(x, find_windows(x.shape, (k, k), (stride, stride), ((k // 2, k // 2),) * 2))
    return functools.reduce(jnp.add, (part * taps[:, n, None, None] for n, part in enumerate(parts)))
