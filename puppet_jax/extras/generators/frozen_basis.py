"""Kernels that are sums of frozen pseudo-random ones (PRANC)."""

import dataclasses
import math
from typing import Any, ClassVar, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from puppet_jax.extras.generators.pieces import INITIAL, check_floats, check_seed, he_gain, normal, random_signs, shares
from puppet_jax.generator import Shapes

PER_BLOCK = 16
"""Frozen vectors that a block of weights is combined from."""


@no_type_check  # trees of shapes or of booleans are of this class too
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenKernels:
    """Parameters of a `FrozenBasis`.

    Attributes:
        coefficients: (blocks, PER_BLOCK) for each kernel.
        seed: of the frozen signs; part of the model.
    """

    coefficients: tuple[Float[Array, "_ per_block"], ...]
    seed: int = dataclasses.field(default=0, metadata={"static": True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenBasis:
    """Kernels that are linear combinations of frozen pseudo-random ones, regenerated from a seed.

    The weights of a kernel are cut into blocks, and each block is the sum of its own 16 vectors of random signs times
    as many coefficients. Nothing but the coefficients is trained or stored.

    Attributes:
        num_floats: the most coefficients in all, at least 16 a kernel; each kernel has a share in proportion to its
            weights.
        seed: of the frozen signs, in [0, 2**32).

    References:
        Nooralinejad, Abbasi, Koohpayegani, Meibodi, Khan, Kolouri and Pirsiavash, PRANC: Pseudo RAndom Networks for
        Compacting Deep Models, ICCV 2023.

    Example:
        >>> import jax
        >>> from puppet_jax.extras.generators import FrozenBasis
        >>> generator, shapes = FrozenBasis(num_floats=100), [(3, 3, 8, 8), (1, 1, 8, 4)]
        >>> params = generator.init(jax.random.key(0), shapes)
        >>> [kernel.shape for kernel in generator.generate(params, 4.5, shapes)]
        [(3, 3, 8, 8), (1, 1, 8, 4)]
    """

    condition_size: ClassVar[None] = None  # a complexity, which does not matter
    num_floats: int
    seed: int = 0

    def __post_init__(self):
        """Refuses a seed out of range."""
        check_seed(self.seed)

    def init(self, key: PRNGKeyArray, shapes: Shapes) -> FrozenKernels:
        """Coefficients.

        Raises:
            ValueError: if there are fewer than 16 a kernel.
        """
        check_floats(self.num_floats, PER_BLOCK * len(shapes), len(shapes))
        blocks = shares(self.num_floats // PER_BLOCK, [math.prod(shape) for shape in shapes])
        keys = jax.random.split(key, len(shapes))
        coefficients = (normal(one, (count, PER_BLOCK)) for one, count in zip(keys, blocks, strict=True))
        return FrozenKernels(coefficients=tuple(coefficients), seed=self.seed)

    def generate(self, params: FrozenKernels, condition: Any, shapes: Shapes) -> tuple[Array, ...]:
        """The sums."""
        if len(params.coefficients) != len(shapes):
            raise ValueError(
                f"the coefficients are those of {len(params.coefficients)} kernels, {len(shapes)} were asked for."
            )
        return tuple(
            _combine(coefficients, n, params.seed, shape)
            for n, (coefficients, shape) in enumerate(zip(params.coefficients, shapes, strict=True))
        )


def _combine(coefficients: Array, layer: int, seed: int, shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)
    blocks, per_block = coefficients.shape
    signs = random_signs((blocks, per_block, -(-size // blocks)), seed, layer)
    weights = jnp.einsum("bk,bkw->bw", coefficients, signs, precision=jax.lax.Precision.HIGHEST)
    unit = weights.reshape(-1)[:size].reshape(shape) / (INITIAL * math.sqrt(per_block))
    return he_gain(shape) * unit
