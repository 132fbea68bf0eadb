"""Convolution of mirrored pairs of channels with half of the multiply-accumulates.

A pair's sum and difference are convolved apart: of a kernel, the part that is even in the columns takes either to
itself, and the odd part takes one to the other. An even kernel of three columns takes two products a row, as it sees
the sum of its left and right neighbour; an odd one takes one, as it sees their difference.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

from puppet_jax.convolution import convolve, convolve_sets
from puppet_jax.fast_convolution import NHWC, Windows, by_pieces, find_windows, padded, patches, product, winograd_rows
from puppet_jax.mirror import with_mirrored

# The rule of `takes_halves` and the size of pieces, measured by `python -m experiments.benchmark --convolutions`.
HALVES_CHANNELS = 128
HALVES_PLACES = 256
HALVES_FLOATS = 262_144


def convolve_mirrored(
    x: Float[Array, "batch height width c_in"],
    kernel: Float[Array, "*sets kh kw c_in free"],
    mirrored_input: bool,
) -> Float[Array, "batch height width channels"]:
    """'SAME' convolution of stride 1 that gives pairs of channels, of which `kernel` makes the first half.

    On a CPU, where layers are wide enough, with half of the multiply-accumulates of a convolution with
    `with_mirrored(kernel, mirrored_input)`, and equal up to rounding.

    Args:
        x: images.
        kernel: HWIO, of odd sizes; or several that serve equal parts of the batch.
        mirrored_input: whether the channels of the input are such pairs; those of an image are none.
    """
    floats = x.dtype == kernel.dtype and x.dtype in (jnp.float32, jnp.float64) and 0 not in (*x.shape, *kernel.shape)
    own = kernel.ndim > x.ndim and len(kernel) == len(x)
    if jax.default_backend() == "cpu" and floats and mirrored_input and not own and takes_halves(x.shape, kernel.shape):
        return convolve_sets(mirrored_convolution, x, kernel)
    # float32 means float32: GPUs round the factors to ten bits by default. Who wants speed asks for bfloat16.
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT
    whole = with_mirrored(kernel, mirrored_input)
    return convolve(x, whole, (1, 1), "SAME", dimension_numbers=NHWC, precision=precision)


def takes_halves(shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> bool:
    """Whether `mirrored_convolution` is as fast on a CPU as the fastest way of the whole convolution.

    Args:
        shape: of the images, whose channels are pairs.
        kernel_shape: HWIO of the first half.
    """
    channels = min(kernel_shape[-2], 2 * kernel_shape[-1])
    return channels >= HALVES_CHANNELS and math.prod(shape[1:3]) <= HALVES_PLACES


# A program of this name, so that the products that it stands for can be counted.
@jax.jit
def mirrored_convolution(
    x: Float[Array, "batch height width c_in"], kernel: Float[Array, "kh kw c_in free"]
) -> Float[Array, "batch height width channels"]:
    """The convolution with `with_mirrored(kernel, True)`, of few images at a time."""
    height, width = x.shape[1:3]
    half = kernel.shape[2] // 2
    first, second = kernel[:, :, :half], jnp.flip(kernel[:, :, half:], axis=1)
    to_sum, to_difference = (_folded(0.5 * (first + sign * second)) for sign in (1, -1))
    windows = find_windows(x.shape, to_sum.shape[:2], (1, 1), "SAME")
    few = len(x) * height * width <= HALVES_PLACES
    rows = winograd_rows if len(kernel) == 3 and not few else _patches_of_rows

    @functools.partial(jax.checkpoint, prevent_cse=False)  # sums of neighbours are not kept
    def piece(x):
        total, difference = x[..., :half] + x[..., half:], x[..., :half] - x[..., half:]
        u = rows(_neighbours(total, difference, kernel.shape[1]), to_sum, windows)
        v = rows(_neighbours(difference, total, kernel.shape[1]), to_difference, windows)
        return jnp.concatenate([u + v, u - v], axis=-1)

    return by_pieces(piece, x, max(1, HALVES_FLOATS // math.prod(x.shape[1:])))


def is_mirrored_convolution(equation: JaxprEqn) -> bool:
    """Whether an equation of a jaxpr is a `mirrored_convolution` of its first operand with its second."""
    return equation.params.get("name") == "mirrored_convolution"


def _folded(kernel: Float[Array, "kh kw c free"]) -> Float[Array, "kh 1 folded free"]:
    """The weights of what `_neighbours` gives: those of the even part of a kernel, then of the odd part."""
    middle = kernel.shape[1] // 2
    left, right = jnp.flip(kernel[:, :middle], axis=1), kernel[:, middle + 1 :]
    taps = jnp.concatenate([kernel[:, middle : middle + 1], 0.5 * (right + left), 0.5 * (right - left)], axis=1)
    return taps.reshape(len(kernel), 1, -1, kernel.shape[-1])


def _neighbours(
    even: Float[Array, "batch height width c"], odd: Float[Array, "batch height width c"], columns: int
) -> Float[Array, "batch height width folded"]:
    """What the even part of a kernel sees of one input, then what the odd part sees of the other."""
    reach, width = columns // 2, even.shape[2]
    pair = [padded(x, ((0, 0), (reach, reach))) for x in (even, odd)]

    def at(x: Array, place: int) -> Array:
        return x[:, :, reach + place : reach + place + width]

    sums = [at(pair[0], n) + at(pair[0], -n) for n in range(1, reach + 1)]
    differences = [at(pair[1], n) - at(pair[1], -n) for n in range(1, reach + 1)]
    return jnp.concatenate([even, *sums, *differences], axis=-1)


def _patches_of_rows(x: Array, kernel: Array, windows: Windows) -> Array:
    return product(patches(x, windows), kernel.reshape(-1, kernel.shape[-1]))
