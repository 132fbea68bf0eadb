"""Kernels in chunks from a small network."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from puppet_jax.checks import as_integer
from puppet_jax.extras.generators.pieces import INITIAL, check_floats, he_gain, normal
from puppet_jax.generator import Shapes


class HypernetworkParams(NamedTuple):
    """Parameters of a `Hypernetwork`.

    Attributes:
        embeddings: (chunks, embedding).
        hidden_kernel: (embedding + condition, hidden).
        hidden_bias: (hidden,).
        out_kernel: (hidden, chunk).
        out_bias: (chunk,).
    """

    embeddings: Float[Array, "chunks embedding"]
    hidden_kernel: Float[Array, "inputs hidden"]
    hidden_bias: Float[Array, " hidden"]
    out_kernel: Float[Array, "hidden chunk"]
    out_bias: Float[Array, " chunk"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypernetwork:
    """Kernels cut into chunks, each made from its embedding by one network of two layers, which all chunks share.

    A chunk has about as many weights as there are chunks. Embedding and hidden layer are as wide as `num_floats` allow,
    such that the product of their widths is largest.

    Attributes:
        num_floats: the most floats in all.
        condition_size: of a vector that the network sees beside the embedding, such as the class, the task or the
            time; None for none.

    References:
        Ha, Dai and Le, HyperNetworks, ICLR 2017; von Oswald, Henning, Grewe and Sacramento, Continual Learning with
        Hypernetworks, ICLR 2020, for chunks.

    Example:
        >>> import jax, jax.numpy as jnp, puppet_jax as pj
        >>> from puppet_jax.extras.generators import Hypernetwork
        >>> generator, shapes = Hypernetwork(num_floats=400, condition_size=2), [(3, 3, 8, 8), (1, 1, 8, 4)]
        >>> params = generator.init(jax.random.key(0), shapes)
        >>> [kernel.shape for kernel in generator.generate(params, jnp.array([1.0, 0.0]), shapes)]
        [(3, 3, 8, 8), (1, 1, 8, 4)]
    """

    num_floats: int
    condition_size: int | None = None

    def __post_init__(self):
        """Refuses a condition of no numbers."""
        if self.condition_size is not None:
            as_integer("condition_size", self.condition_size)

    def init(self, key: PRNGKeyArray, shapes: Shapes) -> HypernetworkParams:
        """Normal embeddings and kernels, zero biases.

        Raises:
            ValueError: if there are not enough floats for an embedding of one.
        """
        total = sum(math.prod(shape) for shape in shapes)
        chunk = math.isqrt(total - 1) + 1
        chunks, condition = -(-total // chunk), self.condition_size or 0

        def widest(embedding: int) -> int:
            """The widest hidden layer that the floats allow."""
            return (self.num_floats - chunks * embedding - chunk) // (embedding + condition + 1 + chunk)

        check_floats(self.num_floats, chunks + chunk + condition + 2 + chunk, len(shapes))
        embedding = max(range(1, self.num_floats // chunks + 1), key=lambda width: width * widest(width))
        inputs, hidden = embedding + condition, widest(embedding)
        keys = jax.random.split(key, 3)
        return HypernetworkParams(
            embeddings=jax.random.normal(keys[0], (chunks, embedding), jnp.float32),
            hidden_kernel=jax.random.normal(keys[1], (inputs, hidden), jnp.float32) / math.sqrt(inputs),
            hidden_bias=jnp.zeros(hidden, jnp.float32),
            out_kernel=normal(keys[2], (hidden, chunk)),
            out_bias=jnp.zeros(chunk, jnp.float32),
        )

    def generate(
        self, params: HypernetworkParams, condition: Float[ArrayLike, "..."], shapes: Shapes
    ) -> tuple[Array, ...]:
        """The kernels, with about He's scale at the start.

        Raises:
            ValueError: if the condition has another shape than (condition_size,), or the kernels have another number
                of weights.
        """
        sizes = [math.prod(shape) for shape in shapes]
        chunks = len(params.embeddings)
        width, chunk = params.out_kernel.shape
        if -(-sum(sizes) // chunk) != chunks:
            raise ValueError(f"the parameters make {chunks} chunks of {chunk}, {sum(sizes)} weights were asked for.")
        inputs = params.embeddings
        if self.condition_size is not None:
            if jnp.shape(condition) != (self.condition_size,):
                raise ValueError(f"a condition must have shape ({self.condition_size},), got {jnp.shape(condition)}.")
            vector = jnp.broadcast_to(jnp.asarray(condition, inputs.dtype), (chunks, self.condition_size))
            inputs = jnp.concatenate([inputs, vector], axis=1)
        with jax.default_matmul_precision("highest"):
            hidden = jnp.tanh(inputs @ params.hidden_kernel + params.hidden_bias[None])
            weights = (hidden @ params.out_kernel + params.out_bias[None]).ravel() / (INITIAL * math.sqrt(width / 2))
        ends = np.cumsum(sizes)
        return tuple(
            he_gain(shape) * weights[end - size : end].reshape(shape)
            for shape, size, end in zip(shapes, sizes, ends, strict=True)
        )
