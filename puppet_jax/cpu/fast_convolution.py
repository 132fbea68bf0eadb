"""One convolution as a CPU computes it fast: Winograd's algorithm, products of patches, or XLA's own.

XLA for CPUs (jax 0.10.2) takes up to seven times as long for a value with both gradients, and twice as long for values
alone: docs/records/2026-11-29-convolutions. Results agree with XLA's up to rounding. Every transform of JAX applies,
forward mode and second order among them.
"""

import functools
import math
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array, DTypeLike, Float

from puppet_jax.cpu.windows import (
    NHWC,
    Windows,
    apart,
    by_pieces,
    derived,
    find_windows,
    largest_divisor,
    padded,
    product,
    shifted,
    spaced,
    transpose_of,
)
from puppet_jax.cpu.winograd import winograd, winograd_by_kernel

Way = Literal["xla", "products", "winograd", "patches", "shifts", "groups"]
WAYS: tuple[Way, ...] = ("xla", "products", "winograd", "patches", "shifts", "groups")

# The rule of `choose` and the sizes of pieces, measured by `python -m experiments.benchmark --convolutions`.
WINOGRAD_CHANNELS = 32
AVX512_WINOGRAD_CHANNELS = 128
WINOGRAD_PLACES = 4096
PATCHES_PLACES = 16
AVX512_PATCHES_PLACES = 4
AVX512_PATCHES_CHANNELS = 512
PATCHES_ALL_PLACES = 128
PATCHES_TAPS = 36
PATCHES_FLOATS = 500_000
ROWS_FLOATS = 8192


def is_plain(x: Array, shape: tuple[int, ...], **options: Any) -> bool:
    """Whether it is a convolution of NHWC images with HWIO kernels, and nothing more but groups and dilated taps.

    Args:
        x: the images.
        shape: of the kernel.
        **options: of `jax.lax.conv_general_dilated`.
    """
    dims = options.get("dimension_numbers")
    return (
        x.ndim == len(shape) == 4
        and dims is not None
        and lax.conv_dimension_numbers(x.shape, shape, dims) == lax.conv_dimension_numbers(x.shape, shape, NHWC)
        and options.get("batch_group_count", 1) == 1
        and all(d == 1 for d in options.get("lhs_dilation") or ())
        and options.get("preferred_element_type") is None
        and options.get("out_sharding") is None
    )


def choose(shape: tuple[int, ...], kernel_shape: tuple[int, ...], windows: Windows, groups: int = 1) -> Way:
    """The fastest way on a CPU.

    Args:
        shape: of the images, (batch, height, width, channels).
        kernel_shape: HWIO.
        windows: where they lie.
        groups: of channels.

    Returns:
        "winograd": Winograd's tiles; "patches": one product of all patches, for windows of one tap as well; "xla":
        XLA's convolution; "products": the same, whose kernel has its gradient from patches or tiles; "shifts": sums of
        shifted images, for depthwise kernels; "groups": products of patches, a matrix a group.
    """
    rows, columns, channels, produced = kernel_shape
    if groups > 1:
        return "shifts" if groups == shape[-1] == produced else "groups"
    places = math.prod(windows.places(shape))
    few_in_all, least = shape[0] * places <= PATCHES_ALL_PLACES, min(channels, produced)
    few = places <= PATCHES_PLACES or few_in_all
    if has_avx512():
        by_patches = places <= AVX512_PATCHES_PLACES or (few_in_all and least >= AVX512_PATCHES_CHANNELS)
    else:
        by_patches = few or _few_taps(kernel_shape)
    if by_patches or rows * columns == 1:
        return "patches"
    if few:
        return "xla"
    wide = least >= (AVX512_WINOGRAD_CHANNELS if has_avx512() else WINOGRAD_CHANNELS)
    return "winograd" if wide and _tiles(shape, kernel_shape, windows) else "products"


@functools.cache
def has_avx512() -> bool:
    """Whether the CPU has vectors of 16 floats, with which XLA's own values are up to twice as fast.

    Of a system that does not say so in /proc/cpuinfo it is taken that it has not.
    """
    try:
        return "avx512f" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def _few_taps(kernel_shape: tuple[int, ...]) -> bool:
    return math.prod(kernel_shape[:3]) <= PATCHES_TAPS


def _tiles(shape: tuple[int, ...], kernel_shape: tuple[int, ...], windows: Windows) -> bool:
    """Whether Winograd's tiles pay for the gradient by a kernel."""
    fits = windows.size == (3, 3) and windows.are_dense() and min(kernel_shape[2:]) >= WINOGRAD_CHANNELS
    return fits and shape[0] * math.prod(windows.places(shape)) >= WINOGRAD_PLACES


def convolve_one(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated`, on a CPU the fastest way and equal up to rounding.

    Args:
        x: images. What is no convolution of NHWC images in float32 or float64 is left to XLA.
        kernel: of the rank of `x`.
        strides: as in `conv_general_dilated`.
        padding: likewise.
        **options: likewise.
    """
    if is_for_cpu(x, kernel) and is_plain(x, kernel.shape, **options):
        windows = find_windows(x.shape, kernel.shape[:2], strides, padding, options.get("rhs_dilation"))
        if min(windows.places(x.shape)) > 0:
            groups = options.get("feature_group_count", 1)
            return fast_convolution(choose(x.shape, kernel.shape, windows, groups), x, kernel, windows, groups)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def is_for_cpu(x: Array, kernel: Array) -> bool:
    """Whether programs run on a CPU, and both hold floats of the one kind that a CPU computes with."""
    return x.dtype == kernel.dtype and is_of_cpu(x.dtype) and 0 not in (*x.shape, *kernel.shape)


def is_of_cpu(dtype: DTypeLike) -> bool:
    """Whether programs run on a CPU, which computes with floats of this kind."""
    return jax.default_backend() == "cpu" and jnp.dtype(dtype) in (jnp.float32, jnp.float64)


# A program of this name, so that one who reads what a model computes can tell that it is a convolution.
@functools.partial(jax.jit, static_argnames=("way", "windows", "groups"))
def fast_convolution(way: Way, x: Array, kernel: Array, windows: Windows, groups: int = 1) -> Array:
    """`compute`, as one equation of a jaxpr: equal convolutions are traced once."""
    return compute(way, x, kernel, windows, groups)


def is_convolution(equation: JaxprEqn) -> bool:
    """Whether an equation of a jaxpr is a convolution of its first operand with its second: XLA's or a fast one."""
    return equation.primitive.name == "conv_general_dilated" or equation.params.get("name") == "fast_convolution"


def compute(way: Way, x: Array, kernel: Array, windows: Windows, groups: int = 1) -> Array:
    """The convolution, computed in one `way` of `choose`."""
    xla = functools.partial(
        lax.conv_general_dilated,
        window_strides=windows.strides,
        padding=windows.padding,
        rhs_dilation=windows.dilation,
        dimension_numbers=NHWC,
        feature_group_count=groups,
    )
    if way == "xla":
        return xla(x, kernel)
    if way == "winograd":
        return winograd(x, kernel, windows)
    if way == "groups":
        return grouped(x, kernel, windows, groups)
    if way == "patches":
        return product(patches(x, windows), kernel.reshape(-1, kernel.shape[-1]))
    if way == "products":
        return derived(xla, functools.partial(_by_kernel, windows=windows))(x, kernel)
    return depthwise(x, kernel, windows)


def _by_kernel(x: Array, kernel: Array, windows: Windows) -> Array:
    """The convolution whose gradient by the kernel takes the least time."""
    if _few_taps(kernel.shape):
        return compute("patches", x, kernel, windows)
    return (winograd_by_kernel if _tiles(x.shape, kernel.shape, windows) else products)(x, kernel, windows)


def depthwise(
    x: Float[Array, "batch height width c"], kernel: Float[Array, "kh kw 1 c"], windows: Windows
) -> Float[Array, "batch rows columns c"]:
    """The depthwise convolution as a sum of shifted images; so is its gradient by the image.

    As a sum of products that are padded it takes less time alone, but three times as long in a network: XLA makes each
    product apart, and each time anew what the images are computed from.
    """

    def seen(x: Array, kernel: Array) -> Array:
        return _weighted(x, kernel.reshape(1, *kernel.shape[:2], -1), windows)

    def by_image(x: Array, kernel: Array) -> Array:
        around = jnp.flip(kernel, axis=(0, 1)).reshape(1, *kernel.shape[:2], -1)

        def turned(gradient: Array) -> Array:
            return _weighted(spaced(gradient, windows.strides), around, windows.turned(x.shape))

        return transpose_of(turned, x, windows, x.shape[-1])

    return derived(seen, functools.partial(_by_rows, windows=windows), by_image)(x, kernel)


def _by_rows(x: Array, kernel: Array, windows: Windows) -> Array:
    """The depthwise convolution some rows at a time: its gradient by the kernel adds up what lies in a cache."""
    (rows, columns), channels, whole = windows.places(x.shape), x.shape[-1], padded(x, windows.padding)
    few = largest_divisor(rows, ROWS_FLOATS // (columns * channels))
    row_windows = windows._replace(padding=((0, 0), (0, 0)))
    seen = (few - 1) * windows.strides[0] + windows.reach()[0]
    taps_of = kernel.reshape(-1, 1, 1, channels)
    weights = apart(jnp.broadcast_to(taps_of, (len(taps_of), few, columns, channels)))

    @functools.partial(jax.checkpoint, prevent_cse=False)  # what the taps see is not kept
    def some(place: tuple[Array, Array]) -> Array:
        image, first = place
        strip = lax.dynamic_slice(whole, (image, few * windows.strides[0] * first, 0, 0), (1, seen, *whole.shape[2:]))
        taps = (part[0] for part in shifted(strip, row_windows))
        return functools.reduce(jnp.add, (weight * tap for weight, tap in zip(weights, taps, strict=True)))

    numbers, pieces = jnp.arange(len(x) * (rows // few)), rows // few
    return lax.map(some, (numbers // pieces, numbers % pieces)).reshape(len(x), rows, columns, channels)


# A program of this name, so that the products that it stands for can be counted.
@functools.partial(jax.jit, static_argnames="windows")
def filter_each(
    x: Float[Array, "batch height width c"], filters: Float[Array, "batch kh kw c"], windows: Windows
) -> Float[Array, "batch rows columns c"]:
    """Convolves each channel of each image with a filter of its own."""
    return _weighted(x, filters, windows)


def is_filter_each(equation: JaxprEqn) -> bool:
    """Whether an equation of a jaxpr is `filter_each`."""
    return equation.params.get("name") == "filter_each"


def _weighted(x: Array, filters: Array, windows: Windows) -> Array:
    """What the taps see, times the filters (batch or 1, kh, kw, c), in sum."""
    weights = filters.reshape(len(filters), -1, filters.shape[-1])
    return functools.reduce(jnp.add, (part * weights[:, n, None, None] for n, part in enumerate(shifted(x, windows))))


def patches(x: Float[Array, "batch height width c"], windows: Windows) -> Float[Array, "batch rows columns patch"]:
    """What each window sees of images: its taps row by row, the channels of each."""
    return jnp.concatenate(shifted(x, windows), axis=-1)


def taps_of_groups(
    x: Float[Array, "batch height width c"], windows: Windows, groups: int
) -> Float[Array, "batch rows columns taps groups c_group"]:
    """What each tap of a window sees of the channels of each group."""
    taps = jnp.stack(shifted(x, windows), axis=-2)
    return taps.reshape(*taps.shape[:-1], groups, -1)


def products(
    x: Float[Array, "batch height width c_in"], kernel: Float[Array, "kh kw c_in c_out"], windows: Windows
) -> Float[Array, "batch rows columns c_out"]:
    """The convolution as products of patches, of a few images at a time: patches of all would not fit into a cache."""
    flat = kernel.reshape(-1, kernel.shape[-1])

    @functools.partial(jax.checkpoint, prevent_cse=False)  # patches are not kept
    def piece(x):
        return product(patches(x, windows), flat)

    image = math.prod(windows.places(x.shape)) * len(flat)
    return by_pieces(piece, x, max(1, PATCHES_FLOATS // image))


def grouped(
    x: Float[Array, "batch height width c_in"],
    kernel: Float[Array, "kh kw c_group c_out"],
    windows: Windows,
    groups: int,
) -> Float[Array, "batch rows columns c_out"]:
    """A convolution in groups of channels as products of patches, of a few images at a time."""
    matrices = kernel.reshape(-1, kernel.shape[2], groups, kernel.shape[3] // groups)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # patches are not kept
    def piece(x):
        seen = taps_of_groups(x, windows, groups)
        found = jnp.einsum("ntgi,tigo->gno", seen.reshape(-1, *seen.shape[3:]), matrices)
        return jnp.moveaxis(found, 0, 1).reshape(-1, kernel.shape[-1]).reshape(*seen.shape[:3], -1)

    image = math.prod(windows.places(x.shape)) * len(matrices) * x.shape[-1]
    return by_pieces(piece, x, max(1, PATCHES_FLOATS // image))
