"""A folded puppet of one or several levels of complexity, run by operations that every platform has."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from puppet_jax.cpu.windows import NHWC
from puppet_jax.folded import FoldedPuppet, apply_folded


def is_by_level(layers: FoldedPuppet) -> bool:
    """Whether kernels, and the classifier's where it is generated, have a leading axis of levels."""
    return layers.kernels[0].ndim == 5


def at_level(layers: FoldedPuppet, level: Int[Array, ""]) -> FoldedPuppet:
    """The layers of one level of complexity."""
    classifier = layers.classifier_kernel
    return dataclasses.replace(
        layers,
        kernels=tuple(kernel[level] for kernel in layers.kernels),
        classifier_kernel=classifier[level] if classifier.ndim == 3 else classifier,
    )


def run(layers: FoldedPuppet, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
    """Logits, by XLA's own convolutions.

    Args:
        layers: of one level.
        images: floating, in [0, 1]. An image with a value that is not gets logits of NaN.
    """
    logits = apply_folded(layers, 4 * jnp.asarray(images) - 2, _convolve)
    valid = ((images >= 0) & (images <= 1)).all(axis=(1, 2, 3))
    return jnp.where(valid[:, None], logits, jnp.nan)


def _convolve(x: Array, kernel: Array) -> Array:
    options: dict[str, Any] = {"dimension_numbers": NHWC, "precision": lax.Precision.HIGHEST}
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **options)
