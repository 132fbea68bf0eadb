"""How accurate a trained model is, how deep, and what it costs in bytes and multiply-accumulates."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from jax.typing import ArrayLike

import puppet_jax as pj
from experiments.evaluation.coding import coded_bytes
from experiments.evaluation.speed import speed
from experiments.model import Model
from experiments.networks.baselines.pieces import PiecewiseNetwork, warn_of_dead_gates
from puppet_jax import extras


def accuracy(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`top1` and `top5` (fractions) and `loss` (mean cross-entropy, nats) of logits (N, classes)."""
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    first = np.arange(logits.shape[1]) < labels[:, None]
    # how many classes are ahead of the right one; ties as `argmax` decides them, NaN is ahead of everything
    rank = (~(logits <= true) | ((logits == true) & first)).sum(axis=1)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return {"top1": float((rank < 1).mean()), "top5": float((rank < 5).mean()), "loss": float(loss)}


def evaluate(
    model: Model, images: np.ndarray, labels: np.ndarray, model_file: Path, **overrides: Any
) -> dict[str, Any]:
    """Measures a model on a test set.

    Args:
        model: what to measure.
        images: (N, H, W, C) uint8.
        labels: (N,) int32.
        model_file: its file, whose size is reported.
        **overrides: of the predictor, such as `adaptation`.

    Returns:
        A dictionary that JSON can hold; the names are those of `experiments.evaluation.summary.Summary`.
    """
    h = pj.complexities(images, model.complexity)
    predictor = model.predictor(**overrides)
    logits, depths, generator, macs, executed = answers(model, predictor, images, h)
    if isinstance(model.network, PiecewiseNetwork) and executed is not None:
        warn_of_dead_gates(model.network, executed)
    correct = logits.argmax(axis=1) == labels
    counts = Counter(depths.tolist())
    puppeteer_bytes, trainable_bytes = model.stored_bytes()
    return {
        **accuracy(logits, labels),
        "test_images": len(images),
        "depth_mean": float(depths.mean()),
        "depth_std": float(depths.std()),
        "depth_counts": {str(depth): counts[depth] for depth in sorted(counts)},
        "depth_top1": {str(depth): float(correct[depths == depth].mean()) for depth in sorted(counts)},
        "puppeteer_bytes": puppeteer_bytes,
        "trainable_bytes": trainable_bytes,
        "coded_bytes": coded_bytes(model),
        "file_bytes": model_file.stat().st_size,
        "generator_macs": round(generator.mean()),
        "puppet_macs": round(macs.mean()),
        "puppet_macs_std": float(macs.std()),
        **speed(model, images, **overrides),
    }


class Answers(NamedTuple):
    """What a model gives for images, and what it spends on each.

    Attributes:
        logits: (batch, classes) float32.
        depths: (batch,) layers.
        generator_macs: (batch,) multiply-accumulates of making an image's kernels.
        macs: (batch,) those of the network itself.
        executed: (batch, pieces) bool, of a network whose gates decide which pieces run; else None.
    """

    logits: np.ndarray
    depths: np.ndarray
    generator_macs: np.ndarray
    macs: np.ndarray
    executed: np.ndarray | None


def answers(model: Model, predictor: Any, images: np.ndarray, h: np.ndarray | None = None) -> Answers:
    """The answers of a predictor of `model`, with the complexities `h` (batch,) if they are known."""
    if hasattr(predictor, "trace"):
        trace = predictor.trace(images)
        return Answers(trace.logits, trace.depths, np.zeros_like(trace.macs), trace.macs, trace.executed)
    logits, depths = predictor.route(images) if h is None else predictor.route(images, h)
    of_depth = {depth: model.network.macs(model.params, depth) for depth in sorted(set(depths.tolist()))}
    generator, network = np.array([of_depth[depth] for depth in depths.tolist()]).T
    return Answers(logits, depths, generator, network, None)


def agreement(model: Model, images: np.ndarray, **overrides: Any) -> float:
    """Fraction of `images` that get the same class with shared kernels ("level") and with their own ("sample")."""
    h = pj.complexities(images, model.complexity)
    shared, own = (
        model.predictor(**(overrides | {"adaptation": kind}))(images, h).argmax(axis=1) for kind in ("level", "sample")
    )
    return float((shared == own).mean())


def evaluate_ensemble(
    models: Sequence[Model],
    shifted_views: bool,
    test: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    fraction: float,
) -> dict[str, float]:
    """Accuracy if the images that the first model is least confident of get the mean answer of an ensemble.

    Args:
        models: the first answers all images, the others those that it is not confident of.
        shifted_views: test-time augmentation: each model sees those images shifted by a pixel as well, in four
            directions.
        test: images (N, H, W, C) uint8 and labels (N,).
        held_out: likewise, images that no model was trained on; they decide the threshold of confidence.
        fraction: of the held-out images that the ensemble answers, in (0, 1].

    Returns:
        `accuracy` on the test images, `validation_top1`, the `threshold` of confidence (2: all images are below it),
        the fraction of the test images that the ensemble answers, `test_fraction`, and the `puppet_macs` of a test
        image.
    """
    own = [_Counted(model) for model in models]
    predictors: list[Callable[[np.ndarray], ArrayLike]] = [
        *own,
        *(view for one in own for view in extras.shifted_views(one) if shifted_views),
    ]
    first = own[0](held_out[0])
    threshold = 2.0 if fraction == 1 else extras.exit_threshold(extras.confidence(first), fraction)
    validation, _ = extras.ensemble(predictors, held_out[0], threshold, first)
    before = sum(one.macs for one in own)
    logits, num_predictors = extras.ensemble(predictors, test[0], threshold)
    return {
        **accuracy(logits, test[1]),
        "validation_top1": accuracy(validation, held_out[1])["top1"],
        "threshold": threshold,
        "test_fraction": float((num_predictors > 1).mean()),
        "puppet_macs": round((sum(one.macs for one in own) - before) / len(test[0])),
    }


class _Counted:
    """A model's answers, and the multiply-accumulates of its network for all of them so far, `macs`."""

    def __init__(self, model: Model):
        self.model = model
        self.predictor = model.predictor()
        self.macs = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        found = answers(self.model, self.predictor, images)
        self.macs += int(found.macs.sum())
        return found.logits
