"""Readers of a folder that the user names: the official CIFAR binary files, or class folders of images."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.data.cifar_binary import LAYOUTS, CifarLayout, read_binary
from experiments.data.dataset import Dataset, held_out
from experiments.data.pictures import SUFFIXES, decode
from experiments.errors import DataError

CLASS_FOLDERS = "class folders of images: train/CLASS/*.png with test/CLASS/*.png, or CLASS/*.png"


def read_folder(data_dir: Path, name: str) -> Dataset:
    """Reads a data set from a folder, by what lies in it.

    Args:
      data_dir: a folder in the official binary layout, or the one above it, or one of class folders.
      name: the data set that is wanted; decides which binary files are read, none but for CIFAR.

    Returns:
      The data set.

    Raises:
      DataError: if the folder is missing, empty or of no known layout, or if a file in it is damaged.
    """
    layout = LAYOUTS.get(name)
    data_dir = data_dir.expanduser()
    if not data_dir.exists():
        raise DataError(f"there is no folder {data_dir}; check --data-dir.")
    if not data_dir.is_dir():
        raise DataError(f"{data_dir} is a file, not a folder; give the folder of the data as --data-dir.")
    if not _list(data_dir):
        raise DataError(f"{data_dir} is empty; expected {_expected(name)}.")
    binary = None if layout is None else _find_binary(data_dir, layout)
    if layout is not None and binary is not None:
        return _read_binary_folder(binary, layout)
    _refuse_others(data_dir, name)
    return read_class_folders(data_dir, name)


def _expected(name: str) -> str:
    """What a folder of a data set may hold."""
    return f"the official CIFAR binary files, or {CLASS_FOLDERS}" if name in LAYOUTS else CLASS_FOLDERS


def _list(folder: Path) -> list[Path]:
    """Returns what a folder holds, sorted by name, without hidden files."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read ({error}); check its permissions.") from error


def _find_binary(data_dir: Path, layout: CifarLayout) -> Path | None:
    """Returns the folder that holds, or should hold, the binary files of a data set; None if none does."""
    files = (*layout.train_files, layout.test_file)
    if any((data_dir / name).is_file() for name in files):
        return data_dir
    below = data_dir / layout.folder
    return below if below.is_dir() else None


def _read_binary_folder(folder: Path, layout: CifarLayout) -> Dataset:
    """Reads the official binary files in a folder."""
    files = {}
    for name in (*layout.train_files, layout.test_file, layout.names_file):
        path = folder / name
        try:
            if path.is_file():
                files[name] = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}); check its permissions.") from error
    source = f"folder {folder} (official CIFAR binary layout{_notes(files, layout)})"
    return read_binary(files, layout, str(folder), source)


def _notes(files: Mapping[str, bytes], layout: CifarLayout) -> str:
    """Says what distinguishes the files from the official ones, if anything does."""
    present = [name for name in layout.train_files if name in files]
    notes = ""
    if len(present) < len(layout.train_files):
        notes += f"; {len(present)} of its {len(layout.train_files)} training files"
    known = [name for name in files if name in layout.sha256]
    others = [name for name in known if hashlib.sha256(files[name]).hexdigest() != layout.sha256[name]]
    if others:
        notes += f"; not the official images: {', '.join(others)}"
    return notes


def _refuse_others(data_dir: Path, name: str) -> None:
    """Says what to do about a folder that holds data in a form that is not read."""
    for other in LAYOUTS.values():
        if other.name != name and _find_binary(data_dir, other) is not None:
            raise DataError(f"{data_dir} holds {other.name}, but {name} was asked for.")
        pickles = [file for file in other.pickle_files if (data_dir / file).is_file()]
        if (data_dir / other.pickle_folder).is_dir():
            pickles.append(other.pickle_folder)
        if pickles:
            raise DataError(
                f"{data_dir} holds the python version of CIFAR ({pickles[0]}), a pickle, which is never"
                f" opened because it could run code; get the binary version, {other.archive.url}"
            )
    archives = [path.name for path in _list(data_dir) if path.name.endswith((".tar.gz", ".tgz", ".zip"))]
    if archives and not any(path.is_dir() for path in _list(data_dir)):
        raise DataError(f"{data_dir} holds only {archives[0]}; unpack it there first.")
    prepared = sorted(data_dir.glob(f"{name}/*/dataset_info.json"))
    if prepared and name in LAYOUTS:
        raise DataError(
            f"{data_dir} is a folder of TensorFlow Datasets; set TFDS_DATA_DIR to it and use --data-source"
            " tfds instead of --data-dir."
        )


def read_class_folders(data_dir: Path, name: str) -> Dataset:
    """Reads images sorted into one folder per class.

    Either `train/CLASS/*` and `test/CLASS/*`, or `CLASS/*`; of the latter, a fixed tenth of each class, at
    least one image, becomes the test set. Grey images are converted to RGB. Images come in the order of
    the names of their class and file. No image is held in memory twice.

    Args:
      data_dir: the folder that holds them.
      name: the `Dataset.name` of the result.

    Returns:
      The data set, three channels.

    Raises:
      DataError: if there are fewer than two classes, a class without images, other classes in the test than
        in the training set, an unreadable image, or one of another size than the first.
    """
    train_dir, test_dir = data_dir / "train", data_dir / "test"
    # A class may itself be called "train", as one of CIFAR-100 is.
    both = train_dir.is_dir() and test_dir.is_dir()
    if both or any(_has_folders(folder) for folder in (train_dir, test_dir)):
        if not both:
            found, missing = ("train", "test") if train_dir.is_dir() else ("test", "train")
            raise DataError(f"{data_dir} holds {found}/ but no {missing}/; expected {_expected(name)}.")
        return _read_train_and_test(data_dir, name)

    classes = _list_classes(data_dir, name)
    for class_name, paths in classes.items():
        if len(paths) < 2:
            raise DataError(
                f"the class {data_dir / class_name} has a single image, but one is held out for testing;"
                " add images, or lay the data out as train/CLASS/ and test/CLASS/."
            )
    paths, labels = _flatten(classes)
    test = held_out(labels, lambda size: max(1, size // 10))
    train_paths = [path for path, out in zip(paths, test, strict=True) if not out]
    test_paths = [path for path, out in zip(paths, test, strict=True) if out]
    train_images, test_images = _read_images(train_paths, paths[0]), _read_images(test_paths, paths[0])
    source = f"folder {data_dir} (class folders, a fixed tenth of each held out as test set{_left_out(data_dir)})"
    return Dataset(name, train_images, labels[~test], test_images, labels[test], tuple(classes), source)


def _read_train_and_test(data_dir: Path, name: str) -> Dataset:
    """Reads the layout `train/CLASS/*` with `test/CLASS/*`."""
    train, test = _list_classes(data_dir / "train", name), _list_classes(data_dir / "test", name)
    if train.keys() != test.keys():
        differing = sorted(train.keys() ^ test.keys())
        first = differing[0]
        where = "train/" if first in train else "test/"
        raise DataError(
            f"{data_dir / 'train'} and {data_dir / 'test'} must hold the same classes, but {len(differing)}"
            f" differ; the first, {first}, is only in {where}."
        )
    (train_paths, train_labels), (test_paths, test_labels) = _flatten(train), _flatten(test)
    train_images, test_images = _read_images(train_paths, train_paths[0]), _read_images(test_paths, train_paths[0])
    left_out = _left_out(data_dir / "train", data_dir / "test")
    others = [f"{path.name}/" for path in _list(data_dir) if path.is_dir() and path.name not in ("train", "test")]
    left_out += f"; {', '.join(others)} left out" if others else ""
    source = f"folder {data_dir} (class folders, train and test{left_out})"
    return Dataset(name, train_images, train_labels, test_images, test_labels, tuple(train), source)


def _has_folders(folder: Path) -> bool:
    """Whether a path is a folder that holds folders."""
    return folder.is_dir() and any(path.is_dir() for path in _list(folder))


def _list_classes(folder: Path, name: str) -> dict[str, list[Path]]:
    """Returns the image files of each class folder, both sorted by name."""
    folders = [path for path in _list(folder) if path.is_dir()]
    if len(folders) < 2:
        names = ", ".join(path.name for path in folders) or "none"
        raise DataError(f"{folder} must hold at least 2 class folders (found: {names}); expected {_expected(name)}.")
    classes = {}
    for class_folder in folders:
        entries = _list(class_folder)
        paths = [path for path in entries if _is_image(path)]
        if not paths:
            others = f"{len(entries)} other entries, such as {entries[0].name}" if entries else "nothing"
            raise DataError(
                f"the class folder {class_folder} has no image ending in {', '.join(SUFFIXES)} (found:"
                f" {others}); add some or remove the folder."
            )
        classes[class_folder.name] = paths
    return classes


def _is_image(path: Path) -> bool:
    """Whether an entry of a class folder is read: a link that leads nowhere is, so that it is refused."""
    return path.suffix.lower() in SUFFIXES and (path.is_file() or not path.exists())


def _left_out(*folders: Path) -> str:
    """Says how many entries of class folders are not read, if any are."""
    entries = [path for folder in folders for one in _list(folder) if one.is_dir() for path in _list(one)]
    others = [path.name for path in entries if not _is_image(path)]
    return f"; {len(others)} entries that are no images are left out, such as {others[0]}" if others else ""


def _flatten(classes: Mapping[str, Sequence[Path]]) -> tuple[list[Path], np.ndarray]:
    """Returns the paths of all classes in order, and the label of each, int32 (N,)."""
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(paths) for paths in classes.values()])
    return [path for paths in classes.values() for path in paths], labels


def _read_images(paths: Sequence[Path], reference: Path) -> np.ndarray:
    """Reads images, each of the size of the one at `reference`: uint8 (N, H, W, 3), in the order given.

    One thread: reading is decoding, and more threads were no faster.
    """
    shape = decode(reference, channels=3).shape
    images = np.empty((len(paths), *shape), np.uint8)  # once: large sets would not fit twice
    for index, path in enumerate(paths):
        image = decode(path, channels=3)
        if image.shape != shape:
            raise DataError(
                f"all images must be of one size, but {path} has {_size(image.shape)} pixels and"
                f" {reference} has {_size(shape)} (width x height); resize or remove it."
            )
        images[index] = image
    return images


def _size(shape: Sequence[int]) -> str:
    """Writes (height, width, ...) the way image viewers do."""
    return f"{shape[1]}x{shape[0]}"
