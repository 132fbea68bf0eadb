"""A puppet with an early exit, as a network to train: the exit answers where it is confident."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import puppet_jax as pj
from experiments.networks.contract import Network
from experiments.networks.puppet import PuppeteerSettings, generate_sets
from puppet_jax import extras
from puppet_jax.puppet import puppet_matrices


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyExitNetwork(Network):
    """A puppet of one depth with a classifier behind its first `exit_layer` convolutions.

    The exit's loss trains the exit alone, so that the puppet trains as it would without it.
    """

    puppet: pj.Puppet
    puppeteer: PuppeteerSettings
    image_size: tuple[int, int]
    exit_layer: int
    exit_fraction: float | None = dataclasses.field(default=None, metadata={"stored": False})  # type: ignore[misc]
    dtype: str = dataclasses.field(default="float32", metadata={"stored": False})

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self.puppet.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return (*self.image_size, self.puppet.in_channels)

    @property
    def depth(self) -> int:  # type: ignore[override]
        assert self.puppet.layers is not None
        return sum(self.puppet.layers)

    def init(self, seed: int, depths: Sequence[int]) -> extras.EarlyExitParams:
        puppeteer_key, puppet_key = jax.random.split(jax.random.key(seed))
        params = pj.init_puppet(puppet_key, self.puppet, self.puppeteer.init(puppeteer_key))
        head = extras.init_exit(jax.random.fold_in(puppet_key, 1), self.puppet, self.exit_layer)
        return extras.EarlyExitParams(params, head)

    def init_stats(self, depth: int) -> tuple[pj.BatchStats, ...]:
        return pj.init_batch_stats(self.puppet, depth)

    def apply(self, params, stats, images, h, depth, key=None):
        shapes = self.puppet.kernel_shapes(depth)
        kernels = generate_sets(pj.generate_kernels, params.puppet.puppeteer, h, shapes)
        early, late, used = extras.apply_with_exit(
            self.puppet, params.puppet, params.exit, stats, kernels, images, self.exit_layer, jnp.dtype(self.dtype), key
        )
        return (early, late), used

    def loss(self, outputs, targets):
        early, late = (optax.softmax_cross_entropy(logits, targets).mean() for logits in outputs)
        return (early + late) / 2, outputs[1]

    def matrices(self, params):
        head = jax.tree.map(lambda leaf: leaf.ndim > 1, params.exit)
        return extras.EarlyExitParams(puppet_matrices(params.puppet), head)

    def predictor(self, params, stats, threshold=None, **settings) -> "ExitPredictor":
        (of_depth,) = stats.values()
        known: dict[str, Any] = {name: settings[name] for name in ("adaptation", "dtype") if name in settings}
        return ExitPredictor(
            self.puppet,
            params.puppet,
            params.exit,
            of_depth,
            exit_layer=self.exit_layer,
            h=settings["complexity"].offset,  # the one complexity of all images
            threshold=threshold,
            image_size=self.image_size,
            **{"dtype": jnp.dtype(self.dtype)} | known,
        )

    def macs(self, params, depth):
        """Of an image that leaves at the exit (`depth` is `exit_layer`), or of one that is sent on."""
        puppeteer = params.puppet.puppeteer
        made = pj.generator_macs(puppeteer, pj.num_steps(self.puppet.kernel_shapes(self.depth), puppeteer.max_channels))
        early, late = extras.exit_macs(self.puppet, self.exit_layer, self.image_size)
        return made, early if depth == self.exit_layer else late

    def generator(self, params):
        return params.puppet.puppeteer


class ExitPredictor(extras.EarlyExitPredictor):
    """The predictor of the library, as an `ExitingPredictor`."""

    def choose(self, exits: np.ndarray, fraction: float) -> float:
        """The confidence below which a fraction of the images is."""
        confidences = np.nan_to_num(extras.confidence(exits[0]), nan=0.0)  # the loss will tell
        return extras.exit_threshold(confidences, fraction)

    def leave(self, exits: np.ndarray, threshold: float) -> np.ndarray:
        """0 where the exit is confident, else 1."""
        return extras.combine_exits(exits[0], exits[1], threshold)[1].astype(int)

    def exit_macs(self) -> np.ndarray:
        """Of an image that leaves, and of one that is sent on."""
        assert self.image_size is not None
        return np.array(extras.exit_macs(self.puppet, self.exit_layer, self.image_size))
