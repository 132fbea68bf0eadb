"""Which complexity and which depth every training image counts with."""

from typing import NamedTuple

import numpy as np

import puppet_jax as pj
from experiments.config import Adaptive, ByComplexity, Config, Ordinary, PuppetCNN
from experiments.errors import RunError
from experiments.networks import Network
from puppet_jax.routing import level_centre


class Complexities(NamedTuple):
    """Of the training images: h (N,) float32 nats, depths (N,) int; and the measure for images to come."""

    h: np.ndarray
    depths: np.ndarray
    measure: pj.CalibratedComplexity


def measure_complexities(config: Config, network: Network, images: np.ndarray) -> Complexities:
    """The complexities of training images (N, H, W, C) uint8, as the configuration has them.

    Where kernels or depth follow the image, its own, scaled to the depths in use; else one constant: of a puppet the
    middle of its depth's interval, of a backbone the mean of the images.

    Raises:
        RunError: if the complexities do not differ enough to be spread over the depths.
    """
    measure = _measure(config, network, images)
    h = pj.complexities(images, measure)
    depths = np.asarray(pj.depth(h)) if network.depth is None else np.full(len(h), network.depth)
    return Complexities(h, depths, measure)


def _measure(config: Config, network: Network, images: np.ndarray) -> pj.CalibratedComplexity:
    kernels = getattr(config.network, "kernels", Ordinary())
    if isinstance(config.network, PuppetCNN):
        depth = config.network.depth
        if isinstance(depth, ByComplexity):
            spread = depth.depths
        else:
            assert network.depth is not None
            if not isinstance(kernels, Adaptive):
                return _constant(float(level_centre(np.zeros(1), network.depth, 1)[0]))
            spread = (network.depth, network.depth)
        if spread is None:
            return pj.CalibratedComplexity()
        try:
            return pj.calibrate(pj.complexities(images), *spread)
        except ValueError as error:
            raise RunError(f"complexity cannot be spread over the depths on these images: {error}") from None
    if isinstance(kernels, Adaptive):
        return pj.CalibratedComplexity()
    # ordinary kernels do not look at it
    return _constant(1.0 if isinstance(kernels, Ordinary) else float(pj.complexities(images).mean()))


def _constant(h: float) -> pj.CalibratedComplexity:
    return pj.CalibratedComplexity(scale=0.0, offset=h)
