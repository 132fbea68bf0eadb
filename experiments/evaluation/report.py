"""The evaluation of a run on its test images, written, printed and returned."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.devices import device_name, peak_memory
from experiments.errors import RunError
from experiments.evaluation.accuracy import evaluate, evaluate_ensemble
from experiments.evaluation.summary import Summary, describe, read_summary, write_summary
from experiments.fields import as_json
from experiments.model import Model
from experiments.runs import folder as run_folder
from experiments.runs.load import Run, check_unseen


def summarise(
    folder: Path,
    experiment: str,
    config: Config,
    model: Model,
    images: np.ndarray,
    labels: np.ndarray,
) -> Summary:
    """Evaluates on test images, writes `summary.json`, prints it, and returns it.

    What ensembles of the same model were found to do stays in it.
    """
    rows = run_folder.read_metrics(folder)
    run_folder.check_metrics(folder, rows, model.step)
    summary = Summary(
        experiment=experiment,
        **measure(model, images, labels, folder / run_folder.MODEL),
        adaptation=model.adaptation,
        num_levels=model.num_levels,
        validation_top1={row["step"]: row["validation_top1"] for row in rows}.get(model.step),
        train_seconds=sum(row["seconds"] for row in rows),
        step=model.step,
        steps=rows[-1]["step"] if rows else model.step,
        seed=config.seed,
        config=as_json(config),
        versions=run_folder.versions(),
        ensembles=_ensembles(folder, model),
    )
    write_summary(folder, summary)
    print(describe(dataclasses.asdict(summary)), flush=True)
    return summary


def _ensembles(folder: Path, model: Model) -> tuple[dict[str, Any], ...]:
    """Those in the summary that lies in a run's folder, if that is of the same model."""
    with contextlib.suppress(RunError):
        before = read_summary(folder)
        return before.ensembles if before.step == model.step else ()
    return ()


def measure(model: Model, images: np.ndarray, labels: np.ndarray, model_file: Path, **overrides: Any) -> dict[str, Any]:
    """What `evaluate` gives, the device, and the memory that was held before; names are those of `Summary`."""
    memory: dict[str, Any] = peak_memory()
    return {**evaluate(model, images, labels, model_file, **overrides), "device": device_name(), **memory}


def summarise_ensemble(run: Run, others: Sequence[Run], shifted_views: bool, fraction: float) -> dict[str, Any]:
    """Adds `evaluate_ensemble` to a run's `summary.json`, prints it, and returns it.

    Raises:
        RunError: if the run is not finished, or another was trained on other data, or on images that it was validated
            on.
    """
    summary = read_summary(run.folder)
    for other in others:
        if other.data["sha256"] != run.data["sha256"]:
            raise RunError(
                f"{other.folder} was trained on other data than {run.folder}; an ensemble needs runs of the same data."
            )
        advice = "an ensemble needs runs of the same split"
        check_unseen(other.folder, other.train_indices, run.validation_indices, advice)
    runs = (run, *others)
    described: dict[str, Any] = {
        "runs": [one.folder.name for one in runs],
        "shifted_views": shifted_views,
        "fraction": fraction,
    }
    found: dict[str, Any] = {
        **described,
        **evaluate_ensemble([one.model for one in runs], shifted_views, run.test, run.validation, fraction),
        "trainable_bytes": sum(one.model.stored_bytes()[1] for one in runs),
    }
    kept = [one for one in summary.ensembles if {name: one.get(name) for name in described} != described]
    write_summary(run.folder, dataclasses.replace(summary, ensembles=(*kept, found)))
    print(f"top-1          {found['top1']:.2%}, an ensemble answers {found['test_fraction']:.1%} of the test images")
    print(f"validation     {found['validation_top1']:.2%}")
    print(f"all trainable  {found['trainable_bytes']:,} bytes")
    print(f"network        {found['puppet_macs'] / 1e6:,.1f} M multiply-accumulates an image", flush=True)
    return found
