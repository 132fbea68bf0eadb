"""What a predictor of a puppet costs beside the network itself, and what its bank of kernels costs in accuracy."""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import puppet_jax as pj
from experiments.benchmarks import runtimes
from experiments.benchmarks.rounds import error_of, repeated, time_rounds
from experiments.data import spread_indices
from experiments.markdown import markdown
from experiments.runs.puppet import bucket_of
from puppet_jax.folded import apply_folded
from puppet_jax.puppet import centred
from puppet_jax.routing import complexities

LEVELS = (4, 16, 64)
"""Of a depth bucket, whose kernels are compared with those of each image's own complexity."""
ROUTED = 2048
"""Images of a timed call."""
CALLS = 50
"""Calls of one image in a round."""


def measure(model: pj.PretrainedPuppet, images: np.ndarray, rounds: int) -> dict[str, Any]:
    """Figures of a model.

    Args:
        model: a trained puppet.
        images: (N, H, W, C) uint8 test images.
        rounds: how often each timed call takes its turn.

    Returns:
        "one_image", milliseconds: "predictor", "network" (the compiled network alone, folded), "overhead"
        (their difference), "complexity" (what routing by the image's own complexity adds); "runtimes", the rows of
        `runtimes.measure`. Where the complexity of an image matters also "routed": "speed", images a second over those
        of single depths, weighted by how many images run at each, and "images" by depth; "bank", a row for each of
        `LEVELS`: "top1_agreement" with kernels of each image's own complexity, and "error", the largest difference of
        logits over the largest logit.
    """
    found: dict[str, Any] = {
        "one_image": _one_image(model, images[:1], rounds),
        "runtimes": runtimes.measure(model, images[spread_indices(len(images), max(runtimes.BATCH_SIZES))], rounds),
    }
    if model.complexity.constant is not None:  # the same depth and kernels for all images
        return found
    routed = _routed(model, images[spread_indices(len(images), ROUTED)], rounds)
    return found | {"routed": routed, "bank": _bank(model, images)}


def _one_image(model: pj.PretrainedPuppet, image: np.ndarray, rounds: int) -> dict[str, float]:
    predictor = model.predictor()
    h = complexities(image, predictor.complexity)
    folded = predictor.bank(*bucket_of(model, float(h[0])))
    network = jax.jit(lambda folded, image: apply_folded(folded, centred(image)))
    calls = {
        "network": lambda: np.asarray(network(folded, image)),
        "predictor": lambda: predictor(image, h),
        "whole": lambda: predictor(image),
    }
    times = time_rounds([repeated(call, CALLS) for call in calls.values()], rounds)
    ms = {name: 1e3 * statistics.median(own) / CALLS for name, own in zip(calls, times, strict=True)}
    return {
        "predictor": ms["predictor"],
        "network": ms["network"],
        "overhead": ms["predictor"] - ms["network"],
        "complexity": ms["whole"] - ms["predictor"],
    }


def _routed(model: pj.PretrainedPuppet, images: np.ndarray, rounds: int) -> dict[str, Any]:
    predictor = model.predictor(max_sets=4096)
    depths, counts = np.unique(predictor.route(images)[1], return_counts=True)
    alone = [lambda depth=depth: predictor(images, depth=int(depth)) for depth in depths]
    calls: list[Callable[[], Any]] = [lambda: predictor(images), *alone]
    routed, *single = time_rounds(calls, rounds)
    ratios = [
        sum(count / len(images) * seconds for count, seconds in zip(counts, singles, strict=True)) / whole
        for whole, *singles in zip(routed, *single, strict=True)
    ]
    return {
        "speed": statistics.median(ratios),
        "speed_range": [min(ratios), max(ratios)],
        "images": {int(depth): int(count) for depth, count in zip(depths, counts, strict=True)},
    }


def _bank(model: pj.PretrainedPuppet, images: np.ndarray) -> list[dict[str, Any]]:
    exact = model.predictor(adaptation="sample")(images)
    rows = []
    for levels in LEVELS:
        found = model.predictor(adaptation="level", num_levels=levels, max_sets=4096)(images)
        rows.append(
            {
                "levels": levels,
                "top1_agreement": float((found.argmax(axis=1) == exact.argmax(axis=1)).mean()),
                "error": error_of(found, exact),
            }
        )
    return rows


def table(found: dict[str, Any]) -> str:
    """Markdown tables of `measure`."""
    one = found["one_image"]
    times = [
        ["one image, predictor", f"{one['predictor']:.2f} ms"],
        ["one image, network alone", f"{one['network']:.2f} ms"],
        ["overhead", f"{one['overhead']:.2f} ms"],
        ["complexity of the image", f"{one['complexity']:.2f} ms"],
    ]
    if "routed" in found:
        depths = ", ".join(f"{count:,} at {depth}" for depth, count in found["routed"]["images"].items())
        low, high = found["routed"]["speed_range"]
        speed = f"{found['routed']['speed']:.2f} ({low:.2f} to {high:.2f})"
        times.append([f"routed by depth ({depths}) / single depths", speed])
    tables = [markdown(["what", "time or ratio"], times), runtimes.table(found["runtimes"])]
    if "bank" in found:
        banks = [
            [str(row["levels"]), f"{100 * row['top1_agreement']:.2f} %", f"{row['error']:.1e}"] for row in found["bank"]
        ]
        levels = ["levels of a depth", "top-1 as with the image's own kernels", "largest error of a logit"]
        tables.append(markdown(levels, banks))
    return "\n".join(tables)
