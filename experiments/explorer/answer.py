"""What the page shows of a file: an answer of each model, or a sentence on what is wrong."""

import functools
from collections.abc import Sequence
from pathlib import Path

import puppet_jax as pj
from experiments.errors import ExperimentError
from experiments.explorer.images import read_upload
from experiments.explorer.look import look
from experiments.explorer.report import report_error, report_image, report_model
from experiments.runs.puppet import open_puppet

NOTHING_YET = "<p>Drop an image, or choose an example.</p>"


@functools.lru_cache(maxsize=8)
def opened(name: str) -> tuple[pj.PretrainedPuppet, pj.Predictor]:
    """A model and its predictor, named as in `open_puppet`; the last few are kept, and with them their kernels."""
    model = open_puppet(name)
    return model, model.predictor()


def answer(file: str | None, h: float | None, names: Sequence[str]) -> tuple[float | None, str, list[str]]:
    """What the page shows of an image.

    Args:
        file: path of the image; None if there is none yet.
        h: complexity (nats) that stands in for the image's own, or None.
        names: of one model or several, as `open_puppet` takes them.

    Returns:
        The image's own complexity (None without an answer), HTML about the image, or about what is wrong, and HTML of
        each model.
    """
    blank = ["" for _ in names]
    if file is None:
        return None, NOTHING_YET, blank
    try:
        own, about, reports = None, "", []
        for name in names:
            model, predictor = opened(name)
            image = read_upload(Path(file), model.image_shape)
            own_here = float(pj.complexities(image[None])[0])
            if own is None:
                own, about = own_here, report_image(image)
            reports.append(report_model(name, model, look(model, predictor, image, h), None if h is None else own_here))
        return own, about, reports
    except (ExperimentError, ValueError, FloatingPointError) as error:
        return None, report_error(str(error)), blank
