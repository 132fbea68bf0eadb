"""Pictures of a run: its curves, and what its depths are."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure


def plot_curves(rows: list[dict[str, Any]]) -> Figure:
    """Loss and accuracy by epoch, training and validation, from the rows of `metrics.jsonl`."""
    figure = Figure(figsize=(9, 3.5), dpi=120, layout="constrained")
    epochs = [row["epoch"] for row in rows]
    for axes, name, label in zip(
        figure.subplots(1, 2), ("loss", "top1"), ("cross-entropy (nats)", "top-1 accuracy"), strict=True
    ):
        for split, style in (("train", "--"), ("validation", "-")):
            axes.plot(epochs, [row[f"{split}_{name}"] for row in rows], style, color="black", label=split)
        axes.set(xlabel="epoch", ylabel=label)
        axes.legend(frameon=False)
    return figure


def plot_depths(images: np.ndarray, h: np.ndarray, depths: np.ndarray, num_examples: int = 12) -> Figure:
    """How many images have which depth, and examples from the least complex to the most.

    Args:
        images: (N, H, W, C) uint8, one or three channels.
        h: (N,) complexities, nats.
        depths: (N,) depths.
        num_examples: images shown, evenly spaced in rank of complexity.

    Returns:
        A figure.
    """
    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, num_examples, height_ratios=[2.2, 1])
    axes = figure.add_subplot(grid[0, :])
    edges = np.linspace(h.min(), max(h.max(), h.min() + 1e-3), 61).tolist()
    values = sorted(set(depths.tolist()))
    groups = [h[depths == depth] for depth in values]
    labels = [f"depth {depth}: {len(group)} images" for depth, group in zip(values, groups, strict=True)]
    greys = [str(grey) for grey in np.linspace(0.75, 0.1, len(values))]
    axes.hist(groups, edges, stacked=True, color=greys, label=labels)
    axes.set(xlabel="complexity H (nats)", ylabel="images")
    axes.legend(frameon=False)
    chosen = np.argsort(h, kind="stable")[np.linspace(0, len(h) - 1, num_examples).round().astype(int)]
    for column, i in enumerate(chosen):
        axes = figure.add_subplot(grid[1, column])
        axes.imshow(images[i].squeeze(-1) if images.shape[-1] == 1 else images[i], cmap="gray")
        axes.set_title(f"H {h[i]:.2f}\ndepth {depths[i]}", fontsize=8)
        axes.axis("off")
    return figure
