"""Classifies image files with a trained model, and says how complex each is and how deep the network it ran through.

    python -m experiments.predict RUN IMAGE...

RUN is the folder of a run, a model file, or the name of a model that comes with the package, such as cifar10-full.

An image is a file that Pillow reads, or an array in a .npy file: (height, width) or (height, width, channels), uint8
or floating in [0, 1]. It is resized to the size of the images that the run was trained on.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.cli import main, printable, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.predict`."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, a model file, or the name of a model of the package."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Image files."""


def predict(command: Command) -> None:
    """Carries out the command."""
    import jax
    import numpy as np

    import puppet_jax as pj
    from experiments.data.pictures import read_image
    from experiments.devices import start_jax
    from experiments.errors import DataError
    from experiments.model import load_model
    from experiments.runs.puppet import find_model

    if not command.images:
        raise DataError(f"no image was named; give at least one file after the model, {command.run}.")
    start_jax()
    model = load_model(find_model(command.run))
    images, readable, errors = [], [], []
    for path in command.images:
        try:
            images.append(read_image(path, model.network.image_shape))
            readable.append(path)
        except DataError as error:
            errors.append(str(error))
    if readable:
        batch = np.stack(images)
        logits, depths = model.predictor().route(batch)
        probabilities = np.asarray(jax.nn.softmax(logits))
        reason = _reason(model)
        for path, h, depth, row in zip(readable, pj.complexities(batch), depths, probabilities, strict=True):
            best = int(row.argmax())
            answer = f"{model.class_names[best]} ({row[best]:.1%}), complexity {h:.3f} nats, depth {depth} ({reason})"
            print(printable(f"{path}: {answer}"))
    if errors:
        raise DataError("\n".join(map(printable, errors)))


def _reason(model: Any) -> str:
    """Why an image runs through as many layers as it does."""
    if model.threshold is not None:
        return "by confidence"
    return "the same for all images" if len(model.batch_stats) == 1 else "by complexity"


if __name__ == "__main__":
    main(run_command, Command, predict, "experiments.predict", __doc__)
