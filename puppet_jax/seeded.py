"""The fixed pseudo-random pattern of the seeded initial state, part of the model though never stored."""

import functools
import hashlib

import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, UInt32

from puppet_jax.checks import as_integer


def seeded_pattern(max_channels: int, kernel_size: int, seed: int) -> Float[Array, "C C taps"]:
    """Standard normal pattern of shape (C, C, K**2), float32, the same bits everywhere and for good.

    Each value is the classical sum of twelve uniform numbers less six: twelve integers of ten bits from four words
    of Threefry-2x32-20 (counter: the value's place in C order; key: the seed), so that every operation is on
    integers but the last, an exact division by 1024. No library's sampler, no transcendental function, no flag,
    device or dtype has a say. Mean 0, variance 1 - 2**-20, excess kurtosis -0.1, values within -6 and 6.

    Args:
        max_channels: C, at least 1.
        kernel_size: K, odd.
        seed: in [0, 2**64).

    Returns:
        (C, C, K**2) float32.

    Raises:
        ValueError: if an argument is outside its range.

    References:
        Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011.
    """
    max_channels, kernel_size, seed = check_state(max_channels, kernel_size, seed)
    shape = (max_channels, max_channels, kernel_size**2)
    size = max_channels**2 * kernel_size**2
    key = jnp.array([seed & 0xFFFFFFFF, seed >> 32], jnp.uint32)
    place = jnp.arange(size, dtype=jnp.uint32)
    total = jnp.zeros(size, jnp.uint32)
    for draw in range(2):
        words = threefry_2x32(key, jnp.concatenate([place, jnp.full(size, draw, jnp.uint32)]))
        total = total + _sum_of_fields(words[:size]) + _sum_of_fields(words[size:])
    centred = total.astype(jnp.int32) - 6 * 1023
    return (centred.astype(jnp.float32) / 1024).reshape(shape)


@functools.cache  # a run saves its model after many epochs
def pattern_hash(max_channels: int, kernel_size: int, seed: int) -> str:
    """SHA-256 of the pattern's bytes, little-endian float32 in C order; model files carry it."""
    pattern = np.asarray(seeded_pattern(max_channels, kernel_size, seed))
    return hashlib.sha256(pattern.astype("<f4").tobytes()).hexdigest()


def check_state(max_channels: int, kernel_size: int, seed: int) -> tuple[int, int, int]:
    """The arguments as ints of Python; raises unless they describe a state and its pattern."""
    max_channels, kernel_size = as_integer("max_channels", max_channels), as_integer("kernel_size", kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}.")
    if max_channels**2 * kernel_size**2 > 2**32:
        raise ValueError(
            f"max_channels {max_channels} and kernel_size {kernel_size} make a state of more than 2**32 floats."
        )
    return max_channels, kernel_size, as_integer("seed", seed, least=0, most=2**64 - 1)


def _sum_of_fields(words: UInt32[Array, " n"]) -> UInt32[Array, " n"]:
    """The sum of three ten-bit fields of each word."""
    return (words & 1023) + ((words >> 10) & 1023) + ((words >> 20) & 1023)
