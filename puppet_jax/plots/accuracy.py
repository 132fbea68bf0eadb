"""Pictures of accuracy against what it costs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from puppet_jax.plots.canvas import finite_array, named_values, new_canvas, root_of, series_style

Numbers = ArrayLike | Sequence[float]


def plot_accuracy_compute(
    series: Mapping[str, tuple[Numbers, Numbers]], *, figure: Figure | SubFigure | None = None
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
    series: Mapping[str, tuple[Numbers, Numbers]], *, figure: Figure | SubFigure | None = None
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
    for name, pair in named_values(series, "series").items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"series[{name!r}] must be a pair ({what}, accuracy), got {pair!r}.")
        cost, accuracy = (
            finite_array(np.atleast_1d(np.asarray(values)), f"the {part} of {name!r}", "(points,)", 1).astype(
                np.float64
            )
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
    canvas = new_canvas(figure, 3.8)
    axes = canvas.subplots()
    for i, (name, (cost, accuracy)) in enumerate(points.items()):
        axes.plot(cost, 100 * accuracy, **series_style(i, len(points)), label=name)
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
    return root_of(canvas)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or the powers alone over more than three decades, that enclose [low, high]."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    factors = (1, 2, 5) if high / low <= 1e3 else (1,)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    first = max(i for i, tick in enumerate(ticks) if tick <= low)
    last = min(i for i, tick in enumerate(ticks) if tick >= high)
    return ticks[first : last + 1] if first < last else ticks[first - 1 : last + 2]
