"""Classifies image files with a trained model, and says how complex each is and how deep its puppet.

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
from experiments.errors import DataError


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
    from experiments import run_folder
    from experiments.model_file import load_model
    from experiments.run import use_compilation_cache

    paths = command.paths if command.pretrained else command.paths[1:]
    if not paths:
        after = "--pretrained" if command.pretrained else "the folder of a run"
        raise DataError(f"no image was named; give at least one file after {after}.")
    use_compilation_cache()
    if command.pretrained:
        model = load_model(packaged(command.model))
    else:
        run_folder.read_config(command.paths[0])
        model = load_model(command.paths[0] / run_folder.MODEL)
    images = np.stack([read_image(path, model.network.image_shape) for path in paths])
    predictor = model.predictor()
    h = pj.complexities(images, model.complexity)
    logits, depths = predictor.route(images, h)
    for path, level, depth, row in zip(paths, h, depths, np.asarray(jax.nn.softmax(logits)), strict=True):
        best = int(row.argmax())
        why = f"complexity {level:.3f} nats, " if model.threshold is None else ""
        print(f"{path}: {model.class_names[best]} ({row[best]:.1%}), {why}depth {depth}")


def packaged(name: str | None) -> Path:
    """The file of a model in the package.

    Raises:
        DataError: if there is no model of that name.
    """
    import puppet_jax as pj

    if name is None:
        return pj.pretrained_file()
    if name not in pj.pretrained_models():
        raise DataError(f"--model must be one of {', '.join(pj.pretrained_models())}, got {name!r}.")
    return pj.pretrained_file(name)


def read_image(path: Path, shape: tuple[int, int, int]):
    """An image file as uint8 of `shape` = (height, width, channels), resized.

    Raises:
        DataError: if it cannot be read, or its values are not 8-bit or floating in [0, 1].
    """
    import numpy as np
    from PIL import Image

    if not path.is_file():
        raise DataError(f"{path} does not exist or is no file.")
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:  # not np.load, which takes archives of arrays too
                array = np.lib.format.read_array(file, allow_pickle=False)
            picture = Image.fromarray(_as_8_bit(path, array))
        else:
            with Image.open(path) as file:
                picture = file.copy()
            if picture.mode.startswith(("I", "F")):
                raise DataError(f"{path} holds {picture.mode} pixels; convert it to 8 bits, or pass a .npy file.")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is damaged or no image ({error}).") from None
    height, width, channels = shape
    picture = picture.convert("RGB" if channels == 3 else "L")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(shape)


def _as_8_bit(path: Path, array):
    import numpy as np

    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or 0 in array.shape:
        raise DataError(f"{path} has shape {array.shape}; an image is (height, width) or (height, width, 1 or 3).")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path} has dtype {array.dtype}; an image is uint8, or floating in [0, 1].")
    bad = ~((array >= 0) & (array <= 1))
    if bad.any():
        raise DataError(f"{path} holds {array[bad][0]}; floating images must lie in [0, 1] and hold no NaN.")
    return np.round(255 * array.astype(np.float64)).astype(np.uint8)


if __name__ == "__main__":
    raise SystemExit(run_command(Command, predict, "experiments.predict", __doc__))
