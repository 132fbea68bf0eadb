"""Winograd's algorithm for windows of three taps and stride 1: fewer products, of sums of pixels (Lavin and Gray 2016).

`t` neighbouring outputs take t + 2 products instead of 3 t: A'[(G k) * (B' x)], where x are the t + 2 pixels that they
see; along both axes (t + 2)² instead of 9 t². Values are computed by two outputs at a time, whose sums round least; the
derivative by the kernel by four, whose rounding a sum over all images hides.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from puppet_jax.cpu.windows import Windows, apart, by_pieces, derived, padded, transpose_of

# Windows and floats of a piece at most, and from which channels on four outputs at a time take longer than two for the
# derivative by a kernel: measured by `python -m experiments.benchmark --convolutions`.
PLACES = 2048
FLOATS = 262_144
WIDE = 512

_BATCHED = (((2,), (1,)), ((0,), (0,)))


class Tile(NamedTuple):
    """The matrices of so many outputs: of the pixels that they see (B'), of the kernel (G), of the products (A')."""

    image: np.ndarray
    kernel: np.ndarray
    outputs: np.ndarray

    @property
    def size(self) -> int:
        """Outputs."""
        return len(self.outputs)


TWO = Tile(
    image=np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    kernel=np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    outputs=np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
)
"""Of the points 0, 1, -1 and infinity."""

FOUR = Tile(
    image=np.array(
        [
            [1, -1.5, -2, 1.5, 1, 0],
            [0, -1, 0.5, 2.5, 1, 0],
            [0, 1, -2.5, 0.5, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 0.5, -1, -0.5, 1, 0],
            [0, 1, -1.5, -2, 1.5, 1],
        ]
    ),
    kernel=np.array(
        [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, -1 / 3]]
        + [[-16 / 15, -8 / 15, -4 / 15], [1 / 15, -2 / 15, 4 / 15], [0, 0, 1]]
    ),
    outputs=np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 0.5, -2, 0], [0, 1, 1, 0.25, 4, 0], [0, 1, -1, 0.125, -8, 1]]),
)
"""Of the points 0, 1, -1, 1/2, -2 and infinity, which round a third as much as with 2 in place of 1/2."""


def winograd(
    x: Float[Array, "batch height width c_in"], kernel: Float[Array, "3 3 c_in c_out"], windows: Windows
) -> Float[Array, "batch rows columns c_out"]:
    """The convolution with 3x3 windows of stride 1, a few images at a time."""
    return _convolution(_squares, windows)(x, kernel)


def winograd_rows(
    x: Float[Array, "batch height width c_in"], kernel: Float[Array, "3 1 c_in c_out"], windows: Windows
) -> Float[Array, "batch rows columns c_out"]:
    """The convolution with windows of three rows and one column, of stride 1."""
    return _convolution(_strips, windows)(x, kernel)


def winograd_by_kernel(
    x: Float[Array, "batch height width c_in"], kernel: Float[Array, "3 3 c_in c_out"], windows: Windows
) -> Float[Array, "batch rows columns c_out"]:
    """`winograd` in the tiles whose gradient by the kernel takes the fewest products, four outputs at a time or two."""
    return _squares(x, kernel, windows, _fewest(windows.places(x.shape), kernel.shape))


def _convolution(tiled: Callable[..., Array], windows: Windows) -> Callable[[Array, Array], Array]:
    """The convolution of an image and a kernel, with derivatives that take as few products.

    Args:
        tiled: computes it, of an image, a kernel, windows and a tile.
        windows: where they lie.
    """

    def values(x: Array, kernel: Array) -> Array:
        return tiled(x, kernel, windows, TWO)

    def by_kernel(x: Array, kernel: Array) -> Array:
        return tiled(x, kernel, windows, _fewest(windows.places(x.shape), kernel.shape))

    def by_image(x: Array, kernel: Array) -> Array:
        """Linear in the image, and its transpose is a convolution with the kernel turned around."""
        around = jnp.flip(kernel, axis=(0, 1)).swapaxes(2, 3)
        return transpose_of(lambda g: tiled(g, around, windows.turned(x.shape), TWO), x, windows, kernel.shape[-1])

    return derived(values, by_kernel, by_image)


def _fewest(places: tuple[int, int], kernel_shape: tuple[int, ...]) -> Tile:
    """The tile of the fewest products, as far as its matrices are small."""

    def products(tile: Tile) -> int:
        along = [
            -(-n // tile.size) * (tile.size + 2) if k == 3 else n for n, k in zip(places, kernel_shape[:2], strict=True)
        ]
        return along[0] * along[1]

    return TWO if min(kernel_shape[2:]) >= WIDE else min((TWO, FOUR), key=products)


def _squares(x: Array, kernel: Array, windows: Windows, tile: Tile) -> Array:
    """Along both axes, of a few images at a time."""
    rows, columns = windows.places(x.shape)
    matrices = jnp.einsum(
        "pi,qj,ijco->pqco", tile.kernel.astype(kernel.dtype), tile.kernel.astype(kernel.dtype), kernel
    )
    own = apart(matrices)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # sums of pixels are not kept
    def piece(x: Array) -> Array:
        whole = padded(x, _full(windows, tile, (rows, columns)))
        strips = _sums(tile, whole, 1)
        found = [_outputs(tile, _products(_sums(tile, strip, 2), own[p]), 3) for p, strip in enumerate(strips)]
        y = _outputs(tile, found, 2)  # (batch, tiles down, outputs, tiles across, outputs, c_out)
        return y.reshape(len(x), y.shape[1] * tile.size, y.shape[3] * tile.size, -1)[:, :rows, :columns]

    most = min(PLACES, FLOATS // max(kernel.shape[2:]))
    return by_pieces(piece, x, max(1, most // (rows * columns)))


def _strips(x: Array, kernel: Array, windows: Windows, tile: Tile) -> Array:
    """Along the rows only."""
    rows, columns = windows.places(x.shape)
    matrices = jnp.einsum("pi,ico->pco", tile.kernel.astype(kernel.dtype), kernel[:, 0])
    down, sides = _full(windows, tile, (rows, columns))
    strips = _sums(tile, padded(x, (down, windows.padding[1])), 1)
    y = _outputs(tile, _products(strips, matrices), 2)
    return y.reshape(len(x), y.shape[1] * tile.size, columns, -1)[:, :rows]


def _full(windows: Windows, tile: Tile, places: tuple[int, int]) -> list[tuple[int, int]]:
    """The padding, and behind it as much as fills the last tile."""
    return [(before, behind - n % -tile.size) for (before, behind), n in zip(windows.padding, places, strict=True)]


def _sums(tile: Tile, x: Array, axis: int) -> list[Array]:
    """B' along an axis: of the pixels that each tile sees."""
    reach = x.shape[axis] - tile.size - 1
    seen = [lax.slice_in_dim(x, n, n + reach, stride=tile.size, axis=axis) for n in range(tile.size + 2)]
    return [_weighted(weights, seen) for weights in tile.image.tolist()]


def _products(sums: list[Array], matrices: Float[Array, "p c_in c_out"]) -> list[Array]:
    """Each sum of pixels with its matrix, in one batched product: it compiles in less than half the time of several."""
    pixels = jnp.stack(sums).reshape(len(sums), -1, sums[0].shape[-1])
    return [y.reshape(*sums[0].shape[:-1], -1) for y in apart(lax.dot_general(pixels, matrices, _BATCHED))]


def _outputs(tile: Tile, found: list[Array], axis: int) -> Array:
    """A' of the products, in a new axis."""
    return jnp.stack([_weighted(weights, found) for weights in tile.outputs.tolist()], axis=axis)


def _weighted(weights: list[float], parts: list[Array]) -> Array:
    """The sum of the parts times their weights; nothing is multiplied by one."""
    terms: list[Any] = [
        part if weight == 1 else -part if weight == -1 else weight * part
        for weight, part in zip(weights, parts, strict=True)
        if weight
    ]
    return functools.reduce(jnp.add, terms)
