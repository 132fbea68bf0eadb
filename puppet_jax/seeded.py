"""The fixed pseudo-random pattern of the seeded initial state, part of the model though never stored."""

import functools
import hashlib

import jax.numpy as jnp
import numpy as np
from jax import lax
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
    return _pattern(max_channels, kernel_size, seed, axes=(0, 1, 2))


def kernel_pattern(max_channels: int, kernel_size: int, seed: int) -> Float[Array, "taps C C"]:
    """The same, its axes in the order of a kernel's: taps, input channels, output channels."""
    return _pattern(max_channels, kernel_size, seed, axes=(2, 1, 0))


def _pattern(max_channels: int, kernel_size: int, seed: int, axes: tuple[int, int, int]) -> Float[Array, "..."]:
    shape = (max_channels, max_channels, kernel_size**2)
    strides = (max_channels * kernel_size**2, kernel_size**2, 1)
    order = tuple(shape[axis] for axis in axes)
    place = jnp.zeros(order, jnp.uint32)
    for n, axis in enumerate(axes):
        place = place + lax.broadcasted_iota(jnp.uint32, order, n) * jnp.uint32(strides[axis])
    key = jnp.uint32(seed & 0xFFFFFFFF), jnp.uint32(seed >> 32)
    total = jnp.zeros(order, jnp.uint32)
    for draw in range(2):
        for words in threefry(key, place, jnp.full_like(place, draw)):
            total = total + _sum_of_fields(words)
    centred = total.astype(jnp.int32) - 6 * 1023
    return centred.astype(jnp.float32) / 1024


def threefry(
    key: tuple[Array, Array], first: UInt32[Array, "*shape"], second: UInt32[Array, "*shape"]
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Threefry-2x32-20 of two words a place.

    That of `jax.extend.random` goes through memory after every four rounds on a CPU, where it takes four times as long.
    """
    keys = (*key, key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    a, b = first + keys[0], second + keys[1]
    for group in range(5):
        for bits in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a = a + b
            b = a ^ ((b << bits) | (b >> (32 - bits)))
        a, b = a + keys[(group + 1) % 3], b + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b


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


def _sum_of_fields(words: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """The sum of three ten-bit fields of each word."""
    return (words & 1023) + ((words >> 10) & 1023) + ((words >> 20) & 1023)
