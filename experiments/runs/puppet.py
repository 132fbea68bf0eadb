"""A trained puppet: by the name of a shipped model, the path of a model file, or the folder of a run."""

from pathlib import Path

import numpy as np

import puppet_jax as pj
from experiments.data import Dataset
from experiments.errors import RunError, UsageError
from experiments.model import Model
from experiments.runs import folder as run_folder
from puppet_jax.pretrained import pretrained_file
from puppet_jax.routing import make_groups


def find_model(named: str) -> Path:
    """The model file of a trained puppet.

    Args:
        named: a name among `pj.pretrained_models()`, or the path of a model file or of a run's folder.

    Raises:
        RunError: if it is a folder without a readable run.
        UsageError: if there is nothing of that name.
    """
    if named not in pj.pretrained_models() and Path(named).is_dir():
        run_folder.read_config(Path(named))
        return Path(named) / run_folder.MODEL
    try:
        return pretrained_file(named)
    except FileNotFoundError:
        models = ", ".join(pj.pretrained_models())
        raise UsageError(
            f"{named} is neither the folder of a run, nor a model file, nor a model of the package ({models})."
        ) from None


def check_data(named: str, model: pj.PretrainedPuppet | Model, dataset: Dataset, advice: str) -> None:
    """Raises a RunError unless a data set has the classes that a model knows, and images of its size."""
    shape = model.image_shape if isinstance(model, pj.PretrainedPuppet) else model.network.image_shape
    if (tuple(dataset.class_names), dataset.test_images.shape[1:]) != (tuple(model.class_names), tuple(shape)):
        raise RunError(
            f"{dataset.source} has other classes, or images of another size, than {named} was trained on, which knows "
            f"the classes {', '.join(model.class_names):.80} at {tuple(shape)}; {advice}."
        )


def open_puppet(named: str) -> pj.PretrainedPuppet:
    """Reads a trained puppet, named as in `find_model`.

    Raises:
        RunError: if it is a folder without a readable run.
        UsageError: if there is nothing of that name, it is damaged, or holds another kind of network.
    """
    try:
        return pj.load_pretrained(find_model(named))
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from None


def bucket_of(model: pj.PretrainedPuppet | Model, h: float) -> tuple[int, float]:
    """The depth that an image runs through, and the complexity (nats) that its kernels are generated at.

    Args:
        model: a trained puppet.
        h: complexity of the image by the model's own measure, nats.
    """
    num_levels = model.num_levels if model.adaptation == "level" else None
    (group,) = make_groups(np.array([h], np.float32), sorted(model.batch_stats), num_levels)
    return group.depth, float(np.clip(h, *pj.depth_interval(group.depth))) if group.h is None else group.h


def calibrate_number(measure: pj.CalibratedComplexity, h: float) -> float:
    """What a model's own measure makes of an image of complexity `h` (nats)."""
    if not (np.isfinite(h) and h >= 0):
        raise ValueError(f"a complexity must be finite and at least 0 nats, got {h}.")
    return float(np.clip(measure.scale * h + measure.offset, measure.low, measure.high))
