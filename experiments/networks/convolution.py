"""Convolutions and linear layers for modules whose kernels are not generated."""

import math
from typing import Any

from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from puppet_jax.convolution import convolve
from puppet_jax.cpu import fast_convolution
from puppet_jax.cpu.windows import find_windows


def use_fast_layers(model: nnx.Module) -> None:
    """Lets the convolutions and linear layers of a module, those of JAX, be computed by `convolve` and `multiply`."""
    for _, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Conv) and node.conv_general_dilated is lax.conv_general_dilated:
            node.conv_general_dilated = convolve
        if isinstance(node, nnx.Linear | nnx.LinearGeneral) and node.dot_general in (None, lax.dot_general):
            node.dot_general = multiply


def multiply(x: Array, kernel: Array, dimension_numbers: Any, *, out_sharding: Any = None, **options: Any) -> Array:
    """`jax.lax.dot_general`; the last axes of `x` with the first of `kernel` as a `product` of two axes."""
    (axes, own), batch = dimension_numbers
    count = len(own)
    ends = tuple(axes) == tuple(range(x.ndim - count, x.ndim)) and tuple(own) == tuple(range(count))
    if not ends or any(batch) or out_sharding is not None:
        return lax.dot_general(x, kernel, dimension_numbers, out_sharding=out_sharding, **options)
    size = math.prod(kernel.shape[:count])
    lead = x.shape[: x.ndim - count]
    y = fast_convolution.product(x.reshape(*lead, size), kernel.reshape(size, -1), **options)
    return y.reshape(*lead, *kernel.shape[count:])


def filter_each(
    x: Float[Array, "batch height width channels"], filters: Float[Array, "batch k k channels"], stride: int = 1
) -> Float[Array, "batch height2 width2 channels"]:
    """Convolves each channel of each image with a filter of its own, of odd size, padded by half of it."""
    k = filters.shape[1]
    windows = find_windows(x.shape, (k, k), (stride, stride), ((k // 2, k // 2),) * 2)
    return fast_convolution.filter_each(x, filters, windows)
