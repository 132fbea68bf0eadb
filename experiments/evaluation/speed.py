"""How fast a trained model answers."""

import statistics
import time
from typing import Any

import numpy as np

from experiments.model import Model
from experiments.networks import Predictor

ENOUGH_SECONDS = 5
"""Time after which three measurements of speed are enough."""


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
