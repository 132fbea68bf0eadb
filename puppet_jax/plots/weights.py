"""Pictures of trajectories and of the kernels that are read from them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from puppet_jax.plots.canvas import (
    COLORS,
    MARKERS,
    STYLES,
    checked_kernels,
    color_bar,
    finite_array,
    named_values,
    new_canvas,
    root_of,
    series_style,
)

_BLOCK = 1 << 16
"""Entries of a state that are held in float64 at a time."""


def plot_trajectories(
    states_by_h: Mapping[float | str, ArrayLike], *, figure: Figure | SubFigure | None = None
) -> Figure:
    """Trajectories through parameter space in their first two principal components (the states of v1 Eq. 12).

    The components are those of all states together: with X the centred states, one a row, the coordinates are
    U sqrt(L) of the Gram matrix X X^T = U L U^T, which are the U S of the SVD of X up to sign, at a cost linear in the
    size of a state. Each component's largest coordinate is positive. Both axes have the same scale, so that distances
    are what they are in the plane of the components.

    Args:
        states_by_h: complexity H (nats) → (N + 1, C, C, K**2) states of `trajectory`, N at least 1; N may differ, C and
            K may not. A name instead of H serves as the label, to compare other things than complexities.
        figure: where to draw; a new figure if not given.

    Returns:
        A figure: a line for each H, a point for each state, coloured by its place n. Layer n - 1 reads state n, or the
        velocity that leads to it (`Puppeteer.kernels_from`). The axes say how many percent of the variance their
        component explains.

    Raises:
        ValueError: if there is no trajectory, a shape is wrong or differs, a value is not finite, or all states are
            equal.

    Example:
        >>> import jax, puppet_jax as pj
        >>> from puppet_jax import plots
        >>> puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=8)
        >>> figure = plots.plot_trajectories({h: pj.trajectory(puppeteer, h, 10) for h in (3.0, 4.0, 5.0)})
        >>> len(figure.axes[0].lines)
        3
    """
    named = named_values(states_by_h, "states_by_h")
    states = [finite_array(value, f"states_by_h[{key!r}]", "(N + 1, C, C, K**2)", 4) for key, value in named.items()]
    for key, value in zip(named, states, strict=True):
        if len(value) < 2 or value.shape[1] != value.shape[2] or value.shape[1:] != states[0].shape[1:]:
            raise ValueError(
                "trajectories must have shape (N + 1, C, C, K**2), N at least 1, with the same C and K, got "
                f"{value.shape} for {key!r} and {states[0].shape} for {next(iter(named))!r}. Pass what pj.trajectory "
                "returns for one puppeteer."
            )
    points, explained = _principal_components([value.reshape(len(value), -1) for value in states])

    canvas = new_canvas(figure, 4.2)
    axes = canvas.subplots()
    last = max(map(len, states)) - 1
    legend = []
    for i, (key, xy) in enumerate(zip(named, points, strict=True)):
        line: dict[str, Any] = {"linestyle": STYLES[i % len(STYLES)], "color": "0.45", "linewidth": 1.2}
        marker = MARKERS[i % len(MARKERS)]
        x, y = xy.T
        axes.plot(x, y, **line, zorder=1)
        dots = axes.scatter(
            x, y, c=np.arange(len(xy)), cmap=COLORS, vmin=0, vmax=last, marker=marker, s=42, edgecolors="0.2", lw=0.5
        )
        label = key if isinstance(key, str) else f"H = {key:.3g} nats"
        legend.append(
            Line2D([], [], **line, marker=marker, markerfacecolor="white", markeredgecolor="0.2", label=label)
        )
    bar = canvas.colorbar(dots, ax=axes, label="state n (0: initial), after n Euler steps")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        title="Trajectories in parameter space",
        xlabel=f"principal component 1 ({100 * explained[0]:.1f} % of the variance)",
        ylabel=f"principal component 2 ({100 * explained[1]:.1f} %)",
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    axes.legend(handles=legend, frameon=True, framealpha=0.9, handlelength=3)
    return root_of(canvas)


def _principal_components(states: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Coordinates (rows, 2) of each array (rows, size) in the joint first two components, and their shares."""
    rows = [len(value) for value in states]
    gram = np.zeros((sum(rows), sum(rows)))
    for first in range(0, states[0].shape[1], _BLOCK):
        block = np.concatenate([value[:, first : first + _BLOCK].astype(np.float64) for value in states])
        block -= block.mean(axis=0)
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[:-3:-1], 0.0), vectors[:, :-3:-1]
    total = np.trace(gram)
    if not total > 0:
        raise ValueError("the states must differ to have principal components, but all of them are equal.")
    points = vectors * np.sqrt(values)
    points *= np.where(points[np.abs(points).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    return np.split(points, np.cumsum(rows)[:-1]), values / total


def plot_kernels(
    kernels: Sequence[ArrayLike],
    filters: Sequence[int] | None = None,
    input_channel: int | None = None,
    *,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """Kernels along the depth: a filter (output channel) a row, a layer a column (v1 Eq. 13).

    One colour scale for all, symmetric about zero: zero is grey, positive weights are yellow and lighter, negative
    ones blue and darker, in this order in grey printing too.

    Args:
        kernels: HWIO arrays in network order, as `generate_kernels` returns.
        filters: output channels to show; the first eight that every layer has if not given. A layer without one of
            them leaves a gap.
        input_channel: the input channel to show; the mean over all input channels if not given. A layer without it
            leaves a gap.
        figure: where to draw; a new figure if not given.

    Returns:
        A figure of one image.

    Raises:
        ValueError: if there is no kernel or filter, a shape is not HWIO, a value is not finite, or no layer has a
            filter or the input channel that is asked for.

    Example:
        >>> import jax, puppet_jax as pj
        >>> from puppet_jax import plots
        >>> puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=8)
        >>> kernels = pj.generate_kernels(puppeteer, 4.0, [(3, 3, 3, 8), (3, 3, 8, 8)])
        >>> figure = plots.plot_kernels(kernels, filters=[0, 3])
    """
    weights = checked_kernels(kernels, "kernels")
    filters = range(min(8, *(w.shape[3] for w in weights), 8)) if filters is None else [int(f) for f in filters]
    if not len(filters):
        raise ValueError("filters must name at least one output channel, got none.")
    for what, indices, axis in (("filters", filters, 3), ("input_channel", [input_channel or 0], 2)):
        most = max(w.shape[axis] for w in weights)
        bad = [index for index in indices if not 0 <= index < most]
        if bad:
            raise ValueError(f"{what} must lie in [0, {most}), the channels of the widest layer, got {bad[0]}.")
    height, width = (max(w.shape[axis] for w in weights) for axis in (0, 1))
    gap = 1  # one weight's width between kernels, left white
    strip = np.full((len(filters) * (height + gap) - gap, len(weights) * (width + gap) - gap), np.nan)
    for column, w in enumerate(weights):
        if input_channel is not None and input_channel >= w.shape[2]:
            continue
        shown = w.mean(axis=2) if input_channel is None else w[:, :, input_channel]
        for row, index in enumerate(filters):
            if index < w.shape[3]:
                top = row * (height + gap) + (height - w.shape[0]) // 2
                left = column * (width + gap) + (width - w.shape[1]) // 2
                strip[top : top + w.shape[0], left : left + w.shape[1]] = shown[:, :, index]
    limit = np.nanmax(np.abs(strip)) or 1.0

    cell = min(6.6 / strip.shape[1], 0.14)  # inches a weight
    canvas = new_canvas(figure, max(1.0 + cell * strip.shape[0], 1.8))
    axes = canvas.subplots()
    image = axes.imshow(strip, cmap=COLORS, vmin=-limit, vmax=limit, interpolation="nearest")
    every = -(-len(weights) // 20)
    axes.set_xticks([n * (width + gap) + (width - 1) / 2 for n in range(0, len(weights), every)])
    axes.set_xticklabels([str(n) for n in range(0, len(weights), every)])
    axes.set_yticks([row * (height + gap) + (height - 1) / 2 for row in range(len(filters))])
    axes.set_yticklabels([str(index) for index in filters])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    over = "mean over input channels" if input_channel is None else f"input channel {input_channel}"
    axes.set(title=f"Kernels along the depth, {over}", xlabel="layer", ylabel="filter")
    color_bar(axes, image, "weight")
    return root_of(canvas)


def plot_layer_statistics(
    kernels_by_name: Mapping[str, Sequence[ArrayLike]], *, figure: Figure | SubFigure | None = None
) -> Figure:
    """Norm, effective rank and cosine with the layer before, layer by layer, of one or more sets of kernels.

    - Norm: the Frobenius norm, the root of the sum of squares.
    - Effective rank: exp(-sum p log p) with p = s / sum(s), s the singular values of the (c_out, c_in kh kw) matrix of
      the kernel; between 1 and min(c_out, c_in kh kw), n for n equal singular values.
    - Cosine: the product of all weights of neighbouring layers over that of their norms, where the two shapes agree;
      a gap elsewhere.

    A kernel of zeros has neither rank nor cosine: a gap.

    Args:
        kernels_by_name: name → HWIO arrays in network order. The numbers of layers may differ.
        figure: where to draw; a new figure if not given.

    Returns:
        A figure of three panels, a line for each name in each.

    Raises:
        ValueError: if there is no name or kernel, a shape is not HWIO, or a value is not finite.

    Example:
        >>> import numpy as np
        >>> from puppet_jax import plots
        >>> figure = plots.plot_layer_statistics({"identity": [np.eye(4).reshape(1, 1, 4, 4)]})
        >>> round(float(figure.axes[1].lines[0].get_ydata()[0]), 4)  # effective rank
        4.0

    References:
        Roy and Vetterli, The effective rank: a measure of effective dimensionality, 2007.
    """
    named = named_values(kernels_by_name, "kernels_by_name")
    sets = {str(name): checked_kernels(kernels, f"kernels_by_name[{name!r}]") for name, kernels in named.items()}
    panels: tuple[tuple[str, str, Callable[[Sequence[np.ndarray]], list[float]]], ...] = (
        ("Norm", "Frobenius norm", lambda ws: [float(np.linalg.norm(w)) for w in ws]),
        ("Effective rank", "dimensions", lambda ws: [_effective_rank(w) for w in ws]),
        ("Cosine with layer n − 1", "cosine", _cosines),
    )
    canvas = new_canvas(figure, 3.1)
    all_axes = canvas.subplots(1, len(panels))
    for axes, (title, unit, statistic) in zip(all_axes, panels, strict=True):
        drawn = [np.asarray(statistic(weights)) for weights in sets.values()]
        for i, (name, values) in enumerate(zip(sets, drawn, strict=True)):
            axes.plot(np.arange(len(values)), values, **series_style(i, len(sets)), label=name)
        known = np.concatenate([values[np.isfinite(values)] for values in drawn])
        low = min(0.0, known.min(initial=0.0))
        high = 1.0 if unit == "cosine" else known.max(initial=0.0) or 1.0
        margin = 0.06 * (high - low)
        axes.set_ylim(low - (margin if low else 0.0), high + margin)
        if not known.size:
            axes.text(0.5, 0.5, "nothing to compare", ha="center", color="0.3", transform=axes.transAxes)
        axes.set_xlim(-0.5, max(len(values) for values in drawn) - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        axes.set_title(title, fontsize=11)
        axes.set(xlabel="layer n", ylabel=unit)
        axes.grid(axis="y", color="0.9")
    handles, names = all_axes[0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False, handlelength=3)
    return root_of(canvas)


def _effective_rank(kernel: np.ndarray) -> float:
    s = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)
    if not s[0] > 0:
        return math.nan
    p = s[s > 0] / s.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def _cosines(kernels: Sequence[np.ndarray]) -> list[float]:
    result = [math.nan]
    for before, after in zip(kernels[:-1], kernels[1:], strict=True):
        norms = np.linalg.norm(before) * np.linalg.norm(after)
        known = before.shape == after.shape and norms > 0
        result.append(float(np.vdot(before, after) / norms) if known else math.nan)
    return result
