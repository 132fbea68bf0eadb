"""Classifies image files with a trained model, and says how complex each is and how deep the network it ran through.

    python -m experiments.predict RUN IMAGE...
    python -m experiments.predict --pretrained [--model NAME] IMAGE...

The model is that of a run's folder, or one that comes with the package and needs neither data nor a network.

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

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folder of a run, then image files; with --pretrained image files alone."""
    pretrained: tyro.conf.FlagCreatePairsOff[bool] = False
    """Use a model that comes with the package."""
    model: str | None = None
    """Which one, by name; the package's default if not given."""

    def __post_init__(self):
        """Refuses a name that nothing is done with."""
        if self.model is not None and not self.pretrained:
            raise ValueError(f"--model names a model of the package; give --pretrained too, got --model {self.model}.")


def predict(command: Command) -> None:
    """Carries out the command."""
    import jax
    import numpy as np

    import puppet_jax as pj
    from experiments.data.pictures import read_image
    from experiments.devices import start_jax
    from experiments.errors import DataError
    from experiments.model import load_model
    from experiments.runs import folder as run_folder
    from puppet_jax.pretrained import pretrained_file

    paths = command.paths if command.pretrained else command.paths[1:]
    if not paths:
        after = "--pretrained" if command.pretrained else "the folder of a run"
        raise DataError(f"no image was named; give at least one file after {after}.")
    if command.model is not None and command.model not in pj.pretrained_models():
        raise DataError(f"--model must be one of {', '.join(pj.pretrained_models())}, got {command.model!r}.")
    start_jax()
    if command.pretrained:
        model = load_model(pretrained_file() if command.model is None else pretrained_file(command.model))
    else:
        run_folder.read_config(command.paths[0])
        model = load_model(command.paths[0] / run_folder.MODEL)
    images, readable, errors = [], [], []
    for path in paths:
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
