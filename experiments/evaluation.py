"""What a trained model is worth and what it costs: accuracy, sizes, multiply-accumulates, speed."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

import puppet_jax as pj
from experiments.model_file import Model
from experiments.networks import Predictor

ENOUGH_SECONDS = 5
"""Time after which three measurements of speed are enough."""


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
        A dictionary that JSON can hold; the names are those of `summary.json` (see README).
    """
    h = pj.complexities(images, model.complexity)
    predictor = model.predictor(**overrides)
    logits, depths = predictor.route(images, h)
    correct = logits.argmax(axis=1) == labels
    counts = Counter(depths.tolist())
    generator, puppet = (macs / len(images) for macs in _total_macs(model, counts))
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
        "file_bytes": model_file.stat().st_size,
        "generator_macs": round(generator),
        "puppet_macs": round(puppet),
        **speed(model, images, **overrides),
    }


def _total_macs(model: Model, counts: Counter[int]) -> tuple[int, int]:
    """Multiply-accumulates of generator and network for as many images of each depth."""
    macs = {depth: model.network.macs(model.params, depth) for depth in counts}
    generator, puppet = (sum(macs[depth][i] * n for depth, n in counts.items()) for i in (0, 1))
    return generator, puppet


def agreement(model: Model, images: np.ndarray, **overrides: Any) -> float:
    """Fraction of `images` that get the same class with shared kernels ("level") and with their own ("sample")."""
    h = pj.complexities(images, model.complexity)
    shared, own = (
        model.predictor(**(overrides | {"adaptation": kind}))(images, h).argmax(axis=1) for kind in ("level", "sample")
    )
    return float((shared == own).mean())


def evaluate_answers(
    models: Sequence[Model],
    views: bool,
    test: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    share: float,
) -> dict[str, float]:
    """Accuracy if images that the first model is in doubt about get further answers (`average_answers`).

    Args:
        models: the others are asked of the images in doubt alone.
        views: ask each model of those images moved by a pixel as well, in four directions.
        test: images (N, H, W, C) uint8 and labels (N,).
        held_out: likewise, images that no model was trained on; they decide which doubt is too much.
        share: of the held-out images that get further answers, in (0, 1].

    Returns:
        `accuracy` on the test images, `validation_top1`, the `threshold` of doubt (-1: no image is without further
        answers), the share of the test images that get them, `test_share`, and the `puppet_macs` of a test image.
    """
    own = [_Counted(model) for model in models]
    predictors: list[Callable[[np.ndarray], ArrayLike]] = [
        *own,
        *(view for one in own for view in pj.moved_views(one) if views),
    ]
    first = own[0](held_out[0])
    threshold = -1.0 if share == 1 else pj.exit_threshold(pj.doubt(first), share)
    validation, _ = pj.average_answers(predictors, held_out[0], threshold, first)
    before = sum(one.macs for one in own)
    logits, num_answers = pj.average_answers(predictors, test[0], threshold)
    return {
        **accuracy(logits, test[1]),
        "validation_top1": accuracy(validation, held_out[1])["top1"],
        "threshold": threshold,
        "test_share": float((num_answers > 1).mean()),
        "puppet_macs": round((sum(one.macs for one in own) - before) / len(test[0])),
    }


class _Counted:
    """A model's answers, and the multiply-accumulates of its network for all of them so far, `macs`."""

    def __init__(self, model: Model):
        self.model = model
        self.predictor = model.predictor()
        self.macs = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        logits, depths = self.predictor.route(images)
        self.macs += _total_macs(self.model, Counter(depths.tolist()))[1]
        return logits


def speed(model: Model, images: np.ndarray, repeats: int = 30, **overrides: Any) -> dict[str, float]:
    """Seconds an image at batch 1 and images a second at batch 256: compiled, warmed up, medians.

    From 8-bit image to logits, complexity and routing included. `latency_s` and `images_per_s` are those of the
    predictor as it is used: for "level", kernels come from its bank. `latency_generating_s` generates the kernels of
    every image anew, as the papers do.
    """
    predictor = model.predictor(max_sets=4096, **overrides)
    generating = model.predictor(**(overrides | {"adaptation": "sample"}))
    singles = [images[i : i + 1] for i in range(min(repeats, len(images)))]
    batch = np.resize(images, (256, *images.shape[1:]))
    return {
        "latency_s": _median_seconds(predictor, singles),
        "latency_generating_s": _median_seconds(generating, singles[:10]),
        "images_per_s": len(batch) / _median_seconds(predictor, [batch] * 10),
    }


def _median_seconds(predictor: Predictor, batches: list[np.ndarray]) -> float:
    for batch in {id(batch): batch for batch in batches}.values():  # compiles, and fills the bank
        predictor(batch)
    times: list[float] = []
    for batch in batches:
        start = time.perf_counter()
        predictor(batch)
        times.append(time.perf_counter() - start)
        if len(times) >= 3 and sum(times) > ENOUGH_SECONDS:
            break
    return statistics.median(times)


def describe(summary: dict[str, Any]) -> str:
    """The figures of a summary for a person, one a line."""
    counts = ", ".join(f"depth {d}: {n}" for d, n in summary["depth_counts"].items())
    return "\n".join(
        [
            f"top-1          {summary['top1']:.2%} of {summary['test_images']} test images",
            f"top-5          {summary['top5']:.2%}",
            f"loss           {summary['loss']:.4f}",
            f"depth          {summary['depth_mean']:.2f} ± {summary['depth_std']:.2f} ({counts})",
            f"puppeteer      {summary['puppeteer_bytes']:,} bytes",
            f"all trainable  {summary['trainable_bytes']:,} bytes",
            f"file           {summary['file_bytes']:,} bytes, running statistics included",
            f"generator      {summary['generator_macs'] / 1e6:,.1f} M multiply-accumulates an image",
            f"network        {summary['puppet_macs'] / 1e6:,.1f} M multiply-accumulates an image",
            f"batch 1        {summary['latency_s']:.5f} s/img; {summary['latency_generating_s']:.5f} s/img if kernels "
            "are generated for every image",
            f"batch 256      {summary['images_per_s']:,.0f} images/s",
            f"peak memory    {summary['host_peak_bytes'] / 1e9:.2f} GB on the host",
            f"device         {summary['device']}",
        ]
    )


def device_name() -> str:
    """What the computation ran on."""
    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.device_kind} ({device.platform})"
