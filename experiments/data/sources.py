"""Data from elsewhere than a folder: the CIFAR archive, TensorFlow Datasets, scikit-learn's digits."""

import importlib.util
import os
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from experiments.data.cifar_binary import CifarLayout, read_binary
from experiments.data.dataset import Dataset, held_out
from experiments.errors import DataError

DIGITS = tuple("0123456789")
"""Classes of scikit-learn's digits."""
_RANDOM_ACCESS_FORMATS = ("array_record", "parquet")


def read_archive(layout: CifarLayout, cache_dir: Path | None = None) -> Dataset:
    """Reads the official archive, downloading it where it is not in the cache yet.

    The archive is checked against its SHA-256 at every reading and decoded in memory: no file of it is
    written anywhere.

    Args:
      layout: the data set to read.
      cache_dir: the folder to keep the archive in; None for the user's cache folder.

    Returns:
      The data set, in the official order.

    Raises:
      DataError: if the archive cannot be downloaded, kept or read, or is not the expected one.
    """
    import tarfile
    import zlib

    path = _fetch(layout, cache_dir)
    try:
        with tarfile.open(path) as archive:
            files = {}
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    files[PurePosixPath(member.name).name] = stream.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as an archive ({error}); remove it.") from error
    return read_binary(files, layout, str(path), f"archive {path} (from {layout.archive.url})")


def _fetch(layout: CifarLayout, cache_dir: Path | None) -> Path:
    """Returns the path of the archive, downloaded if need be and checked."""
    try:
        import pooch
        import requests
    except ImportError as error:
        raise DataError(
            f"downloading {layout.name} needs the package {error.name}; run `pip install pooch tqdm`, or give"
            " the data with --data-dir DIR."
        ) from error
    url = layout.archive.url
    folder = pooch.os_cache("puppet-jax") if cache_dir is None else Path(cache_dir).expanduser()
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None,
        chunk_size=1 << 20,
        # Otherwise a server may count the gzip of the archive as its own and have it undone on the way.
        headers={"Accept-Encoding": "identity"},
    )
    try:
        # pooch writes to a temporary file and moves it into place only once its checksum is right.
        path = pooch.retrieve(
            url, f"sha256:{layout.archive.sha256}", PurePosixPath(url).name, folder, downloader=downloader
        )
    except requests.RequestException as error:
        raise DataError(
            f"{layout.name} could not be downloaded from {url} ({error}). Try again, or give the folder of"
            " the official binary files with --data-dir DIR, or use --data-source tfds where TensorFlow"
            " Datasets has it prepared."
        ) from error
    except ValueError as error:
        raise DataError(
            f"what was downloaded from {url} is not the official archive (its SHA-256 is not"
            f" {layout.archive.sha256}) and was removed. Try again, or give the folder of the official binary"
            " files with --data-dir DIR."
        ) from error
    except OSError as error:
        raise DataError(
            f"the archive of {layout.name} cannot be kept in {folder} ({error}); make room or"
            " mend the permissions there, or give the data with --data-dir DIR."
        ) from error
    return Path(path)


def _prepared_root(name: str) -> Path:
    """The folder in which TensorFlow Datasets keeps all versions of a data set."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser() / name


def _prepared_versions(name: str) -> list[Path]:
    """The folders of the prepared versions of a data set, oldest first, whatever their format."""
    root = _prepared_root(name)
    found = [path.parent for path in root.glob("*/dataset_info.json")] if root.is_dir() else []
    numbered = [path for path in found if re.fullmatch(r"\d+(\.\d+)*", path.name)]
    return sorted(numbered, key=lambda path: [int(number) for number in path.name.split(".")])


def find_prepared(name: str) -> Path | None:
    """Finds what TensorFlow Datasets has prepared, without importing it.

    Args:
      name: the data set's name in TensorFlow Datasets.

    Returns:
      The folder of its newest version in a format with random access, `array_record` or `parquet`; None if
      there is none, or if the package is not installed.
    """
    if importlib.util.find_spec("tensorflow_datasets") is None:
        return None
    for folder in reversed(_prepared_versions(name)):
        if any(any(folder.glob(f"{name}-*.{kind}*")) for kind in _RANDOM_ACCESS_FORMATS):
            return folder
    return None


def read_prepared(layout: CifarLayout) -> Dataset:
    """Reads a CIFAR data set that TensorFlow Datasets has prepared, without TensorFlow.

    Never downloads or prepares anything. Images come back in the official order, not in that of the disk.

    Args:
      layout: the data set to read.

    Returns:
      The data set.

    Raises:
      DataError: if TensorFlow Datasets is not installed, has not prepared the data, or cannot read it.
    """
    name = layout.name
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise DataError(
            "--data-source tfds needs TensorFlow Datasets, which is not installed; run `pip install"
            " tensorflow-datasets array_record importlib_resources`, or use --data-source archive."
        )
    folder = find_prepared(name)
    if folder is None:
        found = ", ".join(path.name for path in _prepared_versions(name))
        state = f"versions {found}, in another format" if found else "nothing"
        raise DataError(
            f"TensorFlow Datasets has not prepared {name} for random access in {_prepared_root(name)} (found:"
            f" {state}). Prepare it once, where TensorFlow is installed: `tfds build {name}"
            " --file_format=array_record`; or set TFDS_DATA_DIR to where it is prepared; or use"
            " --data-source archive, or --data-dir DIR."
        )
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(str(folder))
        train_images, train_labels = _read_split(builder, "train")
        test_images, test_labels = _read_split(builder, "test")
        class_names = tuple(builder.info.features["label"].names)
    except Exception as error:  # anything: a foreign format, optional packages, files that others wrote
        raise DataError(
            f"TensorFlow Datasets cannot read {folder} ({type(error).__name__}: {error}). Prepare {name}"
            " again, or use --data-source archive, or --data-dir DIR."
        ) from error
    source = f"TensorFlow Datasets {folder}"
    return Dataset(name, train_images, train_labels, test_images, test_labels, class_names, source)


def _read_split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split of a prepared data set in the order of its ids."""
    examples = sorted(builder.as_data_source(split=split), key=lambda example: example["id"])
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples], np.int32)


def read_digits() -> Dataset:
    """Reads the handwritten digits that come with scikit-learn: 1,797 grey images of 8 x 8 pixels.

    The test set is 36 images of each digit, always the same.

    Returns:
      The data set: 1,437 training and 360 test images, one channel.

    Raises:
      DataError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the digits come with scikit-learn; run `pip install scikit-learn`.") from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # from 0 ... 16
    labels = digits.target.astype(np.int32)
    test = held_out(labels, lambda size: 36)
    source = "scikit-learn's load_digits"
    return Dataset("digits", images[~test], labels[~test], images[test], labels[test], DIGITS, source)
