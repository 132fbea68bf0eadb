"""Single image files, as a model takes them."""

import math
from pathlib import Path

import numpy as np

from experiments.errors import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is opened, whatever a file is called; others, such as EPS, would start other programs."""
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""How files of these formats are called."""


def decode(path: Path, channels: int) -> np.ndarray:
    """An image file as a viewer shows it: uint8 (height, width, channels), its orientation tag heeded.

    Args:
        path: of a file in one of `FORMATS`.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: if it cannot be read, or has more than 8 bits a channel.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DataError("reading images needs Pillow; run `pip install pillow`.") from error
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path} has more than 8 bits a channel (mode {image.mode}); convert it.")
            upright = ImageOps.exif_transpose(image)
            if "transparency" in image.info:  # Pillow warns about palettes with it unless told to keep it
                upright = upright.convert("RGBA")
            picture = upright.convert("RGB" if channels == 3 else "L")
        return np.asarray(picture).reshape(*picture.size[::-1], channels)
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever they like
        raise DataError(f"{path} is damaged or no image that is read here ({error}); replace or remove it.") from None


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """An image file, or an array in a .npy file, as uint8 of `shape` = (height, width, channels), resized.

    Raises:
        DataError: if it cannot be read, or its values are not 8-bit or floating in [0, 1].
    """
    from PIL import Image

    if not path.is_file():
        raise DataError(f"{path} does not exist or is no file.")
    height, width, channels = shape
    array = _read_array(path) if path.suffix == ".npy" else decode(path, channels)
    picture = Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)
    picture = picture.convert("RGB" if channels == 3 else "L")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(shape)


def _read_array(path: Path) -> np.ndarray:
    """An image in a .npy file as uint8, without unpickling; its size is compared before memory is taken."""
    try:
        with path.open("rb") as file:  # not np.load, which takes archives of arrays too
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[version](file)
            if dtype.hasobject or math.prod(shape) * dtype.itemsize != path.stat().st_size - file.tell():
                raise ValueError(f"its header promises {dtype} of shape {shape}")
            file.seek(0)
            array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a damaged header is parsed as Python, which raises whatever it likes
        raise DataError(f"{path} is damaged or no image ({error}); replace or remove it.") from None
    return _as_8_bit(path, array)


def _as_8_bit(path: Path, array: np.ndarray) -> np.ndarray:
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
