"""What the page says and shows: a `Look` as HTML with sentences, a table of classes, and figures with descriptions."""

import base64
import html
import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

import puppet_jax as pj
from experiments.explorer.look import Look, what_complexity_does
from puppet_jax import plots

SHOWN_CLASSES = 5
"""Classes in the table, the most probable first."""


def report_model(name: str, model: pj.PretrainedPuppet, seen: Look, image_h: float | None = None) -> str:
    """HTML: what a model makes of an image.

    Args:
        name: of the model.
        model: the model.
        seen: from `look`.
        image_h: the image's own complexity, nats, where another one stands in for it; else None.
    """
    return "\n".join(
        [
            f"<h3>{html.escape(name)}</h3>",
            f"<p class='depth'><b>Depth {seen.depth}</b>, layers {'-'.join(map(str, seen.layers))}</p>",
            f"<p>{describe_complexity(seen, image_h)} {what_complexity_does(model)}</p>",
            table_of_classes(model.class_names, seen.probabilities),
            f"<p>{describe_cost(seen)}</p>",
            picture(plots.plot_kernels(seen.kernels), f"Kernels of {len(seen.kernels)} layers, a column each."),
            picture(
                plots.plot_trajectories({seen.kernel_h: seen.states}),
                f"The trajectory of {len(seen.states)} states in its first two principal components.",
            ),
        ]
    )


def report_image(image: np.ndarray) -> str:
    """HTML: the image (height, width, channels) uint8 as a model sees it, and what its complexity is made of."""
    height, width, channels = image.shape
    alt = "The image, its log spectrum, and the histograms of both with their entropies."
    return f"<h3>The image, as {height} × {width} × {channels} values</h3>\n" + picture(
        plots.plot_complexity(image), alt
    )


def describe_complexity(seen: Look, image_h: float | None) -> str:
    """Sentences from complexity to step and level."""
    source = "the slider's" if image_h is not None else "the image's own"
    own = "" if image_h is None else f"; the image has {image_h:.3f}"
    calibration = "" if math.isclose(seen.h, seen.calibrated) else f", in this model's scale {seen.calibrated:.3f}"
    return (
        f"Complexity H = {seen.h:.3f} nats ({source}{own}){calibration}. Kernels are generated at "
        f"{seen.kernel_h:.3f}: step dl = tanh(1 / {seen.kernel_h:.3f}) = {seen.dl:.4f}."
    )


def describe_cost(seen: Look) -> str:
    """Sentences on weights and multiply-accumulates."""
    weights = sum(math.prod(kernel.shape) for kernel in seen.kernels)
    return (
        f"{len(seen.kernels)} kernels of {weights:,} weights in all. {seen.puppet_macs / 1e6:,.1f} million "
        f"multiply-accumulates for the image; {seen.kernel_macs / 1e6:,.1f} million, once, for the kernels."
    )


def table_of_classes(names: Sequence[str], probabilities: np.ndarray) -> str:
    """A table of the most probable classes; a bar's length says what its number says."""
    rows = [
        f"<tr><td>{html.escape(names[n])}</td><td>{probabilities[n]:.1%}</td>"
        f"<td style='width: 60%'><meter min='0' max='1' value='{probabilities[n]:.4f}' style='width: 100%'></meter>"
        "</td></tr>"
        for n in np.argsort(-probabilities, kind="stable")[:SHOWN_CLASSES]
    ]
    return f"<table style='width: 100%'><tr><th>class</th><th>probability</th><th></th></tr>{''.join(rows)}</table>"


def report_error(message: str) -> str:
    """HTML: why there is no answer."""
    return f"<p role='alert'><b>{html.escape(message)}</b></p>"


def picture(figure: Figure, alt: str) -> str:
    """A figure as an image that is part of the page, with a description for those who do not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{html.escape(alt)}' style='width: 100%' src='data:image/png;base64,{data}'>"
