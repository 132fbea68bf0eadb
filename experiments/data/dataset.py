"""What every data set is once it is loaded, and how a test set is held out where no official one exists."""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

# Not an option: results on the held-out images must stay comparable from run to run.
_TEST_SPLIT_SEED = 20_240_101


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A labelled image data set, whole, in memory.

    Attributes:
      name: the name it was loaded by.
      train_images: uint8 (N, H, W, C) in [0, 255]; C is 3 (RGB) or 1 (grey).
      train_labels: int32 (N,) in [0, number of classes).
      test_images: uint8 (M, H, W, C) in [0, 255].
      test_labels: int32 (M,) in [0, number of classes).
      class_names: the name of each label.
      source: where it came from, one line for a person.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    source: str


def held_out(labels: np.ndarray, count: Callable[[int], int]) -> np.ndarray:
    """Chooses test images class by class, always the same ones.

    Args:
      labels: int (N,).
      count: from the number of images of a class to the number of its test images.

    Returns:
      bool (N,), True for the test images.
    """
    generator = np.random.Generator(np.random.PCG64(_TEST_SPLIT_SEED))
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[generator.permutation(members)[: count(len(members))]] = True
    return mask


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of all images and labels."""
    digest = hashlib.sha256()
    for array in (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
