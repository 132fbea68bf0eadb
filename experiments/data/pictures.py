"""Single image files, as a model takes them."""

from pathlib import Path

import numpy as np
from PIL import Image

from experiments.errors import DataError


def read_image(path: Path, shape: tuple[int, int, int]):
    """An image file as uint8 of `shape` = (height, width, channels), resized.

    Raises:
        DataError: if it cannot be read, or its values are not 8-bit or floating in [0, 1].
    """
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
