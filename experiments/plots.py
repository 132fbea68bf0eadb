"""Pictures of a run: its curves, and what its depths are."""

from typing import Any

from matplotlib.figure import Figure

from puppet_jax.plots import plot_depths as plot_depths


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
