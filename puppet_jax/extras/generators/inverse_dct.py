"""Kernels from few low frequencies."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from puppet_jax.extras.generators.pieces import INITIAL, check_floats, he_gain, normal, shares
from puppet_jax.generator import Shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseDCT:
    """Kernels whose discrete cosine transform along all four axes has few coefficients, those of low frequencies.

    Attributes:
        num_floats: the most coefficients in all, at least one a kernel; each kernel has a share in proportion to its
            weights.

    References:
        Koutník, Gomez and Schmidhuber, Evolving Neural Networks in Compressed Weight Space, GECCO 2010.

    Example:
        >>> import jax, puppet_jax as pj
        >>> from puppet_jax.extras.generators import InverseDCT
        >>> generator, shapes = InverseDCT(num_floats=100), [(3, 3, 8, 8), (1, 1, 8, 4)]
        >>> pj.num_floats(generator.init(jax.random.key(0), shapes))
        100
    """

    condition_size: ClassVar[None] = None  # a complexity, which does not matter
    num_floats: int

    def init(self, key: PRNGKeyArray, shapes: Shapes) -> tuple[Float[Array, " _"], ...]:
        """The coefficients of each kernel, normal, lowest frequencies first.

        Raises:
            ValueError: if there are fewer floats than kernels.
        """
        check_floats(self.num_floats, len(shapes), len(shapes))
        sizes = [math.prod(shape) for shape in shapes]
        counts = shares(min(self.num_floats, sum(sizes)), sizes)
        keys = jax.random.split(key, len(shapes))
        return tuple(normal(one, (min(count, size),)) for one, count, size in zip(keys, counts, sizes, strict=True))

    def generate(self, params: tuple[Array, ...], condition: Any, shapes: Shapes) -> tuple[Array, ...]:
        """The inverse transforms, with He's scale at the start."""
        if len(params) != len(shapes):
            raise ValueError(f"the coefficients are those of {len(params)} kernels, {len(shapes)} were asked for.")
        return tuple(_inverse(coefficients, shape) for coefficients, shape in zip(params, shapes, strict=True))


def _inverse(coefficients: Array, shape: tuple[int, ...]) -> Array:
    size, count = math.prod(shape), len(coefficients)
    if count > size:
        raise ValueError(f"there are {count} coefficients of a kernel of shape {shape}, which has {size} weights.")
    kernel = jnp.zeros(size, coefficients.dtype).at[_lowest(shape)[:count]].set(coefficients).reshape(shape)
    for axis, length in enumerate(shape):
        kernel = jnp.moveaxis(
            jnp.tensordot(cosines(length), kernel, (0, axis), precision=jax.lax.Precision.HIGHEST), 0, axis
        )
    return (he_gain(shape) * math.sqrt(size / count) / INITIAL) * kernel


def _lowest(shape: tuple[int, ...]) -> np.ndarray:
    """Places of the coefficients, by the sum of their frequencies over the axes' lengths."""
    places = np.indices(shape).reshape(len(shape), -1)
    return np.argsort((places / np.array(shape)[:, None]).sum(axis=0), kind="stable")


def cosines(length: int) -> Float[Array, "frequency place"]:
    """The orthonormal matrix of the discrete cosine transform (DCT-II)."""
    frequency, place = np.arange(length)[:, None], np.arange(length)[None]
    matrix = math.sqrt(2 / length) * np.cos(math.pi * frequency * (place + 0.5) / length)
    matrix[0] /= math.sqrt(2)
    return jnp.asarray(matrix, jnp.float32)
