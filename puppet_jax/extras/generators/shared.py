"""Kernels whose weights are all shared."""

import dataclasses
import math
from typing import Any, ClassVar, no_type_check

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from puppet_jax.extras.generators.pieces import (
    INITIAL,
    check_floats,
    check_seed,
    he_gain,
    normal,
    random_signs,
    random_words,
)
from puppet_jax.generator import Shapes


@no_type_check  # trees of shapes or of booleans are of this class too
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedFloats:
    """Parameters of `Shared`.

    Attributes:
        values: (floats,).
        seed: of the choice; part of the model.
    """

    values: Float[Array, " floats"]
    seed: int = dataclasses.field(default=0, metadata={"static": True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """Each weight of each kernel is one of `num_floats` trained floats, chosen at random, with a random sign.

    Attributes:
        num_floats: trained floats, which all kernels share.
        seed: of the choice, in [0, 2**32).

    References:
        Chen, Wilson, Tyree, Weinberger and Chen, Compressing Neural Networks with the Hashing Trick, ICML 2015; there
        each layer has floats of its own.

    Example:
        >>> import jax, puppet_jax as pj
        >>> from puppet_jax.extras.generators import Shared
        >>> generator, shapes = Shared(num_floats=100), [(3, 3, 8, 8), (1, 1, 8, 4)]
        >>> pj.num_floats(generator.init(jax.random.key(0), shapes))
        100
    """

    condition_size: ClassVar[None] = None  # a complexity, which does not matter
    num_floats: int
    seed: int = 0

    def __post_init__(self):
        """Refuses a seed out of range."""
        check_seed(self.seed)

    def init(self, key: PRNGKeyArray, shapes: Shapes) -> SharedFloats:
        """The floats, normal."""
        check_floats(self.num_floats, 1, len(shapes))
        return SharedFloats(values=normal(key, (self.num_floats,)), seed=self.seed)

    def generate(self, params: SharedFloats, condition: Any, shapes: Shapes) -> tuple[Array, ...]:
        """The chosen floats, with He's scale at the start."""
        return tuple(_choose(params, n, shape) for n, shape in enumerate(shapes))


def _choose(params: SharedFloats, layer: int, shape: tuple[int, ...]) -> Array:
    words = random_words(math.prod(shape), params.seed, 2 * layer)
    signs = random_signs(shape, params.seed, 2 * layer + 1)
    return (he_gain(shape) / INITIAL) * signs * params.values[words % len(params.values)].reshape(shape)
