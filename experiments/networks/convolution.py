"""`jax.lax.conv_general_dilated` as a CPU computes it fast, for modules whose kernels are not generated.

XLA for CPUs takes 5 to 80 times as long as it should for the gradient of a kernel on large maps, for maps of a few
pixels, and for depthwise kernels (jax 0.10.2). The values are the same up to rounding.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from puppet_jax.convolution import is_plain, shifted

FEW_PLACES = 9
"""Maps of at most so many places are convolved as one matrix product."""
_countable = contextvars.ContextVar("countable", default=False)


@contextlib.contextmanager
def countable() -> Iterator[None]:
    """Within it programs are traced whose multiply-accumulates `count_macs` finds: convolutions and products alone."""
    token = _countable.set(True)
    try:
        yield
    finally:
        _countable.reset(token)


def use_fast_convolutions(model: nnx.Module) -> None:
    """Lets the convolutions of a module, those of JAX, be computed by `convolve`."""
    for _, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Conv) and node.conv_general_dilated is lax.conv_general_dilated:
            node.conv_general_dilated = convolve


def convolve(x: Array, kernel: Array, window_strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated`; on a CPU up to rounding."""

    def plain(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, window_strides, padding, **options)

    if jax.default_backend() != "cpu" or _countable.get() or not is_plain(x, kernel.shape, **options):
        return plain(x, kernel)
    dilation = tuple(options.get("rhs_dilation") or (1, 1))
    taps = functools.partial(
        shifted, size=kernel.shape[:2], strides=tuple(window_strides), padding=padding, dilation=dilation
    )
    groups = options.get("feature_group_count", 1)
    if groups == x.shape[-1] == kernel.shape[-1] > 1:  # depthwise
        weights = kernel.reshape(-1, kernel.shape[-1])
        return functools.reduce(jnp.add, (part * weights[n][None, None, None] for n, part in enumerate(taps(x))))
    if groups > 1:
        return plain(x, kernel)
    places = math.prod(jax.eval_shape(plain, x, kernel).shape[1:3])
    if places <= FEW_PLACES:
        return jnp.concatenate(taps(x), axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
    return _with_products(plain, taps, x, kernel)


def filter_each(
    x: Float[Array, "batch height width channels"], filters: Float[Array, "batch k k channels"], stride: int = 1
) -> Float[Array, "batch height2 width2 channels"]:
    """Convolves each channel of each image with a filter of its own, of odd size, padded by half of it."""
    batch, k, _, channels = filters.shape
    taps = filters.reshape(batch, k * k, channels)
    parts = shifted(x, (k, k), (stride, stride), ((k // 2, k // 2),) * 2)
    if _countable.get():
        return jnp.einsum("bkhwc,bkc->bhwc", jnp.stack(parts, axis=1), taps)
    return functools.reduce(jnp.add, (part * taps[:, n, None, None] for n, part in enumerate(parts)))


def _with_products(plain: Any, taps: Any, x: Array, kernel: Array) -> Array:
    """The convolution, whose gradient of the kernel is a matrix product for each tap."""

    @jax.custom_vjp
    def run(x, kernel):
        return plain(x, kernel)

    def forward(x, kernel):
        return plain(x, kernel), (x, kernel)

    def backward(kept, g):
        x, kernel = kept
        (dx,) = jax.vjp(lambda x: plain(x, kernel), x)[1](g)
        flat = g.reshape(-1, g.shape[-1])
        products = [part.reshape(-1, part.shape[-1]).T @ flat for part in taps(x)]
        return dx, jnp.stack(products).reshape(kernel.shape)

    run.defvjp(forward, backward)
    return run(x, kernel)
