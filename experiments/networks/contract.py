"""What the training loop asks of a network."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import jax
import numpy as np
import optax
from jax import Array


class Network(abc.ABC):
    """A network under training: a frozen dataclass of static facts, without arrays. All that evolves is in `params`.

    `stats` are the statistics of batch norms that one depth is evaluated with, a pytree of `pj.BatchStats`. `h` are
    complexities in nats, one for each set of kernels; a set serves as many neighbouring images.

    Attributes:
        num_classes: number of logits.
        image_shape: (height, width, channels).
        depth: the depth that all images are trained at, or None where the complexity of an image decides it.
        exit_fraction: fraction of the validation images that an early exit sends on, or None where there is none. The
            predictor of a network with such exits is an `ExitingPredictor`.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    depth: int | None
    exit_fraction: ClassVar[float | None] = None

    @abc.abstractmethod
    def init(self, seed: int, depths: Sequence[int]) -> Any:
        """The trainable floats before the first step, for the depths in use."""

    @abc.abstractmethod
    def init_stats(self, depth: int) -> Any:
        """Statistics of the shapes that `apply` returns."""

    @abc.abstractmethod
    def apply(
        self, params: Any, stats: Any | None, images: Array, h: Array, depth: int, key: Array | None = None
    ) -> tuple[Any, Any]:
        """What a batch of one depth gives, for `loss`, and the statistics used.

        Args:
            params: the trainable floats.
            stats: statistics to normalise with (evaluation); None: those of the batch, which are returned (training).
            images: (batch, height, width, channels) uint8.
            h: (sets,) nats.
            depth: static.
            key: for dropout and the like; nothing is random without it.

        Returns:
            `(outputs, stats)`: logits (batch, classes) float32, or whatever `loss` takes; and statistics.
        """

    def loss(self, outputs: Any, targets: Array) -> tuple[Array, Array]:
        """The scalar that is minimised, and logits (batch, classes) for the accuracy in training.

        Args:
            outputs: from `apply`.
            targets: (batch, classes) probabilities of the classes.
        """
        return optax.softmax_cross_entropy(outputs, targets).mean(), outputs

    def matrices(self, params: Any) -> Any:
        """Which leaves are matrices, a tree of booleans: those that weight decay, Muon and few bits are for."""
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    @abc.abstractmethod
    def predictor(self, params: Any, stats: dict[int, Any], **settings: Any) -> "Predictor":
        """Answers to images of any complexities, from the statistics of each depth; settings as of `pj.Predictor`."""

    @abc.abstractmethod
    def macs(self, params: Any, depth: int) -> tuple[int, int]:
        """Multiply-accumulates of an image of `depth`: of making its kernels, and of the network itself."""

    def generator(self, params: Any) -> Any | None:
        """The part of the trainable floats that kernels are generated from, if there is one."""
        return None


class Predictor(Protocol):
    """Logits of images of any complexities.

    Where gates decide what is computed, a predictor also has `trace(images)`, see
    `experiments.networks.baselines.pieces.Trace`.
    """

    def __call__(self, images: Any, h: Any | None = None) -> np.ndarray:
        """(batch, num_classes) float32, of images (batch, height, width, channels)."""

    def route(self, images: Any, h: Any | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the depth (batch,) that each image was taken to."""


class ExitingPredictor(Predictor, Protocol):
    """A predictor whose images leave at early exits, as its setting `threshold` says."""

    def exits(self, images: Any) -> np.ndarray:
        """Logits (exits, batch, num_classes) of every exit for all images, the last that of the whole network."""

    def choose(self, exits: np.ndarray, fraction: float) -> Any:
        """The threshold at which each early exit sends a fraction of those images on that reach it."""

    def leave(self, exits: np.ndarray, threshold: Any) -> np.ndarray:
        """Which exit answers each image, (batch,)."""

    def exit_macs(self) -> np.ndarray:
        """Multiply-accumulates of the network for an image that leaves at each exit, (exits,)."""


def answers_of(exits: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The logits (batch, classes) of the exits that answer."""
    return np.take_along_axis(exits, taken[None, :, None], axis=0)[0]
