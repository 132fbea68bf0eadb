"""Convolution of mirrored pairs of channels with half of the multiply-accumulates.

A pair's sum and difference are convolved apart: of a kernel, the part that is even in the columns takes either to
itself, and the odd part takes one to the other. An even kernel of three columns takes two products a row, as it sees
the sum of its left and right neighbour; an odd one takes one, as it sees their difference.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

from puppet_jax.convolution import convolve_same, convolve_sets
from puppet_jax.cpu.fast_convolution import compute, is_for_cpu
from puppet_jax.cpu.windows import by_pieces, find_windows, shifted
from puppet_jax.cpu.winograd import winograd_rows
from puppet_jax.mirror import with_mirrored

# The rule of `takes_halves` and the size of pieces, measured by `python -m experiments.benchmark --convolutions`.
HALVES_CHANNELS = 128
HALVES_PLACES = 64
HALVES_ALL_PLACES = 4096
PATCHES_ALL_PLACES = 256
HALVES_FLOATS = 262_144

Halves = tuple[Float[Array, "kh 1 folded free"], Float[Array, "kh 1 folded free"]]
"""A kernel for sums of pairs, and one for differences, each of the weights of an even part and of an odd one."""


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

    def whole(x: Array, kernel: Array) -> Array:
        return convolve_same(x, with_mirrored(kernel, mirrored_input))

    if mirrored_input and is_for_cpu(x, kernel) and takes_halves(x.shape, kernel.shape):
        return convolve_sets(x, kernel, one=mirrored_convolution, own=whole)
    return whole(x, kernel)


def takes_halves(shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> bool:
    """Whether `mirrored_convolution` is as fast on a CPU as the fastest way of the whole convolution.

    Args:
        shape: of the images, whose channels are pairs.
        kernel_shape: HWIO of the first half.
    """
    places = math.prod(shape[1:3])
    few = places <= HALVES_PLACES or shape[0] * places <= HALVES_ALL_PLACES
    return is_wide(kernel_shape) and few


def is_wide(kernel_shape: tuple[int, ...]) -> bool:
    """Whether a layer has so many channels that `takes_halves` may hold for it.

    Args:
        kernel_shape: HWIO of the first half.
    """
    return min(kernel_shape[-2], 2 * kernel_shape[-1]) >= HALVES_CHANNELS


# A program of this name, so that the products that it stands for can be counted.
@jax.jit
def mirrored_convolution(
    x: Float[Array, "batch height width c_in"], kernel: Float[Array, "kh kw c_in free"]
) -> Float[Array, "batch height width channels"]:
    """The convolution with `with_mirrored(kernel, True)`, of few images at a time."""
    return convolve_halves(x, halves_of(kernel))


def convolve_halves(x: Float[Array, "batch height width c_in"], halves: Halves) -> Float[Array, "batch height width c"]:
    """The convolution whose kernel `halves_of` took apart."""
    height, width = x.shape[1:3]
    (to_sum, to_difference), half = halves, x.shape[-1] // 2
    size, columns = len(to_sum), to_sum.shape[2] // half
    windows = find_windows(x.shape, (size, 1), (1, 1), "SAME")
    few = len(x) * height * width <= PATCHES_ALL_PLACES
    rows = winograd_rows if size == 3 and not few else functools.partial(compute, "patches")

    @functools.partial(jax.checkpoint, prevent_cse=False)  # sums of neighbours are not kept
    def piece(x):
        total, difference = x[..., :half] + x[..., half:], x[..., :half] - x[..., half:]
        u = rows(_neighbours(total, difference, columns), to_sum, windows)
        v = rows(_neighbours(difference, total, columns), to_difference, windows)
        return jnp.concatenate([u + v, u - v], axis=-1)

    return by_pieces(piece, x, max(1, HALVES_FLOATS // math.prod(x.shape[1:])))


def halves_of(kernel: Float[Array, "kh kw c_in free"]) -> Halves:
    """What takes sums of pairs to sums, and differences to differences; of as many floats as the kernel."""
    half = kernel.shape[2] // 2
    first, second = kernel[:, :, :half], jnp.flip(kernel[:, :, half:], axis=1)
    to_sum, to_difference = (_folded(0.5 * (first + sign * second)) for sign in (1, -1))
    return to_sum, to_difference


def from_halves(halves: Halves, columns: int) -> Float[Array, "kh kw c_in free"]:
    """The kernel, of so many columns, that `halves_of` took apart."""
    to_sum, to_difference = (_unfolded(part, columns) for part in halves)
    return jnp.concatenate([to_sum + to_difference, jnp.flip(to_sum - to_difference, axis=1)], axis=2)


def is_mirrored_convolution(equation: JaxprEqn) -> bool:
    """Whether an equation of a jaxpr is a `mirrored_convolution` of its first operand with its second."""
    return equation.params.get("name") == "mirrored_convolution"


def _folded(kernel: Float[Array, "kh kw c free"]) -> Float[Array, "kh 1 folded free"]:
    """The weights of what `_neighbours` gives: those of the even part of a kernel, then of the odd part."""
    middle = kernel.shape[1] // 2
    left, right = jnp.flip(kernel[:, :middle], axis=1), kernel[:, middle + 1 :]
    taps = jnp.concatenate([kernel[:, middle : middle + 1], 0.5 * (right + left), 0.5 * (right - left)], axis=1)
    return taps.reshape(len(kernel), 1, -1, kernel.shape[-1])


def _unfolded(weights: Float[Array, "kh 1 folded free"], columns: int) -> Float[Array, "kh kw c free"]:
    """The part of a kernel that `_folded` gave these weights."""
    taps = weights.reshape(len(weights), columns, -1, weights.shape[-1])
    reach = columns // 2
    middle, even, odd = taps[:, :1], taps[:, 1 : 1 + reach], taps[:, 1 + reach :]
    return jnp.concatenate([jnp.flip(even - odd, axis=1), middle, even + odd], axis=1)


def _neighbours(
    even: Float[Array, "batch height width c"], odd: Float[Array, "batch height width c"], columns: int
) -> Float[Array, "batch height width folded"]:
    """What the even part of a kernel sees of one input, then what the odd part sees of the other."""
    windows, middle = find_windows(even.shape, (1, columns), (1, 1), "SAME"), columns // 2
    seen, opposite = shifted(even, windows), shifted(odd, windows)
    reaches = range(1, middle + 1)
    sums = [seen[middle + n] + seen[middle - n] for n in reaches]
    differences = [opposite[middle + n] - opposite[middle - n] for n in reaches]
    return jnp.concatenate([even, *sums, *differences], axis=-1)
