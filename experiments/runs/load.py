"""A run on disk, opened once: configuration, model, split, data."""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.data import Dataset, fingerprint, load_dataset, spread_indices
from experiments.errors import RunError
from experiments.model import Model, load_model
from experiments.runs import folder as run_folder


@dataclasses.dataclass(frozen=True)
class Run:
    """A run whose first epoch, at least, is done.

    Attributes:
        folder: of the run.
        experiment: name of its data set.
        config: what it computes.
        model: the model that it keeps.
        train_indices: the images of the training set that it trains on, in the official order.
        validation_indices: those that it is validated on.
        data: what identifies the data and where it was, as in `config.json`.
        data_dir: folder to read the data from instead of where it was.
    """

    folder: Path
    experiment: str
    config: Config
    model: Model
    train_indices: np.ndarray
    validation_indices: np.ndarray
    data: dict[str, Any]
    data_dir: Path | None = None

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data that it was trained on, read at the first use.

        Raises:
            DataError: if it cannot be had.
            RunError: if what is found is other data.
        """
        source = self.data["source"]
        folder = self.data_dir or (source["data_dir"] and Path(source["data_dir"]))
        dataset = load_dataset(self.experiment, folder, source["data_source"] if folder is None else "auto")
        if fingerprint(dataset) != self.data["sha256"]:
            raise RunError(
                f"the data ({dataset.source}) is not what {self.folder} was trained on; give the right --data-dir."
            )
        return dataset

    @property
    def validation(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels that it is validated on."""
        chosen = self.validation_indices
        return self.dataset.train_images[chosen], self.dataset.train_labels[chosen]

    def sha256(self) -> str:
        """Of the file of its model."""
        return hashlib.sha256((self.folder / run_folder.MODEL).read_bytes()).hexdigest()

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels that it is tested on."""
        return test_set(self.config, self.dataset)


def load_run(folder: Path, data_dir: Path | None = None) -> Run:
    """Opens a run.

    Args:
        folder: of the run.
        data_dir: folder that holds its data, if that is elsewhere now.

    Raises:
        RunError: if the folder holds no run, one of another version, or one that is damaged or has no model yet.
    """
    found = run_folder.read_config(folder)
    train, validation = run_folder.read_split(folder)
    return Run(
        folder=folder,
        experiment=found["experiment"],
        config=run_folder.config_of(found, folder),
        model=load_model(folder / run_folder.MODEL),
        train_indices=train,
        validation_indices=validation,
        data=found["data"],
        data_dir=data_dir,
    )


def run_of_flag(flag: str, folder: str) -> Run:
    """Opens the run that a flag names; a RunError says which flag."""
    try:
        return load_run(Path(folder))
    except RunError as error:
        raise RunError(f"{flag}: {error}") from None


def test_set(config: Config, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that a configuration is tested on."""
    chosen = spread_indices(len(dataset.test_labels), config.data.num_test)
    return dataset.test_images[chosen], dataset.test_labels[chosen]


def check_unseen(folder: Path, train_indices: np.ndarray, validation: np.ndarray, advice: str) -> None:
    """Raises a RunError if the run in `folder` was trained on validation images (places in the training set)."""
    seen = np.intersect1d(train_indices, validation)
    if len(seen):
        raise RunError(
            f"{folder} was trained on {len(seen)} of the {len(validation)} images that this run is validated on; "
            f"{advice}."
        )
