"""Accuracy against cost of a network with early exits, as the fraction of images goes that its exits send on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.evaluation.accuracy import accuracy
from experiments.markdown import markdown
from experiments.model import Model
from experiments.networks.contract import answers_of

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
"""Of the held-out images that reach an exit, the fractions that it sends on."""


def sweep(
    model: Model, held_out: np.ndarray, test: tuple[np.ndarray, np.ndarray], fractions: Sequence[float] = FRACTIONS
) -> list[dict[str, Any]]:
    """One row a fraction; thresholds are chosen on the held-out images, all else is of the test images.

    Args:
        model: with early exits.
        held_out: (images, height, width, channels) uint8.
        test: images likewise, and labels.
        fractions: in (0, 1).

    Returns:
        Rows with `fraction`, `threshold`, `top1`, `leaving` (fraction of the test images at each exit) and
        `network_macs` (mean of an image).
    """
    predictor: Any = model.predictor()
    chosen_on, exits, costs = predictor.exits(held_out), predictor.exits(test[0]), predictor.exit_macs()
    rows = []
    for fraction in fractions:
        threshold = predictor.choose(chosen_on, fraction)
        taken = predictor.leave(exits, threshold)
        rows.append(
            {
                "fraction": fraction,
                "threshold": threshold,
                "top1": accuracy(answers_of(exits, taken), test[1])["top1"],
                "leaving": (np.bincount(taken, minlength=len(costs)) / len(taken)).tolist(),
                "network_macs": float(costs[taken].mean()),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        [
            f"{row['fraction']:g}",
            ", ".join(f"{one:.4f}" for one in np.atleast_1d(row["threshold"])),
            ", ".join(f"{100 * one:.1f}" for one in row["leaving"]),
            f"{row['network_macs'] / 1e6:,.1f}",
            f"{100 * row['top1']:.2f}",
        ]
        for row in rows
    ]
    return markdown(["sent on", "threshold", "leaving at each exit (%)", "M mult-adds", "top-1 (%)"], lines)


def plot(rows: Sequence[dict[str, Any]]) -> Figure:
    """Top-1 against multiply-accumulates."""
    figure = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot([row["network_macs"] / 1e6 for row in rows], [100 * row["top1"] for row in rows], "o-", color="tab:blue")
    axes.set(xlabel="multiply-accumulates an image (M)", ylabel="top-1 accuracy on the test set (%)")
    axes.grid(color="0.92")
    return figure
