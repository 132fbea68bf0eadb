"""The runs behind a table: read where finished, resumed where interrupted, trained where missing."""

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from experiments.config import Config, Options
from experiments.data import Dataset, load_dataset
from experiments.errors import DataError, Interrupted, RunError
from experiments.evaluation.summary import Summary, read_summary
from experiments.fields import as_json, flat, replace
from experiments.runs import folder as run_folder
from experiments.tables.cluster import Cluster
from experiments.tables.rows import Row, Table, movable, next_rate, scaled, search_of
from experiments.training.run import train


class Runs:
    """Trains what a table needs under one folder.

    Args:
        folder: of all runs; a run's own folder is named after its data set, its label and its configuration.
        data_dirs: folder of each data set by name, None to look elsewhere.
        rows: labels of those that may be trained, of others only finished runs are taken; None for all.
        cluster: where to train; in this process if None.
    """

    def __init__(
        self,
        folder: Path,
        data_dirs: dict[str, Path | None],
        *,
        rows: Collection[str] | None = None,
        cluster: Cluster | None = None,
    ):
        self.folder = folder
        self.data_dirs = data_dirs
        self.rows = rows
        self.cluster = cluster
        self._loaded: tuple[str, Dataset] | None = None

    def results(self, table: Table, budget: float, seeds: int) -> list[dict[str, Any]]:
        """One result a row, as in the JSON of a table.

        A row whose data cannot be had has no figures but a reason; an interrupted run can be gone on with.

        Raises:
            DataError: if no row can be had.
            RunError: if a run is damaged; or none is finished, and none shall be trained.
            ExperimentError: if a run fails.
            Interrupted: after a signal.
        """
        results = self._each(lambda row: self._result(row, budget, seeds), table.rows)
        if all("missing" in result for result in results):
            reasons = [one["missing"] for row, one in zip(table.rows, results, strict=True) if self._trains(row)]
            if not reasons:
                raise RunError(f"no run of this table is finished in {self.folder}; leave out --finished to train it.")
            raise DataError(reasons[0])
        return results

    def _result(self, row: Row, budget: float, seeds: int) -> dict[str, Any]:
        result: dict[str, Any] = {"label": row.label, "paper": row.paper, "confidence": row.confidence}
        try:
            tried = self._search(row, budget)
            configs = [self._config(row, budget, seed, tried) for seed in range(seeds)]
            if not self._trains(row):
                configs = [config for config in configs if self._is_finished(row, config)]
                if not configs:
                    return result | {"missing": "no seed is finished"}
            before = self._each(lambda one: self._first(row, budget, one.seed, tried), configs if row.first else [])
            summaries = self._each(lambda one: self._summary(row, one), configs)
        except DataError as error:
            return result | {"missing": str(error).replace("--data-dir", _flag(row.experiment))}
        except _NotFinished as error:
            return result | {"missing": str(error)}
        measured = [_measured(summary) for summary in summaries]
        seconds = sum(summary.train_seconds for summary in [*summaries, *before])
        hours = {"hours": seconds}
        full = [(one, row.config) for one in summaries] + [(one, row.first or row.config) for one in before]
        if all(one.config["data"]["num_images"] == config.data.num_images for one, config in full):  # an epoch or more
            hours["full_hours"] = sum(_seconds_of(config.optim.epochs, one) for one, config in full)
        return result | {
            "ours": {name: _spread([one[name] for one in measured]) for name in measured[0]}
            | {name: _spread([s / len(summaries) / 3600]) for name, s in hours.items()},
            "seeds": [config.seed for config in configs],
            "runs": [str(self._path(row, config)) for config in configs],
            "seconds": seconds,
            "images": configs[0].data.num_images,
            "epochs": configs[0].optim.epochs + sum(summary.config["optim"]["epochs"] for summary in before[:1]),
            "learning_rate": (before or summaries)[0].config["optim"]["learning_rate"],
            "search": [{"learning_rate": rate, "validation_top1": tried[rate]} for rate in sorted(tried)],
            "device": summaries[0].device,
            "versions": summaries[0].versions,
        }

    def _search(self, row: Row, budget: float) -> dict[float, float]:
        """Accuracy on validation images by the learning rates that were tried, none if there is no choice."""

        def trial(rate: float) -> float:
            config = search_of(row, budget, rate)
            if not self._trains(row) and not self._is_finished(row, config):
                raise _NotFinished(f"the learning rate {rate:g} is not tried yet")
            found = self.summary(f"{row.label}, rate {rate:g}", row.experiment, config, self._path(row, config))
            return found.validation_top1 or 0.0

        tried = dict(zip(row.rates, self._each(trial, row.rates), strict=True))
        while tried and (rate := next_rate(tried)) is not None:
            tried[rate] = trial(rate)
        return tried

    def _each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """What `function` gives for each item; on a cluster all at the same time."""
        return list(map(function, items)) if self.cluster is None else self.cluster.map(function, items)

    def _config(self, row: Row, budget: float, seed: int, tried: dict[float, float]) -> Config:
        """What is trained for a line and a seed, at the best rate tried."""
        config = scaled(row.config, budget, seed, row.short_epochs)
        if row.first is None:
            return _at_best(config, tried)
        first = _at_best(scaled(row.first, budget, seed, row.short_epochs), tried)
        return dataclasses.replace(config, start_from=str(self._path(row, first).resolve()))

    def _summary(self, row: Row, config: Config) -> Summary:
        return self.summary(row.label, row.experiment, config, self._path(row, config))

    def _first(self, row: Row, budget: float, seed: int, tried: dict[float, float]) -> Summary:
        """The run that a line's starts from."""
        assert row.first is not None
        first = _at_best(scaled(row.first, budget, seed, row.short_epochs), tried)
        return self.summary(f"{row.label}, first", row.experiment, first, self._path(row, first))

    def _trains(self, row: Row) -> bool:
        return self.rows is None or row.label in self.rows

    def _is_finished(self, row: Row, config: Config) -> bool:
        return (self._path(row, config) / run_folder.SUMMARY).is_file()

    def _path(self, row: Row, config: Config) -> Path:
        digest = hashlib.sha256(json.dumps(movable(as_json(config)), sort_keys=True).encode()).hexdigest()[:10]
        kind = type(config.network).__name__
        network = getattr(config.network, "name", "puppet" if kind == "PuppetCNN" else kind.lower())
        return self.folder / f"{row.experiment}-{network}-seed{config.seed}-{digest}"

    def summary(self, label: str, experiment: str, config: Config, folder: Path) -> Summary:
        """The summary of the run in `folder`, which is trained first where it is not finished.

        Raises:
            DataError: if its data cannot be had.
            ExperimentError: if it fails, or `folder` holds a run of another configuration.
            Interrupted: after a signal.
        """
        if (folder / run_folder.SUMMARY).is_file():
            return _finished(folder, config)
        print(f"== {label}, seed {config.seed}: {config.optim.epochs} epochs", flush=True)
        data_dir = self.data_dirs.get(experiment)
        try:
            options = Options(data_dir=data_dir, workdir=folder, resume=True)
            if self.cluster is not None:
                return self.cluster.train(experiment, config, options)
            return train(experiment, config, options, self._dataset(experiment, data_dir))
        except Interrupted as stop:
            message = f"{label}, seed {config.seed}, is interrupted and saved; give the same command to go on."
            raise Interrupted(stop.signum, message) from None

    def _dataset(self, experiment: str, data_dir: Path | None) -> Dataset:
        if self._loaded is None or self._loaded[0] != experiment:
            self._loaded = None  # frees the one before
            self._loaded = (experiment, load_dataset(experiment, data_dir))
        return self._loaded[1]


class _NotFinished(Exception):
    """A run that a line needs is not finished, and none shall be trained."""


def _at_best(config: Config, tried: dict[float, float]) -> Config:
    return replace(config, learning_rate=max(tried, key=lambda rate: tried[rate])) if tried else config


def _flag(experiment: str) -> str:
    """The flag of `experiments.tables` that names the folder of a data set."""
    return "--data-dir" if experiment == "cifar10" else f"--{experiment.replace('_', '-')}-dir"


def _finished(folder: Path, config: Config) -> Summary:
    """The summary of a finished run.

    Raises:
        RunError: if it is damaged, or of another configuration.
    """
    found = run_folder.read_config(folder)["config"]
    if differing := run_folder.differences(flat(movable(found)), flat(movable(as_json(config)))):
        raise RunError(f"{folder} holds a run of another configuration ({differing}); give another --runs.")
    return read_summary(folder)


def _seconds_of(epochs: int, summary: Summary) -> float:
    """Training time of so many epochs, extrapolated from those of a run."""
    return summary.train_seconds * epochs / summary.config["optim"]["epochs"]


def _measured(summary: Summary) -> dict[str, float]:
    """Figures of a run under the names that tables use."""
    return {
        "top1": summary.top1,
        "top5": summary.top5,
        "mb": (summary.puppeteer_bytes or summary.trainable_bytes) / 1e6,
        "trainable_mb": summary.trainable_bytes / 1e6,
        "generator_gmacs": summary.generator_macs / 1e9,
        "network_gmacs": summary.puppet_macs / 1e9,
        "network_gmacs_std": (summary.puppet_macs_std or 0.0) / 1e9,
        "images_per_s": summary.images_per_s,
        "s_per_image": summary.latency_s,
        "s_per_image_generating": summary.latency_generating_s,
        "depth": summary.depth_mean,
    }


def _spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation over the seeds (of the sample; 0 for one), and every seed."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": deviation, "seeds": values}
