"""A sound start: factors that bring generated kernels to the scale of ordinary ones."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from puppet_jax.checks import is_concrete
from puppet_jax.puppeteer import Puppeteer
from puppet_jax.trajectory import generate_kernels

MEAN_SHARE = 1 / math.pi
"""Of the mean square of what a layer sees behind a ReLU, the share of its mean's square.

Behind a tanh it is 0, and a layer of generated weights starts a seventh larger than it should.
"""


def response(kernel: Float[Array, "*stack kh kw c_in c_out"], lookup: bool = False) -> Float[Array, ""]:
    """Mean square of a layer's outputs for independent inputs of mean square 1, `MEAN_SHARE` of it their mean's.

    Of a stack, the mean. Where rows are looked up, as in an embedding, the mean square of the entries.

    2 for He's initialisation (He et al. 2015), 1 for LeCun's. Weights of mean 0, as generated ones nearly are, answer
    less than their variance says, since they do not see the mean.
    """
    kernel = kernel.astype(jnp.float32)  # float16 does not hold the squares of small weights
    if lookup:
        return jnp.square(kernel).mean()
    weights = kernel.reshape(-1, math.prod(kernel.shape[-4:-1]), kernel.shape[-1])
    squares, sums = jnp.square(weights).sum(axis=1).mean(), jnp.square(weights.sum(axis=1)).mean()
    return (1 - MEAN_SHARE) * squares + MEAN_SHARE * sums


def start_gains(
    puppeteer: Puppeteer, h: Float[ArrayLike, ""], shapes: Sequence[Any], responses: Sequence[ArrayLike] | float = 2.0
) -> Float[Array, " kernels"]:
    """One factor a kernel, for `generate_kernels`, that gives an untrained network activations of a sound scale.

    A trajectory decides the scale of its states, whatever network reads them; without norms sixteen layers of 64
    channels would answer with 1e16. Compute the gains once, of the puppeteer as it starts, and keep them.

    Args:
        puppeteer: as training starts with it.
        h: complexity in nats, a scalar.
        shapes: HWIO shapes in network order, as of `generate_kernels`.
        responses: mean square of a layer's outputs over that of its inputs, one a kernel or one for all. 2 is He's,
            for layers behind a ReLU; 1 is LeCun's.

    Returns:
        (kernels,) float32, positive.

    Raises:
        ValueError: if there are as many responses as kernels neither once nor each, or a kernel is zero.

    Example:
        >>> import jax, puppet_jax as pj
        >>> puppeteer, shapes = pj.init_puppeteer(jax.random.key(0), max_channels=8), [(3, 3, 3, 8), (3, 3, 8, 8)]
        >>> gains = pj.start_gains(puppeteer, 4.5, shapes)
        >>> kernels = pj.generate_kernels(puppeteer, 4.5, shapes, gains=gains)
    """
    kernels = generate_kernels(puppeteer, h, shapes)
    wanted = jnp.asarray(responses, jnp.float32)
    if wanted.shape not in ((), (len(kernels),)):
        raise ValueError(f"responses must be one number or {len(kernels)}, one a kernel, got shape {wanted.shape}.")
    found = jnp.stack([response(kernel) for kernel in kernels])
    if is_concrete(found) and not found.all():
        place = int(jnp.argmin(found))
        raise ValueError(
            f"kernel {place} of shape {kernels[place].shape} is zero, and no factor gives that a scale; start from "
            "another puppeteer, such as one of more channels."
        )
    return jax.lax.stop_gradient(jnp.sqrt(wanted / found))
