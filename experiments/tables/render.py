"""A table for people: Markdown and a picture."""

import textwrap
from typing import Any

from matplotlib.figure import Figure

from experiments.markdown import markdown
from experiments.tables.definitions import NAMES

LABELS = {
    "top1": "top-1 (%)",
    "top5": "top-5 (%)",
    "mb": "stored kernels (MB)",
    "trainable_mb": "all trainable (MB)",
    "generator_gmacs": "generator (G mult-adds)",
    "network_gmacs": "network (G mult-adds)",
    "network_gmacs_std": "their spread",
    "images_per_s": "images/s, batch 256",
    "hours": "training (h)",
    "full_hours": "full protocol (h), extrapolated",
    "s_per_image": "s/image",
    "s_per_image_generating": "s/image, kernels anew",
    "depth": "mean depth",
    "gmacs": "mult-adds (G)",
}


def accuracy_table(results: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """The papers' figures beside ours, mean ± standard deviation over the seeds and every seed's top-1."""
    printed = [
        name for name in ("top1", "top5", "mb", "gmacs", "s_per_image") if any(name in r["paper"] for r in results)
    ]
    ours = ["top1", "top5", *columns]
    sized = any(result.get("confidence") for result in results)
    searched = any(result.get("search") for result in results)
    several = any(len(result["ours"]["top1"]["seeds"]) > 1 for result in results if "ours" in result)
    header = ["", *(f"papers: {LABELS[name]}" for name in printed), *(f"ours: {LABELS[name]}" for name in ours)]
    header += ["ours - papers (MB)", "that it is their size"] * sized + ["epochs", "rate, of those tried"] * searched
    rows = []
    for result in results:
        row = [result["label"], *(_number(name, result["paper"].get(name)) for name in printed)]
        if "missing" in result:
            row += ["not run", *[""] * (len(ours) - 1 + 2 * sized + 2 * searched + several)]
        else:
            row += [_spread(name, result["ours"].get(name)) for name in ours]
            row += _residual(result) * sized + _choice(result) * searched
            if several:
                row.append(", ".join(_number("top1", value) for value in result["ours"]["top1"]["seeds"]))
        rows.append(row)
    return markdown(header + (["every seed"] if several else []), rows)


def _residual(result: dict[str, Any]) -> list[str]:
    """What lies between our megabytes and the papers', and how sure it is that the network is theirs."""
    if "mb" not in result["paper"]:
        return ["", ""]
    return [f"{result['ours']['mb']['mean'] - result['paper']['mb']:+.3f}", result["confidence"]]


def _choice(result: dict[str, Any]) -> list[str]:
    """Epochs, and the learning rate with those that were tried."""
    tried = ", ".join(f"{one['learning_rate']:g}" for one in result["search"])
    return [
        str(result["epochs"]),
        f"{result['learning_rate']:g} of {tried}" if tried else f"{result['learning_rate']:g}",
    ]


def plot_bytes(title: str, results: list[dict[str, Any]], published: list[dict[str, Any]]) -> Figure:
    """Top-1 of each row against its stored bytes, what the papers print, and published networks behind them.

    Args:
        title: above it.
        results: of a table; those that are not run are left out.
        published: rows with a `label`, `bytes` and `top1` (percentages), of other protocols.
    """
    shown = [result for result in results if "ours" in result]
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for row in published:
        axes.plot(row["bytes"] / 1e6, sum(row["top1"]) / len(row["top1"]), "x", color="0.7", zorder=1)
    for result in shown:
        place = result["ours"]["trainable_mb"]["mean"], 100 * result["ours"]["top1"]["mean"]
        axes.plot(*place, "o", color="tab:blue", zorder=3)
        axes.annotate(result["label"], place, xytext=(5, 3), textcoords="offset points", fontsize=8)
        if "top1" in result["paper"]:
            axes.plot(result["paper"]["mb"], 100 * result["paper"]["top1"], "D", color="tab:orange", zorder=2)
    axes.plot([], [], "o", color="tab:blue", label="ours")
    axes.plot([], [], "D", color="tab:orange", label="papers")
    if published:
        axes.plot([], [], "x", color="0.7", label="published, all images, augmented")
    axes.set(xscale="log", xlabel="all trainable floats (MB)", ylabel="top-1 accuracy on the test set (%)")
    axes.grid(color="0.92")
    figure.suptitle(textwrap.fill(title, 90))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_accuracy(title: str, results: list[dict[str, Any]]) -> Figure:
    """Top-1 of each row: every seed, their mean, and what the papers print."""
    shown = [result for result in results if "ours" in result]
    figure = Figure(figsize=(8, 1.4 + 0.34 * len(shown)), dpi=120, layout="constrained")
    axes = figure.subplots()
    for place, result in enumerate(shown):
        seeds = [100 * value for value in result["ours"]["top1"]["seeds"]]
        axes.plot(seeds, [place] * len(seeds), "o", color="0.6", markersize=5, zorder=2)
        axes.plot([sum(seeds) / len(seeds)], [place], "|", color="black", markersize=16, markeredgewidth=2, zorder=3)
        if "top1" in result["paper"]:
            axes.plot([100 * result["paper"]["top1"]], [place], "D", color="tab:orange", markersize=6, zorder=2)
    axes.plot([], [], "o", color="0.6", label="ours, a seed")
    axes.plot([], [], "|", color="black", markersize=12, markeredgewidth=2, label="ours, mean")
    if any("top1" in result["paper"] for result in shown):
        axes.plot([], [], "D", color="tab:orange", label="papers")
    axes.set_yticks(range(len(shown)), [result["label"] for result in shown])
    axes.invert_yaxis()
    axes.set_xlabel("top-1 accuracy on the test set (%)")
    axes.grid(axis="x", color="0.9")
    figure.suptitle(textwrap.fill(title, 80))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def size_table(rows: list[dict[str, Any]]) -> str:
    """Floats and MB beside the papers'."""
    extra = "with_state_m" in rows[0]
    header = ["network", "trainable floats", "MB", "papers: MB", "residual (MB)"]
    header += ["with the state (M floats)", "papers: with the state (M)"] if extra else []
    lines = []
    for row in rows:
        line = [row["label"], f"{row['floats']:,}", f"{row['mb']:.4f}"]
        paper = row["paper_mb"] is not None
        line += [f"{row['paper_mb']:.2f}", f"{row['residual_mb']:+.4f}"] if paper else ["", ""]
        line += [f"{row['with_state_m']:.2f}", f"{row['paper_with_state_m']:.2f}"] if extra else []
        lines.append(line)
    return markdown(header, lines)


def plot_sizes(title: str, rows: list[dict[str, Any]]) -> Figure:
    """MB of each network on a logarithmic axis, ours and the papers'."""
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot([row["mb"] for row in rows], range(len(rows)), "o", color="0.6", markersize=9, label="ours")
    axes.grid(color="0.9")
    printed = [(row["paper_mb"], place) for place, row in enumerate(rows) if row["paper_mb"] is not None]
    axes.plot(*zip(*printed, strict=True), "D", color="tab:orange", markersize=4, label="papers")
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="stored trainable floats (MB, float32)")
    figure.suptitle(textwrap.fill(title, 80))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def depth_table(rows: list[dict[str, Any]]) -> str:
    """Stored bytes by depth."""
    header = ["network", "layers", "fixed (bytes)", "puppet (bytes)", "of it puppeteer", "puppet with affine norms"]
    names = ("fixed_bytes", "puppet_bytes", "puppeteer_bytes", "puppet_affine_bytes")
    return markdown(header, [[r["network"], str(r["layers"]), *(f"{r[name]:,}" for name in names)] for r in rows])


def plot_depths(title: str, rows: list[dict[str, Any]]) -> Figure:
    """Stored MB against depth: fixed networks grow, puppets do not (v1 figure 4)."""
    figure = Figure(figsize=(8, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    styles = {"vgg": ("tab:blue", "o"), "resnet": ("tab:orange", "s")}
    for network, (color, marker) in styles.items():
        own = [row for row in rows if row["network"] == network]
        layers = [row["layers"] for row in own]
        name = NAMES[network]
        fixed, puppet = ([row[key] / 1e6 for row in own] for key in ("fixed_bytes", "puppet_bytes"))
        axes.plot(layers, fixed, "-", marker=marker, color=color, label=name)
        axes.plot(layers, puppet, "--", marker=marker, color=color, mfc="white", label=f"Puppet-{name}")
    axes.set(xlabel="layers", ylabel="stored (MB)", yscale="log")
    axes.grid(color="0.9")
    figure.suptitle(textwrap.fill(title, 80))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name in ("top1", "top5"):
        return f"{100 * value:.2f}"
    if name.startswith("s_per"):
        return f"{value:.5f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _spread(name: str, value: dict[str, Any] | None) -> str:
    if value is None:
        return ""
    mean = _number(name, value["mean"])
    if len(value["seeds"]) == 1 or name not in ("top1", "top5"):
        return mean
    return f"{mean} ± {_number(name, value['std'])}"
