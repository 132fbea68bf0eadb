"""The puppet: the CNN whose kernels a puppeteer generates (v1 Sec. 3.5)."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, DTypeLike, Float, PRNGKeyArray

from puppet_jax.architecture import Layer, Puppet
from puppet_jax.checks import check_floating, check_images
from puppet_jax.consistency import check_params
from puppet_jax.convolution import convolve_same
from puppet_jax.mirror import for_both_of_pairs, mean_of_pairs
from puppet_jax.mirrored_convolution import convolve_mirrored
from puppet_jax.puppeteer import Puppeteer

_EPSILON = 1e-5


class BatchStats(NamedTuple):
    """Statistics of one batch norm, each (channels,) float32; the variance is the biased one.

    Of a mirrored layer those of the first half of the channels, taken over both halves.
    """

    mean: Array
    variance: Array


@no_type_check  # trees of shapes, of booleans or of arrays on hosts are of this class too
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetParams:
    """All trainable floats of a Puppet-CNN: the puppeteer and what the options of `Puppet` store beside it.

    Attributes:
        puppeteer: the generator.
        norm_scale: per stage (layers, channels), or None without `affine`.
        norm_bias: likewise.
        classifier_kernel: (channels, num_classes), or None where it is generated.
        classifier_bias: (num_classes,), or None where the classifier is generated.
    """

    puppeteer: Puppeteer
    norm_scale: tuple[Float[Array, "_layers _channels"], ...] | None = None
    norm_bias: tuple[Float[Array, "_layers _channels"], ...] | None = None
    classifier_kernel: Float[Array, "channels classes"] | None = None
    classifier_bias: Float[Array, " classes"] | None = None


def init_puppet(key: PRNGKeyArray, puppet: Puppet, puppeteer: Puppeteer, max_depth: int | None = None) -> PuppetParams:
    """Trainable floats of a Puppet-CNN.

    Args:
        key: a JAX random key, for a linear classifier.
        puppet: the architecture.
        puppeteer: the generator; its `kernel_size` must suffice for the puppet.
        max_depth: the deepest bucket in use, which decides how many affine norms are stored. None: the only depth.

    Raises:
        ValueError: if the puppeteer is too small, or the puppet has not this depth.
    """
    if puppeteer.kernel_size < puppet.kernel_size:
        raise ValueError(f"a kernel_size of at least {puppet.kernel_size} is needed, got {puppeteer.kernel_size}.")
    counts = puppet.layers_per_stage(puppet.only_depth if max_depth is None else max_depth)
    scale = bias = kernel = logit_bias = None
    if puppet.affine:
        shapes = list(zip(counts, map(puppet.free_channels, puppet.channels), strict=True))
        scale, bias = (tuple(make(shape, jnp.float32) for shape in shapes) for make in (jnp.ones, jnp.zeros))
    if puppet.classifier == "linear":
        kernel, logit_bias = init_classifier(key, puppet.free_channels(puppet.channels[-1]), puppet.num_classes)
    return PuppetParams(
        puppeteer=puppeteer, norm_scale=scale, norm_bias=bias, classifier_kernel=kernel, classifier_bias=logit_bias
    )


def init_classifier(
    key: PRNGKeyArray, features: int, num_classes: int
) -> tuple[Float[Array, "features classes"], Float[Array, " classes"]]:
    """Weights uniform in ±features^-0.5 and zero biases of a linear classifier."""
    bound = features**-0.5
    bias = jnp.zeros(num_classes, jnp.float32)
    return jax.random.uniform(key, (features, num_classes), jnp.float32, minval=-bound, maxval=bound), bias


def init_batch_stats(puppet: Puppet, depth: int) -> tuple[BatchStats, ...]:
    """Zero means and unit variances for every layer of the puppet of `depth`.

    Every depth bucket needs its own: layer n of a deeper puppet has another kernel and sees other activations.
    """
    widths = [puppet.free_channels(layer.channels) for layer in puppet.convolutions(depth)]
    return tuple(BatchStats(jnp.zeros(width, jnp.float32), jnp.ones(width, jnp.float32)) for width in widths)


def puppet_matrices(params: PuppetParams) -> PuppetParams:
    """Which leaves are matrices, a tree of booleans: those that weight decay and few bits are for.

    Affine norms are none, though they have an axis of layers. Works on the result of `jax.eval_shape` too.
    """
    found = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    norms = jax.tree.map(lambda _: False, (params.norm_scale, params.norm_bias))
    return dataclasses.replace(found, norm_scale=norms[0], norm_bias=norms[1])


def apply_puppet(
    puppet: Puppet,
    params: PuppetParams,
    batch_stats: Sequence[BatchStats] | None,
    kernels: Sequence[Array],
    images: ArrayLike,
    depth: int,
    dtype: DTypeLike = jnp.float32,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "batch classes"], tuple[BatchStats, ...]]:
    """Logits of a batch that shares one depth.

    Args:
        puppet: the architecture (static).
        params: the trainable floats; the puppeteer among them is not used here.
        batch_stats: running statistics, which normalise (evaluation); or None, then the statistics of this batch
            normalise and are returned for the caller to average (training).
        kernels: from `generate_kernels` with `puppet.kernel_shapes(depth)`: (kh, kw, c_in, c_out) each; or, under
            `vmap`, (sets, kh, kw, c_in, c_out) each: sets divide the batch, each serves as many images, in order.
        images: (batch, height, width, in_channels), uint8 or floating in [0, 1].
        depth: the depth bucket (static).
        dtype: of activations and convolutions; statistics and logits are float32.
        key: a JAX random key, for dropout; nothing is dropped without one.

    Returns:
        `(logits, stats)`: (batch, num_classes) float32, and the statistics used, one `BatchStats` a layer.

    Raises:
        TypeError: if `dtype` is not floating.
        ValueError: if images, floats, statistics or kernels do not fit the architecture.
    """
    x = check_inputs(puppet, params, batch_stats, kernels, images, depth, dtype)
    x, stats = run_layers(puppet, params, batch_stats, kernels, x, depth, key=key)
    return classify(puppet, params, kernels, x), stats


def run_layers(
    puppet: Puppet,
    params: PuppetParams,
    batch_stats: Sequence[BatchStats] | None,
    kernels: Sequence[Array],
    x: Float[Array, "batch height width channels"],
    depth: int,
    first: int = 0,
    last: int | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "batch h w c"], tuple[BatchStats, ...]]:
    """Activations behind layers `first` to `last` - 1 of the puppet of `depth`, and the statistics used there.

    `batch_stats` and `kernels` are those of all its layers; the other arguments are those of `apply_puppet`.
    """
    used = []
    for n, layer in list(enumerate(puppet.convolutions(depth)))[first:last]:
        if layer.pool:
            x = max_pool(x)
            if key is not None and puppet.dropout:
                x = _drop(jax.random.fold_in(key, n), x, puppet.dropout)
        kernel = kernels[n].astype(x.dtype)
        y = convolve_mirrored(x, kernel, mirrored_input=n > 0) if puppet.mirror else convolve_same(x, kernel)
        stats = _statistics(y, puppet.mirror) if batch_stats is None else batch_stats[n]
        factor, shift = (
            one.astype(x.dtype)[None, None, None] for one in norm_terms(params, stats, layer, puppet.mirror)
        )
        y = jax.nn.relu(y * factor + shift)
        x = x + y if puppet.residual and layer.place > 0 else y
        used.append(stats)
    return x, tuple(used)


def classify(
    puppet: Puppet, params: PuppetParams, kernels: Sequence[Array], x: Float[Array, "batch height width channels"]
) -> Float[Array, "batch classes"]:
    """Logits of the activations behind the last layer."""
    features, precision = global_pool(x, puppet.mirror), lax.Precision.HIGHEST
    if params.classifier_kernel is not None and params.classifier_bias is not None:
        return jnp.dot(features, params.classifier_kernel, precision=precision) + params.classifier_bias[None]
    weights = kernels[-1].reshape(-1, *kernels[-1].shape[-2:])  # (sets, channels, classes)
    by_set = features.reshape(len(weights), -1, features.shape[-1])
    logits = jnp.einsum("sbi,sio->sbo", by_set, weights, precision=precision)
    return logits.reshape(-1, puppet.num_classes)


def global_pool(x: Float[Array, "batch height width channels"], mirror: bool) -> Float[Array, "batch free"]:
    """The mean over all pixels in float32, with `mirror` over the two channels of a mirrored pair too."""
    return mean_of_pairs(x.astype(jnp.float32).mean(axis=(1, 2)), mirror)


def centred(images: ArrayLike) -> Float[Array, "batch height width channels"]:
    """Images of 8 bits or in [0, 1] as float32 of about zero mean and unit variance, 4 x - 2; refuses others."""
    x = jnp.asarray(check_images(images))
    return x.astype(jnp.float32) * (4 / 255 if x.dtype == jnp.uint8 else 4) - 2


def check_inputs(
    puppet: Puppet,
    params: PuppetParams,
    batch_stats: Sequence[BatchStats] | None,
    kernels: Sequence[Array],
    images: ArrayLike,
    depth: int,
    dtype: DTypeLike,
) -> Float[Array, "batch height width channels"]:
    """The images as the first layer takes them; raises an error if they, the floats or the kernels do not fit."""
    check_floating("dtype", dtype)
    check_params(puppet, params, depth, batch_stats)
    puppet.check_shapes(jnp.shape(images), [kernel.shape for kernel in kernels], depth)
    return centred(images).astype(dtype)


def _statistics(x: Float[Array, "batch height width channels"], mirror: bool) -> BatchStats:
    x = x.astype(jnp.float32)
    mean = mean_of_pairs(x.mean(axis=(0, 1, 2)), mirror)
    variance = jnp.square(x - for_both_of_pairs(mean, mirror)[None, None, None]).mean(axis=(0, 1, 2))
    return BatchStats(mean, mean_of_pairs(variance, mirror))


def norm_terms(
    params: PuppetParams, stats: BatchStats, layer: Layer, mirror: bool
) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """Factor and shift, float32, of the batch norm behind a layer."""
    factor, bias = lax.rsqrt(stats.variance + _EPSILON), jnp.float32(0)
    if params.norm_scale is not None and params.norm_bias is not None:
        factor = params.norm_scale[layer.stage][layer.place] * factor
        bias = params.norm_bias[layer.stage][layer.place]
    return for_both_of_pairs(factor, mirror), for_both_of_pairs(bias - stats.mean * factor, mirror)


def max_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w channels"]:
    """2x2 max-pooling; an odd last row or column is dropped. Reshape and max: both directions fast on a CPU."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def _drop(key: PRNGKeyArray, x: Array, fraction: float) -> Array:
    """Zero in place of a fraction of the activations, the others scaled to the same mean (Srivastava et al. 2014)."""
    return jnp.where(jax.random.bernoulli(key, fraction, x.shape), 0, x / (1 - fraction)).astype(x.dtype)
