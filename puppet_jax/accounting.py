"""What a model costs: stored floats and bytes, multiply-accumulates of generator and puppet."""

from typing import Any

import jax
import numpy as np

from puppet_jax.architecture import Puppet
from puppet_jax.mirrored_convolution import takes_halves
from puppet_jax.puppeteer import Puppeteer


def num_floats(tree: Any) -> int:
    """Number of entries of all array leaves; works on the result of `jax.eval_shape` too."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """Bytes of all array leaves; works on the result of `jax.eval_shape` too."""
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def generator_macs(puppeteer: Puppeteer, num_steps: int) -> int:
    """Multiply-accumulates of a trajectory: (C**2 + 11 C) C K**2 a step, as the papers count them.

    A step is a pointwise C x C product, nine taps of the depthwise kernel and two biases on a state of C**2 K**2. The
    biases count, although `field` leaves them out.
    At C = 512 and K = 3, ten steps are the papers' 12.34 G and nineteen their 23.44 G.

    Args:
        puppeteer: a puppeteer, or the result of `jax.eval_shape` on `init_puppeteer`.
        num_steps: number of Euler steps, see `num_steps`.

    Returns:
        Multiply-accumulates of one trajectory.
    """
    c = puppeteer.max_channels
    return num_steps * (c**2 + 11 * c) * c * puppeteer.kernel_size**2


def puppet_macs(puppet: Puppet, depth: int, image_size: tuple[int, int], first: int = 0) -> int:
    """Multiply-accumulates of one image through the convolutions and the classifier of a puppet.

    Wide layers of mirrored channels take half, as a CPU computes them; an NVIDIA GPU takes the whole.

    Args:
        puppet: the architecture.
        depth: the depth bucket.
        image_size: (height, width) of the image.
        first: the layers before this one have run already and are not counted.

    Returns:
        Multiply-accumulates per image.
    """
    height, width = image_size
    total, previous = 0, puppet.in_channels
    for n, layer in enumerate(puppet.convolutions(depth)):
        if layer.pool:
            height, width = height // 2, width // 2
        if n >= first:
            free = puppet.free_channels(layer.channels)
            kernel = (puppet.kernel_size, puppet.kernel_size, previous, free)
            halved = puppet.mirror and n > 0 and takes_halves((1, height, width, previous), kernel)
            total += puppet.kernel_size**2 * previous * (free if halved else layer.channels) * height * width
        previous = layer.channels
    return total + puppet.free_channels(previous) * puppet.num_classes
