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

FEW_PLACES = 9
"""Maps of at most so many places are convolved as one matrix product."""
NHWC = ("NHWC", "HWIO", "NHWC")
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

    if jax.default_backend() != "cpu" or _countable.get() or not _is_plain(x, kernel, **options):
        return plain(x, kernel)
    strides, dilation = tuple(window_strides), tuple(options.get("rhs_dilation") or (1, 1))
    kh, kw = kernel.shape[:2]
    pads = padding
    if isinstance(padding, str):
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, (kh, kw), strict=True)]
        pads = lax.padtype_to_pads(x.shape[1:3], reach, strides, padding)
    shifted = functools.partial(
        _shifted, size=(kh, kw), strides=strides, padding=tuple(map(tuple, pads)), dilation=dilation
    )
    groups = options.get("feature_group_count", 1)
    if groups == x.shape[-1] == kernel.shape[-1] > 1:  # depthwise
        taps = kernel.reshape(kh * kw, -1)
        return functools.reduce(jnp.add, (part * taps[n][None, None, None] for n, part in enumerate(shifted(x))))
    if groups > 1:
        return plain(x, kernel)
    places = math.prod(jax.eval_shape(plain, x, kernel).shape[1:3])
    if places <= FEW_PLACES:
        return jnp.concatenate(shifted(x), axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
    return _with_products(plain, shifted, x, kernel)


def filter_each(
    x: Float[Array, "batch height width channels"], filters: Float[Array, "batch k k channels"], stride: int = 1
) -> Float[Array, "batch height2 width2 channels"]:
    """Convolves each channel of each image with a filter of its own, of odd size, padded by half of it."""
    batch, k, _, channels = filters.shape
    taps = filters.reshape(batch, k * k, channels)
    pad = (k // 2, k // 2)
    parts = _shifted(x, size=(k, k), strides=(stride, stride), padding=(pad, pad), dilation=(1, 1))
    if _countable.get():
        return jnp.einsum("bkhwc,bkc->bhwc", jnp.stack(parts, axis=1), taps)
    return functools.reduce(jnp.add, (part * taps[:, n, None, None] for n, part in enumerate(parts)))


def _shifted(x: Array, *, size: Any, strides: Any, padding: Any, dilation: Any) -> list[Array]:
    """What each tap of a window sees, row by row."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    counts = [
        (full - d * (k - 1) - 1) // s + 1
        for full, k, s, d in zip(padded.shape[1:3], size, strides, dilation, strict=True)
    ]
    ends = [s * (count - 1) + 1 for s, count in zip(strides, counts, strict=True)]
    return [
        padded[:, dilation[0] * i :, dilation[1] * j :][:, : ends[0] : strides[0], : ends[1] : strides[1]]
        for i in range(size[0])
        for j in range(size[1])
    ]


def _with_products(plain: Any, shifted: Any, x: Array, kernel: Array) -> Array:
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
        taps = [part.reshape(-1, part.shape[-1]).T @ flat for part in shifted(x)]
        return dx, jnp.stack(taps).reshape(kernel.shape)

    run.defvjp(forward, backward)
    return run(x, kernel)


def _is_plain(x: Array, kernel: Array, **options: Any) -> bool:
    """Whether it is a convolution of NHWC images with HWIO kernels, and nothing more but groups and dilated taps."""
    dims = options.get("dimension_numbers")
    return (
        x.ndim == kernel.ndim == 4
        and dims is not None
        and lax.conv_dimension_numbers(x.shape, kernel.shape, dims)
        == lax.conv_dimension_numbers(x.shape, kernel.shape, NHWC)
        and options.get("batch_group_count", 1) == 1
        and all(d == 1 for d in options.get("lhs_dilation") or (1,))
        and options.get("preferred_element_type") is None
        and options.get("out_sharding") is None
    )
