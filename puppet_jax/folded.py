"""A puppet for inference alone: kernels made, mirrored kernels written out, norms folded in."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from puppet_jax.architecture import Puppet
from puppet_jax.consistency import check_params
from puppet_jax.convolution import convolve_same
from puppet_jax.mirror import for_both_of_pairs, with_mirrored
from puppet_jax.mirrored_convolution import Halves, convolve_halves, from_halves, halves_of, is_wide, takes_halves
from puppet_jax.puppet import BatchStats, PuppetParams, init_batch_stats, max_pool, norm_terms


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldedPuppet:
    """A plain CNN: convolution, bias, ReLU a layer; a mean over all pixels; a classifier.

    Attributes:
        kernels: (kh, kw, c_in, c_out) each; in halves (`halves_of`) where a layer of mirrored pairs has these.
        biases: (c_out,) each.
        classifier_kernel: (channels, classes) float32.
        classifier_bias: (classes,) float32.
        pools: whether 2x2 max-pooling precedes a layer.
        adds: whether a layer is added to its input.
    """

    kernels: tuple[Any, ...]
    biases: tuple[Array, ...]
    classifier_kernel: Array
    classifier_bias: Array
    pools: tuple[bool, ...] = dataclasses.field(metadata={"static": True})
    adds: tuple[bool, ...] = dataclasses.field(metadata={"static": True})


@functools.partial(jax.jit, static_argnames=("puppet", "depth", "dtype", "in_halves"))
def fold(
    puppet: Puppet,
    params: PuppetParams,
    stats: Sequence[BatchStats],
    kernels: Sequence[Array],
    depth: int,
    dtype: DTypeLike = jnp.float32,
    in_halves: bool = False,
) -> FoldedPuppet:
    """What `apply_puppet` computes with these statistics, as few operations as can be.

    The factor of a norm goes into the kernel before it, its shift becomes a bias. A padded convolution remains the
    same: zeros times a factor are zeros.

    Args:
        puppet: the architecture.
        params: the trainable floats; the puppeteer among them is not used here.
        stats: running statistics of `depth`.
        kernels: from `generate_kernels` with `puppet.kernel_shapes(depth)`; one set.
        depth: the depth bucket.
        dtype: of kernels and biases.
        in_halves: kernels of wide mirrored layers are taken apart, for half of the multiply-accumulates on a CPU.

    Raises:
        ValueError: if floats or statistics do not fit the architecture.
    """
    check_params(puppet, params, depth, stats)
    found: list[Any] = []
    biases = []
    layers = puppet.convolutions(depth)
    for n, layer in enumerate(layers):
        factor, shift = norm_terms(params, stats[n], layer, puppet.mirror)
        kernel = kernels[n] * factor[None, None, None, : kernels[n].shape[-1]]  # the same for both of a pair
        biases.append(shift.astype(dtype))
        if puppet.mirror and in_halves and n > 0 and is_wide(kernel.shape):
            to_sum, to_difference = halves_of(kernel)
            found.append((to_sum.astype(dtype), to_difference.astype(dtype)))
        else:
            whole = with_mirrored(kernel, mirrored_input=n > 0) if puppet.mirror else kernel
            found.append(whole.astype(dtype))
    classifier, bias = params.classifier_kernel, params.classifier_bias
    if classifier is None or bias is None:
        classifier, bias = kernels[-1][0, 0], jnp.zeros(puppet.num_classes, jnp.float32)
    if puppet.mirror:  # of the mean of a pair: half the weight for each of both
        classifier = 0.5 * jax.vmap(for_both_of_pairs, in_axes=1, out_axes=1)(classifier)
    return FoldedPuppet(
        kernels=tuple(found),
        biases=tuple(biases),
        classifier_kernel=classifier,
        classifier_bias=bias,
        pools=tuple(layer.pool for layer in layers),
        adds=tuple(puppet.residual and layer.place > 0 for layer in layers),
    )


def merge_statistics(puppet: Puppet, params: PuppetParams, stats: Sequence[BatchStats], depth: int) -> PuppetParams:
    """Floats that need no statistics: with those of mean 0 and variance 1 they give the logits that these give.

    Args:
        puppet: with affine norms.
        params: the trainable floats.
        stats: running statistics of `depth`, the only one that the result is for.
        depth: the depth bucket.
    """
    check_params(puppet, params, depth, stats)
    assert params.norm_scale is not None and params.norm_bias is not None
    scale, bias = (list(map(jnp.asarray, by_stage)) for by_stage in (params.norm_scale, params.norm_bias))
    plain = dataclasses.replace(params, norm_scale=None, norm_bias=None)
    for layer, used, fresh in zip(puppet.convolutions(depth), stats, init_batch_stats(puppet, depth), strict=True):
        factor, shift = norm_terms(params, used, layer, mirror=False)
        unit, _ = norm_terms(plain, fresh, layer, mirror=False)  # not quite 1
        scale[layer.stage] = scale[layer.stage].at[layer.place].set(factor / unit)
        bias[layer.stage] = bias[layer.stage].at[layer.place].set(shift)
    return dataclasses.replace(params, norm_scale=tuple(scale), norm_bias=tuple(bias))


def apply_folded(
    folded: FoldedPuppet,
    x: Float[Array, "batch height width channels"],
    convolve: Callable[[Array, Array], Array] = convolve_same,
) -> Float[Array, "batch classes"]:
    """Logits, float32.

    Args:
        folded: from `fold`.
        x: the images as `centred` makes them, of the dtype of the kernels.
        convolve: a 'SAME' convolution of stride 1.
    """
    return classify_folded(folded, run_folded(folded, x, convolve=convolve))


def run_folded(
    folded: FoldedPuppet,
    x: Float[Array, "batch height width channels"],
    first: int = 0,
    last: int | None = None,
    convolve: Callable[[Array, Array], Array] = convolve_same,
) -> Float[Array, "batch rows columns c_out"]:
    """Activations behind layer `last`, of those behind layer `first`; of all layers if not given."""
    layers = zip(folded.kernels, folded.biases, folded.pools, folded.adds, strict=True)
    for kernel, bias, pool, add in itertools.islice(layers, first, last):
        x = max_pool(x) if pool else x
        y = _in_halves(x, kernel, convolve) if isinstance(kernel, tuple) else convolve(x, kernel)
        y = jax.nn.relu(y + bias[None, None, None])
        x = x + y if add else y
    return x


def classify_folded(
    folded: FoldedPuppet, x: Float[Array, "batch height width channels"]
) -> Float[Array, "batch classes"]:
    """Logits, float32, of the activations behind the last layer."""
    features = x.astype(jnp.float32).mean(axis=(1, 2))
    return jnp.dot(features, folded.classifier_kernel, precision=lax.Precision.HIGHEST) + folded.classifier_bias[None]


def _in_halves(x: Array, halves: Halves, convolve: Callable[[Array, Array], Array]) -> Array:
    """In halves where that is the faster way for as many images, else whole."""
    size, _, _, free = halves[0].shape
    if takes_halves(x.shape, (size, size, x.shape[-1], free)):
        return convolve_halves(x, halves)
    return convolve(x, with_mirrored(from_halves(halves, size), mirrored_input=True))
