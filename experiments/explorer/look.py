"""What a puppet makes of one image: complexity, step, depth, kernels, trajectory, probabilities and cost."""

import dataclasses

import jax
import numpy as np
from jax import Array

import puppet_jax as pj
from experiments.runs.puppet import bucket_of, calibrate_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What a puppet makes of one image.

    Attributes:
        h: complexity of the image by the papers' measure, nats; or the one that overrides it.
        calibrated: what the model's own measure makes of it, nats.
        kernel_h: the complexity that the kernels are generated at, nats: `calibrated`, or the centre of its level.
        dl: step of the Euler scheme at `kernel_h`.
        depth: bucket of the puppet that the image runs through.
        layers: convolutions of each stage.
        kernels: HWIO, in network order.
        states: (N + 1, C, C, K**2), the trajectory that the kernels are read from.
        probabilities: (classes,) float32, of sum 1.
        puppet_macs: multiply-accumulates of the image through the puppet.
        kernel_macs: multiply-accumulates of generating the kernels once.
    """

    h: float
    calibrated: float
    kernel_h: float
    dl: float
    depth: int
    layers: tuple[int, ...]
    kernels: tuple[Array, ...]
    states: Array
    probabilities: np.ndarray
    puppet_macs: int
    kernel_macs: int


def look(model: pj.PretrainedPuppet, predictor: pj.Predictor, image: np.ndarray, h: float | None = None) -> Look:
    """What `model` makes of `image`.

    Args:
        model: a trained puppet.
        predictor: of that model, `model.predictor()`; it keeps kernels from one call to the next.
        image: (height, width, channels) uint8, of the model's `image_shape`.
        h: complexity, nats, that stands in for the image's own; None: the image's own.

    Raises:
        ValueError: if the image has another shape, or `h` is negative or not finite.
        FloatingPointError: if a kernel is not finite.
    """
    batch = image[None]
    if h is None:
        h = float(pj.complexities(batch)[0])
        calibrated = float(pj.complexities(batch, model.complexity)[0])
    else:
        calibrated = calibrate_number(model.complexity, h)
    depth, kernel_h = bucket_of(model, calibrated)
    puppet, puppeteer = model.puppet, model.params.puppeteer
    logits = predictor(batch, np.array([calibrated], np.float32))[0]
    shapes = puppet.kernel_shapes(depth)
    num_steps = pj.num_steps(shapes, puppeteer.max_channels, puppeteer.kernel_size)
    return Look(
        h=h,
        calibrated=calibrated,
        kernel_h=kernel_h,
        dl=float(pj.step_size(kernel_h)),
        depth=depth,
        layers=puppet.layers_per_stage(depth),
        kernels=predictor.generate(puppeteer, kernel_h, shapes),
        states=pj.trajectory(puppeteer, kernel_h, num_steps),
        probabilities=np.asarray(jax.nn.softmax(logits)),
        puppet_macs=pj.puppet_macs(puppet, depth, model.image_shape[:2]),
        kernel_macs=pj.generator_macs(puppeteer, num_steps),
    )


def what_complexity_does(model: pj.PretrainedPuppet) -> str:
    """A sentence: what follows the complexity of the image in this model."""
    depths = sorted(model.batch_stats)
    if len(depths) > 1:
        return f"Its depths are {', '.join(map(str, depths))}: depth and kernels follow the complexity."
    if model.complexity.scale > 0 and model.complexity.low < model.complexity.high:
        return f"Its depth is {depths[0]} for all images: only the kernels follow the complexity."
    return f"Its depth is {depths[0]}, and its kernels are the same, for all images: the slider changes nothing here."
