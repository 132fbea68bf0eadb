"""BranchyNet (Teerapittayanon, McDanel and Kung, ICPR 2016): an image leaves at the first exit that is sure of it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from experiments.networks.backbones.blocks import (
    ConvNorm,
    Head,
    Images,
    Logits,
    check_positive,
    max_pool,
    scaled,
)
from experiments.networks.baselines.pieces import PiecewiseNetwork, PiecewisePredictor, Run, piece_macs
from puppet_jax.checks import check_images
from puppet_jax.routing import GROUP_SIZES

TRUNK = (64, 128, 256, 256, 512, 512)
SEGMENTS = ((0, 1), (1, 2), (2, 6))
"""Convolutions of the trunk before each exit, and before the last."""


class BranchyNet(nnx.Module):
    """Six convolutions with an exit behind the first, the second and the last.

    An early exit has a 3x3 convolution of its own; every exit an average over places and three hidden layers. Stored
    for 10 classes at 512 channels: 6,923,614 floats, 27.695 MB (papers: 27.69). Dozens of layouts fit: low confidence.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        max_channels: scales every width by `max_channels` / 512.
        rngs: `params` are drawn from it.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, max_channels: int = 512, rngs: nnx.Rngs):
        check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        widths = scaled(TRUNK, max_channels)
        hidden = scaled((512, 512, 512), max_channels)
        pairs = zip((in_channels, *widths), widths, strict=False)
        self.trunk = nnx.List([ConvNorm(c_in, c_out, rngs=rngs) for c_in, c_out in pairs])
        self.branches = nnx.List([ConvNorm(widths[n], widths[n + 1], rngs=rngs) for n in (0, 1)])
        ends = (widths[1], widths[2], widths[-1])
        self.heads = nnx.List([Head((width, *hidden), num_classes, rngs) for width in ends])

    def segment(self, number: int, x: Images) -> Images:
        """The trunk's convolutions before exit `number`, from those before the one ahead of it."""
        for index in range(*SEGMENTS[number]):
            x = nnx.relu(self.trunk[index](x))
            if index in (0, 1, 3, 5):
                x = max_pool(x)
        return x

    def exit(self, number: int, x: Images) -> Logits:
        """Logits of exit `number`; the last is the trunk's own."""
        if number < len(self.branches):
            x = nnx.relu(self.branches[number](x))
        return self.heads[number](x)

    def __call__(self, x: Images) -> tuple[Logits, ...]:
        """Logits of every exit, the last the trunk's."""
        logits = []
        for number in range(len(SEGMENTS)):
            x = self.segment(number, x)
            logits.append(self.exit(number, x))
        return tuple(logits)


def entropy(logits: Float[np.ndarray, "batch classes"]) -> Float[np.ndarray, " batch"]:
    """Entropy of the softmax of logits, -Σ p ln p, in nats, in [0, ln classes] (their Sec. III-C)."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -(np.exp(log_p) * log_p).sum(axis=-1)


def thresholds_of(exits: Float[np.ndarray, "exits batch classes"], fraction: float) -> tuple[float, ...]:
    """The entropies below which images leave, so that each early exit sends a fraction of its images on.

    Args:
        exits: logits of every exit for held-out images, the last that of the whole network.
        fraction: of the images that reach an exit, in (0, 1).
    """
    reaching = np.ones(exits.shape[1], bool)
    thresholds = []
    for logits in exits[:-1]:
        doubts = entropy(logits)
        threshold = float(np.quantile(doubts[reaching], 1 - fraction)) if reaching.any() else 0.0
        thresholds.append(threshold)
        reaching &= ~(doubts < threshold)
    return tuple(thresholds)


def leave(exits: Float[np.ndarray, "exits batch classes"], thresholds: Sequence[float]) -> np.ndarray:
    """Which exit answers each image (batch,): the first whose entropy is below its threshold, else the last."""
    sure = np.stack([entropy(logits) < threshold for logits, threshold in zip(exits[:-1], thresholds, strict=True)])
    return np.where(sure.any(axis=0), sure.argmax(axis=0), len(exits) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BranchyNetwork(PiecewiseNetwork):
    """BranchyNet to train: all images train all exits, the losses of the exits are added with weights."""

    width: int
    exit_weights: tuple[float, float, float] = dataclasses.field(metadata={"stored": False}, default=(1.0, 1.0, 1.0))
    exit_fraction: float | None = dataclasses.field(default=None, metadata={"stored": False})  # type: ignore[misc]
    pieces: ClassVar[dict[str, int]] = {  # type: ignore[assignment]
        "trunk 1": 1,
        "exit 1": 0,
        "trunk 2": 1,
        "exit 2": 0,
        "trunk 3": 4,
        "exit 3": 0,
    }
    decided: ClassVar[tuple[str, ...]] = ("trunk 2", "trunk 3")  # type: ignore[assignment]

    def make(self, seed):
        channels = self.image_shape[-1]
        return BranchyNet(self.num_classes, in_channels=channels, max_channels=self.width, rngs=nnx.Rngs(seed))

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Convolutions of the trunk."""
        return len(TRUNK)

    def loss(self, outputs: tuple[Array, ...], targets: Array) -> tuple[Array, Array]:
        losses = [optax.softmax_cross_entropy(logits, targets).mean() for logits in outputs]
        return sum(weight * loss for weight, loss in zip(self.exit_weights, losses, strict=True)), outputs[-1]

    def run_piece(self, model: BranchyNet, piece: str, x: Array) -> Array:
        kind, number = piece.split()
        return (model.segment if kind == "trunk" else model.exit)(int(number) - 1, x)

    def answer(self, run, images, settings):
        thresholds = settings["threshold"]
        logits = np.empty((len(images), self.num_classes), np.float32)
        rows, x = np.arange(len(images)), images
        for number, threshold in enumerate((*thresholds, math.inf), 1):
            x = run(f"trunk {number}", x, rows)
            logits[rows] = found = run(f"exit {number}", x, rows)
            stay = ~(entropy(found) < threshold)  # NaN is never sure
            x, rows = x[stay], rows[stay]
            if not len(rows):
                break
        return logits

    def predictor(self, params, stats, **settings) -> "BranchyPredictor":
        thresholds = check_thresholds(settings.get("threshold"), self.num_classes)
        return BranchyPredictor(self, params, *stats.values(), threshold=thresholds)


class BranchyPredictor(PiecewisePredictor):
    """Answers of the first exit that is sure of an image."""

    def exits(self, images: Any) -> np.ndarray:
        """Logits (exits, batch, classes) of every exit for all images."""
        images = np.asarray(check_images(images))
        size = GROUP_SIZES[-1]
        parts = [images[first : first + size] for first in range(0, len(images), size)]
        return np.concatenate([_all_exits(self.start(len(part)), part) for part in parts], axis=1)

    def choose(self, exits: np.ndarray, fraction: float) -> tuple[float, ...]:
        """The entropies below which images leave."""
        return thresholds_of(exits, fraction)

    def leave(self, exits: np.ndarray, threshold: Sequence[float]) -> np.ndarray:
        """The first exit that is sure of an image."""
        return leave(exits, threshold)

    def exit_macs(self) -> np.ndarray:
        """Of the trunk and the exits up to each."""
        run = self.start(1)
        _all_exits(run, np.zeros((1, *self.network.image_shape), np.uint8))
        pieces = [piece_macs(self.network, piece, run.shapes[piece]) for piece in self.network.pieces]
        return np.cumsum(pieces)[1::2]


def _all_exits(run: Run, x: np.ndarray) -> np.ndarray:
    rows, logits = np.arange(len(x)), []
    for number in range(1, len(SEGMENTS) + 1):
        x = run(f"trunk {number}", x, rows)
        logits.append(run(f"exit {number}", x, rows))
    return np.stack(logits)


def check_thresholds(thresholds: Sequence[float] | None, num_classes: int) -> tuple[float, ...]:
    """Thresholds of the early exits, zeros if there are none yet.

    Raises:
        ValueError: unless they are one for each early exit, in [0, ln classes] nats.
    """
    if thresholds is None:
        return (0.0,) * (len(SEGMENTS) - 1)
    most = math.log(num_classes)
    valid = len(thresholds) == len(SEGMENTS) - 1 and all(0 <= one <= most + 1e-6 for one in thresholds)
    if not valid:
        raise ValueError(
            f"threshold must be {len(SEGMENTS) - 1} entropies in [0, {most:.3f}] nats, got {tuple(thresholds)}."
        )
    return tuple(thresholds)
