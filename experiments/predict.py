"""Classifies image files with a trained model, and says how complex each is and how deep the network it ran through.

    python -m experiments.predict RUN IMAGE...
    python -m experiments.predict --pretrained [--model NAME] IMAGE...

The model is that of a run's folder, or one that comes with the package and needs neither data nor a network.

An image is a file that Pillow reads, or an array in a .npy file: (height, width) or (height, width, channels), uint8
or floating in [0, 1]. It is resized to the size of the images that the run was trained on.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli import run_command


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
    from experiments.devices import use_compilation_cache
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
    use_compilation_cache()
    if command.pretrained:
        model = load_model(pretrained_file() if command.model is None else pretrained_file(command.model))
    else:
        run_folder.read_config(command.paths[0])
        model = load_model(command.paths[0] / run_folder.MODEL)
    images = np.stack([read_image(path, model.network.image_shape) for path in paths])
    own = pj.complexities(images)
    logits, depths = model.predictor().route(images)
    if model.network.exit_fraction is not None or model.threshold is not None:
        reason = "by confidence"
    elif len(model.batch_stats) == 1:
        reason = "the same for all images"
    else:
        reason = "by complexity"
    for path, h, depth, row in zip(paths, own, depths, np.asarray(jax.nn.softmax(logits)), strict=True):
        best = int(row.argmax())
        print(f"{path}: {model.class_names[best]} ({row[best]:.1%}), complexity {h:.3f} nats, depth {depth} ({reason})")


if __name__ == "__main__":
    raise SystemExit(run_command(Command, predict, "experiments.predict", __doc__))
