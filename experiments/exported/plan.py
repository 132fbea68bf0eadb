"""What a model is exported as: a program for each depth, and how an image finds its program and its kernels."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import RunError
from experiments.model import Model
from experiments.networks import describe_network
from experiments.networks.puppet import PuppetLike
from experiments.runs.puppet import bucket_of
from puppet_jax.adaptation import depth_interval
from puppet_jax.checks import are_finite
from puppet_jax.folded import FoldedPuppet, fold
from puppet_jax.routing import level_centre


@dataclasses.dataclass(frozen=True)
class Program:
    """The puppet of one depth.

    Attributes:
        depth: its number of layers, or of layers a stage.
        h: complexities (nats) of its sets of kernels: of the only one, of each level, or none where every image has
            kernels of its own.
        interval: (low, high) nats; kernels are made for complexities within.
        first: the least complexity (nats) of images that go to this program.
    """

    depth: int
    h: tuple[float, ...]
    interval: tuple[float, float]
    first: float


def plan(model: Model) -> list[Program]:
    """A program for each depth, the shallowest first; one, with one set of kernels, where complexity is constant.

    Raises:
        RunError: if the network is of a kind that cannot be exported, and which can.
    """
    if not isinstance(model.network, PuppetLike):
        raise RunError(
            f"a network of kind {describe_network(model.network)['kind']} cannot be exported; puppets of one depth or "
            "of depth by complexity can, and the same layers with other kernels (kinds puppet and control)."
        )
    depths = sorted(model.batch_stats)
    if model.complexity.constant is not None:
        depth, h = bucket_of(model, model.complexity.constant)
        return [Program(depth, (h,), depth_interval(depth), 0.0)]
    programs = []
    for n, depth in enumerate(depths):
        low, high = depth_interval(depth)
        levels: tuple[float, ...] = ()
        if model.adaptation == "level":
            edges = np.linspace(low, high, model.num_levels, endpoint=False)
            levels = tuple(
                level_centre(edges + (high - low) / (2 * model.num_levels), depth, model.num_levels).tolist()
            )
        # an image of no trained depth goes to the nearest, of two to the shallower
        first = depth_interval((depths[n - 1] + depth) // 2 + 1)[0] if n else 0.0
        programs.append(Program(depth, levels, (low, high), first))
    return programs


def expanded(model: Model, program: Program) -> FoldedPuppet:
    """The layers of a program, with an axis of levels where it has several sets of kernels.

    Raises:
        RunError: if every image has kernels of its own, or a kernel is not finite.
    """
    if not program.h:
        raise RunError(
            "every image has kernels of its own (adaptation sample), which cannot be made beforehand; give --generate, "
            "and --to stablehlo."
        )
    made = [layers_at(model, program.depth, h) for h in program.h]
    layers = made[0]
    if len(made) > 1:
        stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *made)
        kept = {} if model.params.classifier_kernel is None else {"classifier_kernel": layers.classifier_kernel}
        # biases are those of norms, which are the same at every level
        layers = dataclasses.replace(stacked, biases=layers.biases, classifier_bias=layers.classifier_bias, **kept)
    if not np.asarray(are_finite(layers)).all():
        raise RunError("a kernel or norm is not finite; take a model from before its training failed.")
    return layers


def layers_at(model: Model, depth: int, h: Any) -> FoldedPuppet:
    """The layers of one depth at complexity `h` (nats), their kernels generated; pure, and `h` may be traced."""
    network = model.network
    assert isinstance(network, PuppetLike)
    kernels = network.generate(model.params.puppeteer, h, network.puppet.kernel_shapes(depth))
    return fold(network.puppet, model.params, model.batch_stats[depth], kernels, depth)
