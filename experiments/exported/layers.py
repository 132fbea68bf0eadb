"""A puppet as ordinary layers: kernels generated and mirrored, norms folded in."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

import puppet_jax as pj
from puppet_jax.mirror import for_both_of_pairs, with_mirrored
from puppet_jax.puppet import norm_terms

HIGHEST = lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """A plain CNN: convolution, bias, ReLU a layer; a mean over all pixels; a classifier.

    Kernels may have a leading axis of levels of complexity, and so may the classifier's where it is generated.

    Attributes:
        kernels: (kh, kw, c_in, c_out) float32 each.
        biases: (c_out,) float32 each.
        classifier_kernel: (channels, classes) float32.
        classifier_bias: (classes,) float32.
        pools: whether 2x2 max-pooling precedes a layer.
        adds: whether a layer is added to its input.
    """

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]
    classifier_kernel: Array
    classifier_bias: Array
    pools: tuple[bool, ...] = dataclasses.field(metadata={"static": True})
    adds: tuple[bool, ...] = dataclasses.field(metadata={"static": True})

    @property
    def by_level(self) -> bool:
        """Whether kernels have a leading axis of levels."""
        return self.kernels[0].ndim == 5


@functools.partial(jax.jit, static_argnames=("puppet", "depth"))
def expand(
    puppet: pj.Puppet, params: pj.PuppetParams, stats: Sequence[pj.BatchStats], kernels: Sequence[Array], depth: int
) -> Layers:
    """The layers of the puppet of `depth` with `kernels` of `puppet.kernel_shapes(depth)`; pure.

    The factor of a norm goes into the kernel before it, its shift becomes a bias. A padded convolution remains the
    same: zeros times a factor are zeros.
    """
    found, biases = [], []
    layers = puppet.convolutions(depth)
    for n, layer in enumerate(layers):
        kernel = with_mirrored(kernels[n], mirrored_input=n > 0) if puppet.mirror else kernels[n]
        factor, shift = norm_terms(params, stats[n], layer, puppet.mirror)
        found.append(kernel * factor[None, None, None])
        biases.append(shift)
    classifier, bias = params.classifier_kernel, params.classifier_bias
    if classifier is None or bias is None:
        classifier, bias = kernels[-1][0, 0], jnp.zeros(puppet.num_classes, jnp.float32)
    if puppet.mirror:  # of the mean of a pair: half the weight for each of both
        classifier = 0.5 * jax.vmap(for_both_of_pairs, in_axes=1, out_axes=1)(classifier)
    return Layers(
        kernels=tuple(found),
        biases=tuple(biases),
        classifier_kernel=classifier,
        classifier_bias=bias,
        pools=tuple(layer.pool for layer in layers),
        adds=tuple(puppet.residual and layer.place > 0 for layer in layers),
    )


def at_level(layers: Layers, level: Int[Array, ""]) -> Layers:
    """The layers of one level of complexity."""
    classifier = layers.classifier_kernel
    return dataclasses.replace(
        layers,
        kernels=tuple(kernel[level] for kernel in layers.kernels),
        classifier_kernel=classifier[level] if classifier.ndim == 3 else classifier,
    )


def run(layers: Layers, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
    """Logits, by XLA's own convolutions, which every platform has.

    Args:
        layers: of one level.
        images: floating, in [0, 1]. An image with a value that is not gets logits of NaN.
    """
    x = images * 4 - 2
    for kernel, bias, pool, add in zip(layers.kernels, layers.biases, layers.pools, layers.adds, strict=True):
        if pool:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        options: dict[str, Any] = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": HIGHEST}
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **options)
        y = jax.nn.relu(y + bias[None, None, None])
        x = x + y if add else y
    logits = jnp.dot(x.mean(axis=(1, 2)), layers.classifier_kernel, precision=HIGHEST) + layers.classifier_bias[None]
    valid = ((images >= 0) & (images <= 1)).all(axis=(1, 2, 3))
    return jnp.where(valid[:, None], logits, jnp.nan)
