"""Networks that run some of their pieces for some images alone, and their predictor."""

import abc
import functools
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import puppet_jax as pj
from experiments.networks.macs import count_macs
from experiments.networks.module import ModuleNetwork, flat
from puppet_jax.checks import check_images
from puppet_jax.puppet import centred
from puppet_jax.routing import GROUP_SIZES, run_pieces


class PiecewiseNetwork(ModuleNetwork):
    """A network of which an image runs through some pieces, as gates or exits decide."""

    @property
    @abc.abstractmethod
    def pieces(self) -> Mapping[str, int]:
        """Every piece by name, and how many layers of depth it adds."""

    @property
    @abc.abstractmethod
    def decided(self) -> tuple[str, ...]:
        """The pieces that a gate or an exit decides on."""

    @abc.abstractmethod
    def run_piece(self, model: Any, piece: str, x: Array) -> Any:
        """What a piece of the module gives, a row an image."""

    @abc.abstractmethod
    def answer(self, run: "Run", images: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
        """Logits of images, each piece run by `run` for the images that need it."""

    def predictor(self, params, stats, **settings) -> "PiecewisePredictor":
        return PiecewisePredictor(self, params, *stats.values())


class Trace(NamedTuple):
    """What was done for each image.

    Attributes:
        logits: (batch, classes) float32.
        depths: (batch,) layers that it ran through.
        macs: (batch,) multiply-accumulates of the pieces that it ran through.
        executed: (batch, pieces) bool, in the order of `PiecewiseNetwork.pieces`.
    """

    logits: np.ndarray
    depths: np.ndarray
    macs: np.ndarray
    executed: np.ndarray


class Run:
    """Runs pieces of a network for some images of a batch, and keeps which.

    Attributes:
        executed: (batch, pieces) bool.
        calls: (piece, images computed, padding included) in order.
        shapes: what an image is where it enters a piece.
    """

    def __init__(self, network: PiecewiseNetwork, params: Any, stats: Any, batch: int):
        self.network, self.params, self.stats = network, params, stats
        self.names = list(network.pieces)
        self.executed = np.zeros((batch, len(self.names)), bool)
        self.macs = np.zeros(batch, np.int64)
        self.calls: list[tuple[str, int]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def __call__(self, piece: str, x: np.ndarray, rows: np.ndarray) -> Any:
        """What `piece` gives for `x`, (rows, ...) of the images `rows` of the batch: arrays of as many rows."""
        self.shapes[piece] = x.shape[1:]
        self.executed[rows, self.names.index(piece)] = True
        self.macs[rows] += piece_macs(self.network, piece, x.shape[1:])

        def run(padded: np.ndarray) -> Any:
            self.calls.append((piece, len(padded)))
            return _run_piece(self.network, self.params, self.stats, piece, x[padded])

        return run_pieces(len(rows), run)


class PiecewisePredictor:
    """Logits of images, each of which runs through those pieces alone that it needs.

    An image's answer does not depend on the other images of its batch.

    Args:
        network: the network.
        params: its trainable floats.
        stats: its statistics.
        threshold: of its exits, of a network that has such.
    """

    def __init__(self, network: PiecewiseNetwork, params: Any, stats: Mapping[str, pj.BatchStats], **settings: Any):
        self.network, self.params, self.stats, self.settings = network, params, stats, settings

    def __call__(self, images: Any, h: Any | None = None) -> np.ndarray:
        """Logits (batch, num_classes) float32 of `images` (batch, height, width, channels)."""
        return self.trace(images).logits

    def route(self, images: Any, h: Any | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits, and the number of layers that each image ran through."""
        trace = self.trace(images)
        return trace.logits, trace.depths

    def trace(self, images: Any) -> Trace:
        """Logits, and what was done for each image."""
        images = np.asarray(check_images(images))
        layers = np.array(list(self.network.pieces.values()))
        parts = []
        for first in range(0, len(images), GROUP_SIZES[-1]):
            part = images[first : first + GROUP_SIZES[-1]]
            run = self.start(len(part))
            logits = self.network.answer(run, part, self.settings)
            parts.append(Trace(logits, run.executed @ layers, run.macs, run.executed))
        return Trace(*map(np.concatenate, zip(*parts, strict=True)))

    def start(self, batch: int) -> Run:
        """A run of as many images, none of whose pieces has been run."""
        return Run(self.network, self.params, self.stats, batch)


def straight_through(probability: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """1 where the probability is above a half, else 0, with the gradient of the probability."""
    hard = (probability > 0.5).astype(probability.dtype)
    return hard + probability - jax.lax.stop_gradient(probability)


def warn_of_dead_gates(network: PiecewiseNetwork, executed: np.ndarray) -> None:
    """Warns of pieces that a gate or an exit decides on, and that were run for no image at all.

    Args:
        network: the network.
        executed: from a `Trace` of many images.
    """
    names = list(network.pieces)
    dead = [piece for piece in network.decided if not executed[:, names.index(piece)].any()]
    if dead:
        warnings.warn(
            f"of {len(executed)} images none ran through {', '.join(dead)}: the gate or exit before it never opens. "
            "Train longer, or at another rate, reward or threshold.",
            stacklevel=2,
        )


@functools.partial(jax.jit, static_argnames=("network", "piece"))
def _run_piece(network: PiecewiseNetwork, params, stats, piece: str, x):
    with jax.default_matmul_precision("highest"):  # float32 means float32 on a GPU too
        return network.run_piece(network.model(params, stats), piece, centred(x) if x.dtype == jnp.uint8 else x)


@functools.lru_cache(maxsize=4096)
def piece_macs(network: PiecewiseNetwork, piece: str, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of a piece for an image that is of `shape` where it enters."""
    params = flat(network.abstract[1])
    one = jax.ShapeDtypeStruct((1, *shape), "float32")
    stats = network.init_stats(0)
    return count_macs(lambda params, x: network.run_piece(network.model(params, stats), piece, x), params, one)
