"""Kernels of low rank: sums of outer products."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from puppet_jax.extras.generators.pieces import INITIAL, check_floats, check_kernels, he_gain, normal
from puppet_jax.generator import Shapes

Factors = tuple[Float[Array, "_ _"], Float[Array, "_ _"], Float[Array, "_ _"]]
"""Of (rank, taps), (rank, c_in) and (rank, c_out)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRank:
    """Kernels that are sums of outer products of a vector over taps, one over inputs and one over outputs.

    The canonical polyadic form of a kernel (Lebedev et al. 2015), with the window as one axis; of a matrix, its usual
    factors.

    Attributes:
        num_floats: the most floats in all. Ranks grow by one, the kernel of the most weights a rank first, as long as
            they fit.

    References:
        Lebedev, Ganin, Rakhuba, Oseledets and Lempitsky, Speeding-up Convolutional Neural Networks Using Fine-tuned
        CP-Decomposition, ICLR 2015.

    Example:
        >>> import jax, puppet_jax as pj
        >>> from puppet_jax.extras.generators import LowRank
        >>> generator, shapes = LowRank(num_floats=100), [(3, 3, 8, 8), (1, 1, 8, 4)]
        >>> pj.num_floats(generator.init(jax.random.key(0), shapes))
        88
    """

    condition_size: ClassVar[None] = None  # a complexity, which does not matter
    num_floats: int

    def init(self, key: PRNGKeyArray, shapes: Shapes) -> tuple[Factors, ...]:
        """The factors of each kernel, normal.

        Raises:
            ValueError: if there are not enough floats for one product a kernel.
        """
        costs = [sum(_lengths(shape)) for shape in shapes]
        check_floats(self.num_floats, sum(costs), len(shapes))
        ranks = self._ranks([math.prod(shape) for shape in shapes], costs)
        keys = jax.random.split(key, (len(shapes), 3))
        return tuple(_init(own, rank, shape) for own, rank, shape in zip(keys, ranks, shapes, strict=True))

    def generate(self, params: tuple[Factors, ...], condition: Any, shapes: Shapes) -> tuple[Array, ...]:
        """The sums of products, with He's scale at the start."""
        check_kernels(
            [tuple(factor.shape[-1] for factor in one) for one in params], [_lengths(shape) for shape in shapes]
        )
        return tuple(_product(factors, shape) for factors, shape in zip(params, shapes, strict=True))

    def _ranks(self, sizes: list[int], costs: list[int]) -> list[int]:
        ranks = [1] * len(sizes)
        left = self.num_floats - sum(costs)
        while fits := [n for n, cost in enumerate(costs) if cost <= left]:
            place = max(fits, key=lambda n: sizes[n] / ranks[n])
            ranks[place] += 1
            left -= costs[place]
        return ranks


def _init(keys: Array, rank: int, shape: tuple[int, ...]) -> Factors:
    taps, ins, outs = (normal(key, (rank, length)) for key, length in zip(keys, _lengths(shape), strict=True))
    return taps, ins, outs


def _lengths(shape: tuple[int, ...]) -> tuple[int, int, int]:
    kh, kw, c_in, c_out = shape
    return kh * kw, c_in, c_out


def _product(factors: Factors, shape: tuple[int, ...]) -> Array:
    taps, ins, outs = factors
    kernel = jnp.einsum("rt,ri,ro->tio", taps, ins, outs, precision=jax.lax.Precision.HIGHEST)
    return (he_gain(shape) / (INITIAL**3 * math.sqrt(len(taps)))) * kernel.reshape(shape)
