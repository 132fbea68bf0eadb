"""The windows of a convolution over NHWC images: where they lie, what their taps see, products of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NHWC = ("NHWC", "HWIO", "NHWC")


class Windows(NamedTuple):
    """Where the windows of a convolution of NHWC images lie.

    Attributes:
        size: rows and columns of a window.
        strides: from one window to the next.
        padding: zeros before and behind the rows, and the columns.
        dilation: from one tap of a window to the next.
    """

    size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int] = (1, 1)

    def places(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of windows over images of a shape (..., height, width, channels)."""
        rows, columns = (
            (n + sum(pad) - reach) // stride + 1
            for n, pad, reach, stride in zip(shape[-3:-1], self.padding, self.reach(), self.strides, strict=True)
        )
        return rows, columns

    def are_dense(self) -> bool:
        """Whether there is one at each pixel, of neighbouring taps."""
        return self.strides == (1, 1) and self.dilation == (1, 1)

    def reach(self) -> tuple[int, int]:
        """Rows and columns from the first to the last tap."""
        down, across = (d * (k - 1) + 1 for k, d in zip(self.size, self.dilation, strict=True))
        return down, across

    def turned(self, shape: tuple[int, ...]) -> "Windows":
        """Those of stride 1, over what `spaced` makes of results, that see one pixel of images of a shape each."""
        sides = zip(shape[-3:-1], self.places(shape), self.strides, self.reach(), self.padding, strict=True)
        rows, columns = (
            (reach - 1 - before, n + before - (places - 1) * stride - 1)
            for n, places, stride, reach, (before, _) in sides
        )
        return Windows(self.size, (1, 1), (rows, columns), self.dilation)


def find_windows(shape: Any, size: Any, strides: Any, padding: Any, dilation: Any = None) -> Windows:
    """Windows of `size` over NHWC images of `shape`, as `conv_general_dilated` places them."""
    dilation = tuple(dilation or (1, 1))
    if isinstance(padding, str):
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
        padding = lax.padtype_to_pads(shape[1:3], reach, strides, padding)
    rows, columns = (tuple(pair) for pair in padding)
    return Windows(tuple(size), tuple(strides), (rows, columns), dilation)


def product(
    x: Float[Array, "... c_in"], matrix: Float[Array, "c_in c_out"], **options: Any
) -> Float[Array, "... c_out"]:
    """`x @ matrix`, of two axes: XLA takes five times as long to sum a gradient over several axes at once.

    Options are those of `jax.lax.dot_general`.
    """
    y = lax.dot_general(x.reshape(-1, x.shape[-1]), matrix, (((1,), (0,)), ((), ())), **options)
    return y.reshape(*x.shape[:-1], matrix.shape[-1])


def shifted(x: Float[Array, "batch height width c"], windows: Windows) -> list[Float[Array, "batch rows columns c"]]:
    """What each tap of the windows sees of images, row by row."""
    whole = padded(x, windows.padding)
    (rows, columns), (sh, sw), (dh, dw) = windows.places(x.shape), windows.strides, windows.dilation
    return [
        whole[:, dh * i : dh * i + (rows - 1) * sh + 1 : sh, dw * j : dw * j + (columns - 1) * sw + 1 : sw]
        for i in range(windows.size[0])
        for j in range(windows.size[1])
    ]


def largest_divisor(count: int, most: int) -> int:
    """The largest divisor of a number that is at most so large, or 1."""
    return max(n for n in range(1, count + 1) if count % n == 0 and n <= max(most, 1))


def by_pieces(function: Callable[[Array], Array], x: Array, most: int) -> Array:
    """The function of a batch, taken of equal pieces of at most so many images, one after the other."""
    batch = len(x)
    size = largest_divisor(batch, most)
    if size == batch:
        return function(x)
    y = lax.map(function, x.reshape(-1, size, *x.shape[1:]))
    return y.reshape(batch, *y.shape[2:])


def apart(stacked: Array) -> list[Array]:
    """The parts of an array along its first axis. Not `stacked[n]`, whose gradient is as large as all of them."""
    return [part[0] for part in lax.split(stacked, (1,) * len(stacked))]


def transpose_of(turned: Callable[[Array], Array], x: Array, windows: Windows, produced: int) -> Array:
    """The convolution of images whose gradient by them is `turned`, computed as the transpose of that.

    Args:
        turned: the convolution with the kernel turned around, where `windows.turned` lie.
        x: images.
        windows: of the convolution.
        produced: channels of the result.
    """
    shape = (len(x), *windows.places(x.shape), produced)
    return jax.linear_transpose(turned, jax.ShapeDtypeStruct(shape, x.dtype))(x)[0]


def spaced(x: Array, strides: tuple[int, int]) -> Array:
    """With as many zeros between neighbours as windows of these strides leave out."""
    down, across = (stride - 1 for stride in strides)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, down), (0, 0, across), (0, 0, 0)))


def padded(x: Array, padding: Any) -> Array:
    """With zeros around its rows and columns; negative ones are cut off."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0)))


def derived(
    values: Callable[[Array, Array], Array],
    by_kernel: Callable[[Array, Array], Array],
    by_image: Callable[[Array, Array], Array] | None = None,
) -> Callable[[Array, Array], Array]:
    """The convolution `values`, whose derivatives are those of equal ones: by the kernel, and by the image."""
    run = jax.custom_jvp(values)

    @run.defjvp
    def _(primals, tangents):
        (x, kernel), (dx, dkernel) = primals, tangents
        return run(x, kernel), (by_image or values)(dx, kernel) + by_kernel(x, dkernel)

    return run
