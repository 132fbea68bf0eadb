"""Kernels that no puppeteer generates, in a puppet's layers: what a puppeteer is compared with."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, PRNGKeyArray

PER_BLOCK = 16
"""Frozen vectors that a block of weights is combined from."""
_INITIAL = 0.1  # standard deviation of a coefficient; with it the learning rates that suit a puppeteer suit it too


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class OrdinaryKernels:
    """Every weight of every kernel, trained and stored."""

    kernels: tuple[Float[Array, "kh kw c_in c_out"], ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenKernels:
    """Kernels that are linear combinations of frozen pseudo-random ones, regenerated from a seed.

    The weights of a kernel are cut into blocks, and each block is the sum of its own `PER_BLOCK` vectors of random
    signs times as many coefficients. Nothing but the coefficients is trained or stored.

    Attributes:
        coefficients: (blocks, PER_BLOCK) for each kernel.
        seed: of the frozen signs; part of the model.

    References:
        Nooralinejad, Abbasi, Koohpayegani, Meibodi, Khan, Kolouri and Pirsiavash, PRANC: Pseudo RAndom Networks for
        Compacting Deep Models, ICCV 2023.
    """

    coefficients: tuple[Float[Array, "blocks per_block"], ...]
    seed: int = dataclasses.field(default=0, metadata={"static": True})


def init_ordinary(key: PRNGKeyArray, shapes: Sequence[tuple[int, ...]]) -> OrdinaryKernels:
    """Kernels of HWIO `shapes`, normal with variance 2 / fan-in (He et al. 2015)."""
    keys = jax.random.split(key, len(shapes))
    return OrdinaryKernels(
        kernels=tuple(_gain(shape) * jax.random.normal(one, shape) for one, shape in zip(keys, shapes, strict=True))
    )


def init_frozen(
    key: PRNGKeyArray, shapes: Sequence[tuple[int, ...]], num_coefficients: int, seed: int = 0
) -> FrozenKernels:
    """Coefficients of kernels of HWIO `shapes`.

    Args:
        key: a JAX random key.
        shapes: of the kernels, in network order.
        num_coefficients: the most coefficients in all; each kernel has a share in proportion to its weights.
        seed: of the frozen signs.

    Raises:
        ValueError: if there are fewer than `PER_BLOCK` coefficients a kernel.
    """
    blocks = _share(num_coefficients // PER_BLOCK, [math.prod(shape) for shape in shapes])
    keys = jax.random.split(key, len(shapes))
    coefficients = (
        _INITIAL * jax.random.normal(one, (count, PER_BLOCK)) for one, count in zip(keys, blocks, strict=True)
    )
    return FrozenKernels(coefficients=tuple(coefficients), seed=seed)


def ordinary_kernels(source: OrdinaryKernels, h: Any, shapes: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    """The kernels themselves; `h` does not matter.

    Raises:
        ValueError: if `shapes` are others.
    """
    found = tuple(kernel.shape for kernel in source.kernels)
    if found != tuple(map(tuple, shapes)):
        raise ValueError(f"kernels of shapes {tuple(shapes)} were asked for, but the model has those of {found}.")
    return source.kernels


def frozen_kernels(source: FrozenKernels, h: Any, shapes: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    """Kernels of HWIO `shapes` from their coefficients; `h` does not matter."""
    return tuple(
        _combine(coefficients, n, source.seed, shape)
        for n, (coefficients, shape) in enumerate(zip(source.coefficients, shapes, strict=True))
    )


def frozen_macs(shapes: Sequence[tuple[int, ...]]) -> int:
    """Multiply-accumulates of making kernels of `shapes` once."""
    return PER_BLOCK * sum(map(math.prod, shapes))


def pattern_hash(seed: int) -> str:
    """SHA-256 of frozen signs, without which stored coefficients mean nothing."""
    return hashlib.sha256(np.asarray(random_signs((1 << 16,), seed, 0)).tobytes()).hexdigest()


def random_signs(shape: tuple[int, ...], seed: int, stream: int) -> Float[Array, "..."]:
    """-1 and 1 from the bits of Threefry-2x32-20, the same everywhere and for good; float32.

    Args:
        shape: of the result.
        seed: in [0, 2**32), the first word of the key.
        stream: in [0, 2**32), the second.
    """
    size = math.prod(shape)
    counters = jnp.arange(2 * -(-size // 64), dtype=jnp.uint32)
    words = threefry_2x32(jnp.array([seed, stream], jnp.uint32), counters)
    bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None]) & 1
    return bits.reshape(-1)[:size].reshape(shape).astype(jnp.float32) * 2 - 1


def _combine(coefficients: Array, layer: int, seed: int, shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)
    blocks, per_block = coefficients.shape
    signs = random_signs((blocks, per_block, -(-size // blocks)), seed, layer)
    weights = jnp.einsum("bk,bkw->bw", coefficients, signs, precision=jax.lax.Precision.HIGHEST)
    unit = weights.reshape(-1)[:size].reshape(shape) / (_INITIAL * math.sqrt(per_block))
    return _gain(shape) * unit


def _gain(shape: tuple[int, ...]) -> float:
    return math.sqrt(2 / math.prod(shape[:-1]))


def _share(count: int, weights: Sequence[int]) -> list[int]:
    """`count` blocks shared in proportion to `weights`, one at least each; largest remainders first."""
    if count < len(weights):
        raise ValueError(
            f"{len(weights)} kernels need at least {PER_BLOCK * len(weights)} coefficients, got {PER_BLOCK * count}; "
            "use more channels or fewer layers."
        )
    exact = np.array(weights) / sum(weights) * count
    shares = np.maximum(np.floor(exact), 1).astype(int)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: max(0, count - shares.sum())]] += 1
    while shares.sum() > count:
        shares[shares.argmax()] -= 1
    return shares.tolist()
