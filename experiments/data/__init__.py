"""Image classification data for the experiments: one call that loads, one that splits.

A data set is loaded once, whole, into `uint8` arrays; batches are made from it by indexing. Where it comes
from is the caller's choice and is written down in `Dataset.source`; no source ever stands in for another
that was asked for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.data.cifar_binary import LAYOUTS
from experiments.data.dataset import Dataset as Dataset, fingerprint as fingerprint
from experiments.data.folders import CLASS_FOLDERS, read_folder
from experiments.data.sources import DIGITS, find_prepared, read_archive, read_digits, read_prepared
from experiments.errors import DataError

DATASETS = ("cifar10", "cifar100", "mini_imagenet", "digits")
SOURCES = ("auto", "tfds", "archive")


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    source: Literal["auto", "tfds", "archive"] = "auto",
    cache_dir: Path | None = None,
) -> Dataset:
    """Loads a data set into memory.

    With `data_dir`, that folder is read and nothing else is tried: the official CIFAR binary files
    (`data_batch_1.bin` ... or `train.bin`, in the folder itself or in `cifar-10-batches-bin/` or
    `cifar-100-binary/` below it), or class folders of images (`train/CLASS/*.png` with `test/CLASS/*.png`,
    or `CLASS/*.png`, of which a fixed tenth becomes the test set).

    Without it, `"tfds"` reads what TensorFlow Datasets has prepared, `"archive"` the official archive, which
    is downloaded once, and `"auto"` the former where there is any, else the latter. Images are in the
    official order in all three. mini-ImageNet is read from class folders only. The digits are part of
    scikit-learn and need neither.

    Args:
      name: `"cifar10"`, `"cifar100"`, `"mini_imagenet"` or `"digits"`. Class folders may hold any classes
        under each of the first three.
      data_dir: a folder that holds the data, or None.
      source: where to look when `data_dir` is None.
      cache_dir: where downloaded archives are kept; None for the user's cache folder.

    Returns:
      The data set, images uint8 (N, H, W, C) in [0, 255], labels int32 (N,).

    Raises:
      DataError: if the name or the source is unknown, or the data is missing, damaged or not as expected.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}.")
    if source not in SOURCES:
        raise DataError(f"unknown data source {source!r}; choose one of {', '.join(SOURCES)}.")
    if name == "digits":
        if data_dir is not None or source != "auto":
            raise DataError(
                "the digits come with scikit-learn and are read from nowhere else; leave out --data-dir and"
                f" --data-source (got data_dir={data_dir}, source={source!r})."
            )
        return read_digits()
    if data_dir is not None:
        if source != "auto":
            raise DataError(f"--data-dir {data_dir} and --data-source {source} name two places to read from; give one.")
        return read_folder(Path(data_dir), name)
    if name == "mini_imagenet":
        raise DataError(
            "there is no automatic download of mini-ImageNet; give its folder with --data-dir DIR: 600 images of each"
            f" of 100 classes, all resized to 64x64, as {CLASS_FOLDERS}."
        )
    layout = LAYOUTS[name]
    if source == "tfds" or (source == "auto" and find_prepared(name) is not None):
        return read_prepared(layout)
    return read_archive(layout, cache_dir)


def data_set_of(class_names: Sequence[str]) -> str:
    """The name of the data set that has these classes.

    Class folders may hold any: what no other data set has may be read from folders, as mini-ImageNet is.
    """
    known = {layout.class_names: name for name, layout in LAYOUTS.items()} | {DIGITS: "digits"}
    return known.get(tuple(class_names), "mini_imagenet")


def split_indices(
    num_available: int, num_images: int | None, num_validation: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the training and the validation images of a run from a training set.

    A function of its arguments alone. The validation images depend on `num_available`, `num_validation` and
    `seed` only, and a smaller training set is part of any larger one, so that runs on more or fewer images
    can be compared.

    Args:
      num_available: number of images in the training set, N.
      num_images: number of images to train on, in addition to the validation images; None for all the rest.
      num_validation: number of images to hold out, at least 0.
      seed: non-negative integer.

    Returns:
      `(train_indices, validation_indices)`: disjoint int64 arrays (num_images,) and (num_validation,) of
      distinct values in [0, N), each in ascending order.

    Raises:
      DataError: if a size is negative, no training image is left, or more images are asked for than exist.
    """
    if num_validation < 0:
        raise DataError(f"the number of validation images must be at least 0, got {num_validation}.")
    if num_images is not None and num_images < 1:
        raise DataError(f"the number of training images must be at least 1, got {num_images}.")
    if seed < 0:
        raise DataError(f"the seed must be at least 0, got {seed}.")
    wanted = num_validation + (1 if num_images is None else num_images)
    if wanted > num_available:
        train = "at least 1" if num_images is None else str(num_images)
        raise DataError(
            f"{train} training and {num_validation} validation images were asked for, but the training set"
            f" has {num_available}; ask for fewer, such as --num-images None --num-validation {num_available // 10}."
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(num_available)
    stop = None if num_images is None else num_validation + num_images
    return np.sort(order[num_validation:stop]), np.sort(order[:num_validation])


def spread_indices(num_available: int, at_most: int | None) -> np.ndarray:
    """Chooses test images at equal distances, because a test set may be in order of class.

    Args:
      num_available: number of images in the test set, N.
      at_most: the most images wanted, at least 1; None for all.

    Returns:
      int64 array of min(N, at_most) distinct values in [0, N), ascending.
    """
    count = num_available if at_most is None else min(at_most, num_available)
    return np.arange(count) * num_available // count
