"""Speed of several models beside each other: each takes its turn in every round."""

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.data import spread_indices
from experiments.markdown import markdown
from experiments.networks import Predictor
from experiments.runs.load import Run


def measure(
    runs: Sequence[Run],
    names: Sequence[str],
    images: np.ndarray,
    batch_sizes: Sequence[int],
    num_images: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Images a second of each run at each batch size, and ratios to the first run of the same round.

    Args:
        runs: finished.
        names: of each.
        images: (N, H, W, C) uint8 test images.
        batch_sizes: images a call.
        num_images: images a round, at most; at batch 1 a sixteenth of them.
        rounds: how often each takes its turn.
    """
    predictors = [run.model.predictor(max_sets=4096) for run in runs]
    rows = []
    for size in batch_sizes:
        count = max(size, num_images // (16 if size == 1 else 1))
        chosen = images[spread_indices(len(images), count)]
        times = time_rounds([_classify_all(predictor, chosen, size) for predictor in predictors], rounds)
        for name, run, own in zip(names, runs, times, strict=True):
            ratios = [first / mine for first, mine in zip(times[0], own, strict=True)]
            rows.append(
                {
                    "network": name,
                    "run": str(run.folder),
                    "batch_size": size,
                    "images_per_s": len(chosen) / statistics.median(own),
                    "speed": statistics.median(ratios),
                    "speed_range": [min(ratios), max(ratios)],
                }
            )
    return rows


def _classify_all(predictor: Predictor, images: np.ndarray, batch_size: int) -> Callable[[], None]:
    def call() -> None:
        for first in range(0, len(images), batch_size):
            predictor(images[first : first + batch_size])

    return call


def time_rounds(
    calls: Sequence[Callable[[], None]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Seconds of each call in each round, (calls, rounds), after each has been called once for nothing.

    Round r begins with call r modulo their number.
    """
    for call in calls:
        call()
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        for place in range(len(calls)):
            which = (turn + place) % len(calls)
            start = clock()
            calls[which]()
            seconds[which].append(clock() - start)
    return seconds


def repeated(call: Callable[[], Any], times: int) -> Callable[[], None]:
    """So many calls as one, of what takes too little time to be timed alone."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


def is_installed(*packages: str) -> bool:
    """Whether all these packages, which are timed where there are such, can be imported."""
    return all(importlib.util.find_spec(package) is not None for package in packages)


def error_of(found: Any, expected: Any) -> float:
    """The largest difference of two arrays over the largest value of the second."""
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = []
    for row in rows:
        low, high = row["speed_range"]
        speed = f"{row['speed']:.2f} ({low:.2f} to {high:.2f})"
        lines.append([row["network"], str(row["batch_size"]), f"{row['images_per_s']:,.0f}", speed])
    return markdown(["network", "batch", "images/s", "times as fast as the first"], lines)
