"""What generators have in common: the scale of a layer, shares of a budget, frozen signs, checks."""

import hashlib
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from puppet_jax.checks import as_integer

INITIAL = 0.1
"""Standard deviation of a trained float at the start: learning rates that suit a puppeteer suit it too."""


def he_gain(shape: Sequence[int]) -> float:
    """Standard deviation of He's initialisation of a kernel of HWIO `shape` (He et al. 2015)."""
    return math.sqrt(2 / math.prod(shape[:-1]))


def shares(count: int, weights: Sequence[int]) -> list[int]:
    """`count` shared in proportion to `weights`, one at least each; largest remainders first.

    `count` must be at least the number of weights.
    """
    exact = np.array(weights) / sum(weights) * count
    found = np.maximum(np.floor(exact), 1).astype(int)
    order = np.argsort(found - exact, kind="stable")
    found[order[: max(0, count - found.sum())]] += 1
    while found.sum() > count:
        found[found.argmax()] -= 1
    return found.tolist()


def check_floats(num_floats: int, least: int, kernels: int) -> None:
    """Raises a ValueError if `num_floats` are fewer than `least`."""
    if as_integer("num_floats", num_floats) < least:
        raise ValueError(
            f"num_floats must be at least {least} for {kernels} kernels, got {num_floats}; give more, or generate "
            "fewer kernels."
        )


def check_seed(seed: int) -> None:
    """Raises unless it is an integer that a word of 32 bits holds."""
    as_integer("seed", seed, 0, 2**32 - 1)


def normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Normal floats of `INITIAL` deviation; float32 in a program of float64 too, so that as much is stored."""
    return INITIAL * jax.random.normal(key, shape, jnp.float32)


def check_kernels(found: Sequence[Sequence[int]], shapes: Sequence[Sequence[int]]) -> None:
    """Raises a ValueError unless the parameters are those of kernels of `shapes`; `found` are theirs."""
    if len(found) != len(shapes):
        raise ValueError(f"the parameters are those of {len(found)} kernels, {len(shapes)} were asked for.")
    for place, (own, asked) in enumerate(zip(found, shapes, strict=True)):
        if tuple(own) != tuple(asked):
            raise ValueError(f"kernel {place} has parameters for {tuple(own)}, and {tuple(asked)} was asked for.")


def random_words(count: int, seed: int, stream: int) -> UInt32[Array, " count"]:
    """Words of Threefry-2x32-20, the same everywhere and for good.

    Args:
        count: how many.
        seed: in [0, 2**32), the first word of the key.
        stream: in [0, 2**32), the second.
    """
    counters = jnp.arange(count + count % 2, dtype=jnp.uint32)
    return threefry_2x32(jnp.array([seed, stream], jnp.uint32), counters)[:count]


def random_signs(shape: tuple[int, ...], seed: int, stream: int) -> Float[Array, "..."]:
    """-1 and 1 from the bits of `random_words`; float32."""
    size = math.prod(shape)
    words = random_words(2 * -(-size // 64), seed, stream)
    bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None]) & 1
    return bits.reshape(-1)[:size].reshape(shape).astype(jnp.float32) * 2 - 1


def pattern_hash(seed: int) -> str:
    """SHA-256 of frozen signs, without which stored coefficients mean nothing."""
    return hashlib.sha256(np.asarray(random_signs((1 << 16,), seed, 0)).tobytes()).hexdigest()
