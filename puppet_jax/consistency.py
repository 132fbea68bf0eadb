"""Whether trainable floats and statistics are those of a puppet: shapes alone, so that it is known inside `jit` too."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from puppet_jax.architecture import Puppet


def check_params(puppet: Puppet, params: Any, depth: int, batch_stats: Sequence[Any] | None = None) -> None:
    """Raises a ValueError unless `PuppetParams`, and `BatchStats` if given, are those of the puppet of `depth`.

    JAX would not: it takes the last row for one that is missing, and one value for all.
    """
    for name, wanted, part in (
        ("affine norms", puppet.affine, params.norm_scale),
        ("weights of a classifier", puppet.classifier == "linear", params.classifier_kernel),
    ):
        if wanted != (part is not None):
            must = "must" if wanted else "must not"
            raise ValueError(f"params {must} have {name}; make them for this puppet (init_puppet).")
    if puppet.affine:
        for name in ("norm_scale", "norm_bias"):
            _check_norms(puppet, name, getattr(params, name), depth)
    if puppet.classifier == "linear":
        shape = (puppet.free_channels(puppet.channels[-1]), puppet.num_classes)
        check_linear("params", params.classifier_kernel, params.classifier_bias, shape)
    if batch_stats is not None:
        _check_statistics(puppet, batch_stats, depth)


def check_linear(owner: str, kernel: Any, bias: Any, shape: tuple[int, int]) -> None:
    """Raises a ValueError unless a linear classifier takes and gives as many values as `shape` says."""
    found = np.shape(kernel), np.shape(bias)
    if found != (shape, shape[1:]):
        raise ValueError(
            f"the classifier in {owner} must have a kernel of shape {shape} and a bias of shape {shape[1:]}, got "
            f"{found[0]} and {found[1]}; make it for this puppet (channels, num_classes)."
        )


def _check_norms(puppet: Puppet, name: str, stages: Sequence[Any] | None, depth: int) -> None:
    found = [np.shape(one) for one in stages or ()]
    widths = [puppet.free_channels(width) for width in puppet.channels]
    if [shape[1:] for shape in found] != [(width,) for width in widths]:
        raise ValueError(f"{name} must have (layers, channels) of {widths} channels, got shapes {found}.")
    for stage, ((there, _), wanted) in enumerate(zip(found, puppet.layers_per_stage(depth), strict=True)):
        if there < wanted:
            raise ValueError(
                f"params have affine norms for {there} layers of stage {stage}, depth {depth} has {wanted}; take a "
                "depth that they were made for (init_puppet, max_depth)."
            )


def _check_statistics(puppet: Puppet, batch_stats: Sequence[Any], depth: int) -> None:
    layers = puppet.convolutions(depth)
    if len(batch_stats) != len(layers):
        raise ValueError(
            f"batch_stats must be of the {len(layers)} layers of the puppet, got {len(batch_stats)}. Those of depth "
            f"{depth} are its own; estimate_batch_stats makes them from images."
        )
    for n, (layer, stats) in enumerate(zip(layers, batch_stats, strict=True)):
        shape, found = (puppet.free_channels(layer.channels),), (np.shape(stats.mean), np.shape(stats.variance))
        if found != (shape, shape):
            raise ValueError(
                f"batch_stats of layer {n} must have a mean and a variance of shape {shape}, got {found[0]} and "
                f"{found[1]}; they are of another puppet or depth than {depth}."
            )
