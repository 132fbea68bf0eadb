"""Pictures of complexity, depth, trajectories and kernels. Needs matplotlib: `pip install "puppet-jax[plots]"`.

Not imported by `import puppet_jax`; say `from puppet_jax import plots`. A function takes arrays (NumPy or JAX, of any
real dtype, bfloat16 too) and returns a figure that nothing else refers to, made without pyplot: show it as the value
of a notebook cell (after `%matplotlib inline`), keep it with `figure.savefig("name.png")`. With `figure=` it draws
into the figure or subfigure that is given, so that pictures can be composed, and returns the figure that holds it.
Colours are cividis, whose lightness is monotone: pictures survive grey printing and colour blindness, and series
differ by marker and line style as well.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullLocator

from puppet_jax.complexity import _BINS, _entropy, _spectrum_bins, _to_8_bit

_COLORS = matplotlib.colormaps["cividis"]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
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
        A figure: a line for each H, a point for each state, coloured by its place n; layer n - 1 reads state n. The
        axes say how many percent of the variance their component explains.

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
    named = _named(states_by_h, "states_by_h")
    states = [_finite(value, f"states_by_h[{key!r}]", "(N + 1, C, C, K**2)", 4) for key, value in named.items()]
    for key, value in zip(named, states, strict=True):
        if len(value) < 2 or value.shape[1] != value.shape[2] or value.shape[1:] != states[0].shape[1:]:
            raise ValueError(
                "trajectories must have shape (N + 1, C, C, K**2), N at least 1, with the same C and K, got "
                f"{value.shape} for {key!r} and {states[0].shape} for {next(iter(named))!r}. Pass what pj.trajectory "
                "returns for one puppeteer."
            )
    points, explained = _principal_components([value.reshape(len(value), -1) for value in states])

    canvas = _canvas(figure, 4.2)
    axes = canvas.subplots()
    last = max(map(len, states)) - 1
    legend = []
    for i, (key, xy) in enumerate(zip(named, points, strict=True)):
        line: dict[str, Any] = {"linestyle": _STYLES[i % len(_STYLES)], "color": "0.45", "linewidth": 1.2}
        marker = _MARKERS[i % len(_MARKERS)]
        x, y = xy.T
        axes.plot(x, y, **line, zorder=1)
        dots = axes.scatter(
            x, y, c=np.arange(len(xy)), cmap=_COLORS, vmin=0, vmax=last, marker=marker, s=42, edgecolors="0.2", lw=0.5
        )
        label = key if isinstance(key, str) else f"H = {key:.3g} nats"
        legend.append(
            Line2D([], [], **line, marker=marker, markerfacecolor="white", markeredgecolor="0.2", label=label)
        )
    bar = canvas.colorbar(dots, ax=axes, label="state n (0: initial; layer n − 1 reads state n)")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        title="Trajectories in parameter space",
        xlabel=f"principal component 1 ({100 * explained[0]:.1f} % of the variance)",
        ylabel=f"principal component 2 ({100 * explained[1]:.1f} %)",
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    axes.legend(handles=legend, frameon=True, framealpha=0.9, handlelength=3)
    return _root(canvas)


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
    weights = _kernels(kernels, "kernels")
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
    canvas = _canvas(figure, max(1.0 + cell * strip.shape[0], 1.8))
    axes = canvas.subplots()
    image = axes.imshow(strip, cmap=_COLORS, vmin=-limit, vmax=limit, interpolation="nearest")
    every = -(-len(weights) // 20)
    axes.set_xticks([n * (width + gap) + (width - 1) / 2 for n in range(0, len(weights), every)])
    axes.set_xticklabels([str(n) for n in range(0, len(weights), every)])
    axes.set_yticks([row * (height + gap) + (height - 1) / 2 for row in range(len(filters))])
    axes.set_yticklabels([str(index) for index in filters])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    over = "mean over input channels" if input_channel is None else f"input channel {input_channel}"
    axes.set(title=f"Kernels along the depth, {over}", xlabel="layer", ylabel="filter")
    _color_bar(axes, image, "weight")
    return _root(canvas)


def plot_layer_statistics(
    kernels_by_name: Mapping[str, Sequence[ArrayLike]], *, figure: Figure | SubFigure | None = None
) -> Figure:
    """Norm, effective rank and cosine with the layer before, layer by layer, of one or more sets of kernels.

    - Norm: the Frobenius norm, the root of the sum of squares.
    - Effective rank: exp(-sum p log p) with p = s / sum(s), s the singular values of the (c_out, c_in kh kw) matrix of
      the kernel; between 1 and min(c_out, c_in kh kw), n for n equal singular values.
    - Cosine: <w_n, w_{n-1}> / (|w_n| |w_{n-1}|) of all weights, where the two shapes agree; a gap elsewhere.

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
    named = _named(kernels_by_name, "kernels_by_name")
    sets = {str(name): _kernels(kernels, f"kernels_by_name[{name!r}]") for name, kernels in named.items()}
    panels: tuple[tuple[str, str, Callable[[Sequence[np.ndarray]], list[float]]], ...] = (
        ("Norm", "Frobenius norm", lambda ws: [float(np.linalg.norm(w)) for w in ws]),
        ("Effective rank", "dimensions", lambda ws: [_effective_rank(w) for w in ws]),
        ("Cosine with layer n − 1", "cosine", _cosines),
    )
    canvas = _canvas(figure, 3.1)
    all_axes = canvas.subplots(1, len(panels))
    for axes, (title, unit, statistic) in zip(all_axes, panels, strict=True):
        drawn = [np.asarray(statistic(weights)) for weights in sets.values()]
        for i, (name, values) in enumerate(zip(sets, drawn, strict=True)):
            axes.plot(np.arange(len(values)), values, **_series(i, len(sets)), label=name)
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
    return _root(canvas)


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


def plot_depths(
    images: ArrayLike,
    h: ArrayLike,
    depths: ArrayLike,
    num_examples: int = 10,
    *,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """How many images have which complexity and depth (v1 Eqs. 9 and 10), and examples from shallowest to deepest.

    Args:
        images: (B, H, W, C), one or three channels; uint8, or floating in [0, 1].
        h: (B,) complexities, nats.
        depths: (B,) depths, integers at least 1.
        num_examples: images shown, evenly spaced in rank of complexity; at most B of them.
        figure: where to draw; a new figure if not given.

    Returns:
        A figure: a histogram of 60 bins, stacked by depth, above a strip of images.

    Raises:
        ValueError: if a shape, a dtype or a value is wrong, or the numbers of images, `h` and `depths` differ.

    Example:
        >>> import numpy as np, puppet_jax as pj
        >>> from puppet_jax import plots
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
        >>> h = pj.complexity(images)
        >>> figure = plots.plot_depths(images, h, pj.depth(h))
    """
    pixels = _images(images, "images", "(B, H, W, C)", 4)
    h = _finite(h, "h", "(B,)", 1).astype(np.float64)
    depths = np.asarray(depths)
    if not (len(pixels) == len(h) == len(depths)) or depths.ndim != 1:
        raise ValueError(
            f"images, h and depths must have one entry each per image, got shapes {pixels.shape}, {h.shape} and "
            f"{depths.shape}."
        )
    if depths.dtype.kind not in "iu" or depths.min() < 1:
        raise ValueError(
            f"depths must be integers of at least 1, got dtype {depths.dtype}, least value {depths.min()}. Pass "
            "pj.depth(h)."
        )
    if num_examples < 1:
        raise ValueError(f"num_examples must be at least 1, got {num_examples}.")
    num_examples = min(num_examples, len(h))

    canvas = _canvas(figure, 4.2)
    grid = canvas.add_gridspec(2, num_examples, height_ratios=[2.4, 1])
    axes = canvas.add_subplot(grid[0, :])
    edges = np.linspace(h.min(), max(h.max(), h.min() + 1e-3), 61)
    values = np.unique(depths).tolist()
    groups = [h[depths == depth] for depth in values]
    labels = [f"depth {depth}: {len(group)} of {len(h)}" for depth, group in zip(values, groups, strict=True)]
    colors = [_COLORS(x) for x in np.linspace(0.92, 0.05, len(values))]
    axes.hist(groups, edges.tolist(), stacked=True, color=colors, label=labels, edgecolor="white", linewidth=0.3)
    axes.set(title="Complexity and depth", xlabel="complexity H (nats)", ylabel="images")
    # Beside the bars, not on them.
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3)
    chosen = np.argsort(h, kind="stable")[np.linspace(0, len(h) - 1, num_examples).round().astype(int)]
    for column, i in enumerate(chosen):
        axes = canvas.add_subplot(grid[1, column])
        _show_image(axes, pixels[i])
        axes.set_title(f"H {h[i]:.2f}\ndepth {depths[i]}", fontsize=9)
    return _root(canvas)


def plot_complexity(image: ArrayLike, *, figure: Figure | SubFigure | None = None) -> Figure:
    """What the complexity of an image is made of (v1 Eqs. 8 and 9).

    The two histograms are those whose entropies `complexity` averages: H = E(X) / 2 + E(Y) / 2.

    Args:
        image: (H, W, C), one or three channels; uint8, or floating in [0, 1], which counts as `round(255 x)`.
        figure: where to draw; a new figure if not given.

    Returns:
        A figure: the image, the histogram of its 8-bit values, its log spectrum Y (mean over channels, zero frequency
        in the centre), the histogram of Y over all channels; E(X), E(Y) and H in the titles.

    Raises:
        ValueError: if the shape or dtype is wrong, or a floating pixel is NaN or outside [0, 1].

    Example:
        >>> import numpy as np
        >>> from puppet_jax import plots
        >>> figure = plots.plot_complexity(np.eye(8)[..., None])
    """
    shown = _images(image, "image", "(H, W, C)", 3)
    pixels = _to_8_bit(np.asarray(image)[None])[0]
    spectrum = _spectrum_bins(pixels)
    parts = [float(_entropy(bins)[0]) for bins in (pixels, spectrum)]

    canvas = _canvas(figure, 4.6)
    ((top_left, top_right), (bottom_left, bottom_right)) = canvas.subplots(2, 2, width_ratios=[1, 2.2])
    canvas.suptitle(f"Complexity H = ½ E(X) + ½ E(Y) = {0.5 * sum(parts):.3f} nats")
    _show_image(top_left, shown)
    top_left.set_title("image X", fontsize=11)
    spectrum_map = np.fft.fftshift(np.asarray(spectrum[0]).mean(axis=-1))
    drawn = bottom_left.imshow(spectrum_map, cmap=_COLORS, vmin=0, vmax=_BINS - 1, interpolation="nearest")
    bottom_left.set(xticks=[], yticks=[], xlabel="horizontal frequency", ylabel="vertical frequency")
    bottom_left.set_title("log spectrum Y", fontsize=11)
    _color_bar(bottom_left, drawn, "bin")
    for axes, bins, part, name, label in (
        (top_right, pixels, parts[0], "X", "8-bit value"),
        (bottom_right, spectrum, parts[1], "Y", f"log magnitude, its range cut into {_BINS} bins"),
    ):
        counts = np.bincount(np.asarray(bins).ravel(), minlength=_BINS)
        axes.stairs(counts, np.arange(_BINS + 1) - 0.5, fill=True, color=_COLORS(0.15))
        axes.set_title(f"histogram of {name}: E({name}) = {part:.3f} nats", fontsize=11)
        axes.set(xlabel=label, ylabel="count", xlim=(-4, _BINS + 3), xticks=[0, 64, 128, 192, 255])
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return _root(canvas)


def plot_accuracy_compute(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]], *, figure: Figure | SubFigure | None = None
) -> Figure:
    """Accuracy against multiply-accumulates an image, a logarithmic axis.

    Args:
        series: name → (multiply-accumulates an image, accuracy), two numbers or two (points,) arrays; accuracy as a
            fraction. Points are joined in the order given.
        figure: where to draw; a new figure if not given.

    Returns:
        A figure: a line with markers for each name.

    Raises:
        ValueError: if there is no series or point, the two arrays of a series differ in length, multiply-accumulates
            are not positive, or accuracies lie outside [0, 1].

    Example:
        >>> from puppet_jax import plots
        >>> figure = plots.plot_accuracy_compute({"puppet": ([20e6, 28e6], [0.60, 0.62]), "free": (3e7, 0.63)})
    """
    points = _cost_and_accuracy(series, "multiply-accumulates")
    label = "multiply-accumulates an image (k, M, G: 10³, 10⁶, 10⁹)"
    return _plot_accuracy(points, "Accuracy against compute", label, figure)


def plot_accuracy_bytes(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]], *, figure: Figure | SubFigure | None = None
) -> Figure:
    """Accuracy against stored bytes, a logarithmic axis.

    Args:
        series: name → (bytes, accuracy), two numbers or two (points,) arrays, such as one network stored in 32, 8 and 4
            bits a weight; accuracy as a fraction. Points are joined in the order given.
        figure: where to draw; a new figure if not given.

    Returns:
        A figure: a line with markers for each name.

    Raises:
        ValueError: if there is no series or point, the two arrays of a series differ in length, bytes are not positive,
            or accuracies lie outside [0, 1].

    Example:
        >>> from puppet_jax import plots
        >>> figure = plots.plot_accuracy_bytes({"puppet": ([4e3, 2e4], [0.60, 0.62]), "free": (1e6, 0.63)})
    """
    label = "stored bytes (k, M: 10³, 10⁶)"
    return _plot_accuracy(_cost_and_accuracy(series, "bytes"), "Accuracy against stored bytes", label, figure)


def _cost_and_accuracy(series: Mapping[str, Any], what: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Checked pairs of float64 arrays, `what` and accuracies."""
    points = {}
    for name, pair in _named(series, "series").items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"series[{name!r}] must be a pair ({what}, accuracy), got {pair!r}.")
        cost, accuracy = (
            _finite(np.atleast_1d(np.asarray(values)), f"the {part} of {name!r}", "(points,)", 1).astype(np.float64)
            for values, part in zip(pair, (what, "accuracies"), strict=True)
        )
        if len(cost) != len(accuracy):
            raise ValueError(f"series[{name!r}] must pair its values, got {len(cost)} and {len(accuracy)} of them.")
        if cost.min() <= 0:
            raise ValueError(f"the {what} of {name!r} must be positive, got {cost.min()}.")
        if accuracy.min() < 0 or accuracy.max() > 1:
            bad = accuracy[(accuracy < 0) | (accuracy > 1)][0]
            raise ValueError(
                f"the accuracies of {name!r} must be fractions in [0, 1], got {bad}; divide percents by 100."
            )
        points[str(name)] = (cost, accuracy)
    return points


def _plot_accuracy(
    points: dict[str, tuple[np.ndarray, np.ndarray]], title: str, label: str, figure: Figure | SubFigure | None
) -> Figure:
    canvas = _canvas(figure, 3.8)
    axes = canvas.subplots()
    for i, (name, (cost, accuracy)) in enumerate(points.items()):
        axes.plot(cost, 100 * accuracy, **_series(i, len(points)), label=name)
    everything = np.concatenate([cost for cost, _ in points.values()])
    axes.set_xscale("log")
    ticks = _log_ticks(everything.min(), everything.max())
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set(title=title, xlabel=label, ylabel="top-1 accuracy (%)")
    axes.margins(y=0.1)
    axes.grid(color="0.9")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3, handlelength=3)
    return _root(canvas)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or the powers alone over more than three decades, that enclose [low, high]."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    factors = (1, 2, 5) if high / low <= 1e3 else (1,)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    first = max(i for i, tick in enumerate(ticks) if tick <= low)
    last = min(i for i, tick in enumerate(ticks) if tick >= high)
    return ticks[first : last + 1] if first < last else ticks[first - 1 : last + 2]


def _canvas(figure: Figure | SubFigure | None, height: float) -> Figure | SubFigure:
    """A figure 8 inches wide, 1,200 pixels: text of 10 points is 14 pixels high where it is shown at 800."""
    return Figure(figsize=(8.0, height), dpi=150, layout="constrained") if figure is None else figure


def _root(canvas: Figure | SubFigure) -> Figure:
    root = canvas.figure
    assert isinstance(root, Figure)
    return root


def _color_bar(axes: Axes, image: AxesImage, label: str) -> None:
    """A colour bar as high as the image beside it, which a bar of its own axes is not."""
    axes.figure.colorbar(image, cax=axes.inset_axes((1.03, 0.0, 0.035, 1.0)), label=label)


def _series(index: int, count: int) -> dict[str, Any]:
    """Colour, marker and line style of one of `count` series."""
    return {
        "color": _COLORS(0.1 if count == 1 else 0.02 + 0.75 * index / (count - 1)),
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _STYLES[index % len(_STYLES)],
        "markersize": 5.5,
        "linewidth": 1.5,
    }


def _show_image(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _named(values: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"{name} must be a mapping of at least one entry, got {type(values).__name__} {values!r:.80}.")
    return values


def _finite(value: ArrayLike, name: str, shape: str, ndim: int) -> np.ndarray:
    """`value` as a NumPy array of a real dtype, not empty, of `ndim` axes, all finite."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}.")
    if array.ndim != ndim or not array.size:
        raise ValueError(f"{name} must have shape {shape} and not be empty, got shape {array.shape}.")
    if array.dtype.kind not in "iuf":
        array = array.astype(np.float32)
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} must be finite, got {array[where]} at index {where} ({int(bad.sum())} of {array.size} values are "
            "bad). Look for the step at which training or the trajectory diverged."
        )
    return array


def _kernels(kernels: Sequence[ArrayLike], name: str) -> list[np.ndarray]:
    arrays = [_finite(kernel, f"{name}[{n}]", "(kh, kw, c_in, c_out)", 4) for n, kernel in enumerate(kernels)]
    if not arrays:
        raise ValueError(f"{name} must hold at least one kernel, got none.")
    return [array.astype(np.float64) for array in arrays]


def _images(images: ArrayLike, name: str, shape: str, ndim: int) -> np.ndarray:
    """Images as float32 in [0, 1]."""
    array = _finite(images, name, shape, ndim)
    if array.shape[-1] not in (1, 3):
        raise ValueError(f"{name} must have 1 or 3 channels, got shape {array.shape}. A grey one needs [..., None].")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if array.dtype.kind != "f" or array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"{name} must be uint8, or floating in [0, 1], got dtype {array.dtype} with values in "
            f"[{array.min()}, {array.max()}]. For 8-bit values pass dtype uint8."
        )
    return array.astype(np.float32)
