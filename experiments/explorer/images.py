"""Images for the page: those that a visitor drops, and examples that are drawn or come with scikit-learn."""

import warnings
from pathlib import Path

import numpy as np

from experiments.data.pictures import FORMATS, read_image
from experiments.errors import DataError

MAX_MEGABYTES = 5
"""Size of a file that is taken."""
MAX_MEGAPIXELS = 40
"""Size of a picture that is decoded: a small file may promise gigabytes of pixels."""
EXAMPLE_SIZE = 96
"""Height and width of an example."""
PHOTOGRAPHS = {"china.jpg": (40, 380), "flower.jpg": (40, 380)}
"""Photographs of scikit-learn, and the rows of the square that is cut from their middle."""
CREDIT = (
    "The photographs come with scikit-learn: china.jpg by danielbuechele and flower.jpg by vultilion, both CC BY 2.0, "
    "cropped and scaled down. The other examples are drawn."
)


def read_upload(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """A dropped file as uint8 of `shape` = (height, width, channels): an image, or an array in a .npy file, resized.

    Grey and transparent images are converted to the model's channels.

    Raises:
        DataError: if it is too large or no image, in words that name the file without its folder.
    """
    try:
        if path.stat().st_size > MAX_MEGABYTES * 1_000_000:
            raise DataError(f"{path} is larger than {MAX_MEGABYTES} MB; drop a smaller file.")
        if path.suffix != ".npy":
            _check_pixels(path)
        return read_image(path, shape)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror}).") from None
    except DataError as error:
        raise DataError(str(error).replace(str(path), path.name)) from None


def _check_pixels(path: Path) -> None:
    """Raises a DataError if the header of an image promises too many pixels; leaves other complaints to the decoder."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images, which are refused here
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise DataError(f"{path} has more than {MAX_MEGAPIXELS} million pixels; scale it down.") from None
    except Exception:  # decoders raise whatever they like
        return
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise DataError(
            f"{path} has {width} x {height} pixels; at most {MAX_MEGAPIXELS} million are taken, so scale it down."
        )


def draw_patterns(size: int = EXAMPLE_SIZE) -> dict[str, np.ndarray]:
    """Patterns of low and of high complexity: name → (size, size, 3) uint8, the same on every machine."""
    y, x = np.mgrid[0:size, 0:size] / size
    ramp = np.stack([x, (x + y) / 2, 1 - x], axis=-1)
    rings = 0.5 + 0.5 * np.sin(40 * np.hypot(x - 0.4, y - 0.5))[..., None] * np.array([1.0, 0.7, 0.4])
    disc = np.where(np.hypot(x - 0.5, y - 0.5)[..., None] < 0.3, [0.9, 0.6, 0.1], [0.1, 0.2, 0.4])
    noise = np.random.default_rng(0).random((size, size, 3))
    pictures = {"disc": disc, "ramp": ramp, "rings": rings, "noise": noise}
    return {name: np.round(255 * picture).astype(np.uint8) for name, picture in pictures.items()}


def write_examples(folder: Path) -> list[Path]:
    """Writes the examples into `folder` as PNG files, and returns their paths."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    pictures = {name: Image.fromarray(pattern) for name, pattern in draw_patterns().items()}
    for name, (first, last) in PHOTOGRAPHS.items():
        photograph = load_sample_image(name)
        left = (photograph.shape[1] - (last - first)) // 2
        square = Image.fromarray(photograph[first:last, left : left + last - first])
        pictures[name.removesuffix(".jpg")] = square.resize((EXAMPLE_SIZE, EXAMPLE_SIZE), Image.Resampling.LANCZOS)
    paths = []
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
        paths.append(folder / f"{name}.png")
    return paths
