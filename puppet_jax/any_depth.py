"""Depths that training did not see: a nested puppet runs at any of them, once its batch norms have statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from puppet_jax.adaptation import depth_interval
from puppet_jax.architecture import Puppet
from puppet_jax.checks import check_complexity, check_images
from puppet_jax.puppet import BatchStats, PuppetParams, apply_puppet
from puppet_jax.routing import complexities, one_an_image
from puppet_jax.trajectory import generate_kernels


def estimate_batch_stats(
    puppet: Puppet, params: PuppetParams, depth: int, images: ArrayLike, h: ArrayLike | None = None
) -> tuple[BatchStats, ...]:
    """Statistics of the batch norms at one depth, for `Predictor`, from images alone: no labels, no training.

    The layers of a trajectory are defined at every step, so that a puppet with a depth rule has kernels at depths that
    it was not trained at; what is missing are the means and variances that its activations have there. How accurate
    it is there is another question: see the guide on predicting.

    Args:
        puppet: the architecture.
        params: its trainable floats.
        depth: any that the puppet has; with affine norms none deeper than it was trained at.
        images: (batch, height, width, channels), uint8 or floating in [0, 1]; a few hundred like those to come.
        h: (batch,) their complexities, nats, where they are known; else those of `complexity`. The kernels are those of
            the nearest complexities of `depth`, on average.

    Returns:
        One `BatchStats` a layer.

    Raises:
        ValueError: if the puppet has no such depth, or images or complexities are not as above.

    Example:
        >>> import jax, numpy as np, puppet_jax as pj
        >>> puppet = pj.Puppet(channels=(4, 8), depth_rule="per_stage")
        >>> puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=8)
        >>> params = pj.init_puppet(jax.random.key(1), puppet, puppeteer, max_depth=3)
        >>> images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
        >>> stats = {depth: pj.estimate_batch_stats(puppet, params, depth, images) for depth in (2, 3)}
        >>> pj.Predictor(puppet, params, stats)(images, depth=3).shape
        (64, 10)
    """
    images = np.array(check_images(images))  # a copy: a CPU reads an array of NumPy where it lies, and later
    h = complexities(images) if h is None else one_an_image(h, len(images))
    check_complexity(h)
    middle = np.clip(h, *depth_interval(depth)).mean()
    return _statistics(puppet, params, jnp.float32(middle), images, depth=depth)


@functools.partial(jax.jit, static_argnames=("puppet", "depth"))
def _statistics(puppet, params, h, images, *, depth):
    kernels = generate_kernels(params.puppeteer, h, puppet.kernel_shapes(depth))
    return apply_puppet(puppet, params, None, kernels, images, depth)[1]
