"""What a run's folder holds, and how it is read and written."""

import importlib.metadata
import json
import os
import platform
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.errors import RunError
from experiments.fields import as_json, flat, from_json

CONFIG, METRICS, SPLIT = "config.json", "metrics.jsonl", "split.npz"
SUMMARY, MODEL, CHECKPOINTS = "summary.json", "model.safetensors", "checkpoints"
LAYOUT = 2
"""Of the folder; `config.json` has it."""
LAST_OF_LAYOUT_1 = "02d1016"


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("puppet-jax", "jax", "jaxlib", "flax", "optax", "diffrax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def open_run(folder: Path, experiment: str, config: Config, data: dict[str, Any], resume: bool) -> None:
    """Makes the folder of a new run, or checks that the run in it is the one to be resumed.

    Args:
        folder: of the run.
        experiment: name of the data set.
        config: what the run computes.
        data: what identifies the data: JSON values; `data["source"]` is not compared.
        resume: whether a run may be there already.

    Raises:
        RunError: if the folder holds something else, holds a run and `resume` is false, or holds a run of another
            configuration: which field differs.
    """
    wanted = {"layout": LAYOUT, "experiment": experiment, "config": as_json(config), "data": data}
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is no folder; name another --workdir.")
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, wanted | {"versions": versions()})
        return
    found = read_config(folder)
    if not resume:
        raise RunError(f"{folder} holds a run already; go on with --resume, or name another --workdir.")
    there = {"experiment": found["experiment"], "sha256": found["data"].get("sha256")} | flat(found["config"])
    now = {"experiment": experiment, "sha256": data["sha256"]} | flat(as_json(config))
    differences = [
        f"{name}: {there.get(name)!r} there, {now.get(name)!r} now"
        for name in there | now
        if there.get(name) != now.get(name)
    ]
    if differences:
        raise RunError(
            f"{folder} holds a run of another configuration ({'; '.join(differences)}); give the same flags, or "
            "another --workdir."
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a run.

    Raises:
        RunError: if the folder is missing, holds no readable run, or holds one of another layout.
    """
    path = folder / CONFIG
    if not path.is_file():
        what = "does not exist" if not folder.exists() else f"holds no {CONFIG}, so it is no folder of a run"
        raise RunError(f"{folder} {what}; give the --workdir of a run.")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); restore it, or start anew in another --workdir.") from None
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise RunError(f"{path} is damaged (no configuration); restore it, or start anew in another --workdir.")
    layout = found.get("layout", 1)
    if layout != LAYOUT:
        reader = f"commit {LAST_OF_LAYOUT_1} reads it" if layout == 1 else "a later version of puppet-jax wrote it"
        raise RunError(f"{folder} is a run of layout {layout}, this version reads layout {LAYOUT}; {reader}.")
    missing = {"experiment", "data", "versions"} - found.keys()
    if missing:
        raise RunError(f"{path} is damaged (it lacks {', '.join(sorted(missing))}); restore it, or start anew.")
    return found


def config_of(found: dict[str, Any], folder: Path) -> Config:
    """The configuration in what `read_config` found in `folder`.

    Raises:
        RunError: if it is of another version of the project.
    """
    try:
        return from_json(Config, found["config"])
    except (TypeError, ValueError) as error:
        raise RunError(
            f"the configuration of {folder} is of another version of the project ({error}); use the version that wrote "
            "it, or train it again."
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file at once: a reader sees the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)


def write_split(folder: Path, train: np.ndarray, validation: np.ndarray) -> None:
    """Writes which images of the training set a run trains and validates on: indices in the official order."""
    np.savez_compressed(folder / SPLIT, train=train, validation=validation)


def read_split(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images that a run trains and validates on, as `write_split` wrote them.

    Raises:
        RunError: if the file is missing or damaged.
    """
    path = folder / SPLIT
    try:
        with np.load(path, allow_pickle=False) as split:
            return split["train"], split["validation"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise RunError(f"{path} is missing or damaged ({error}); `--resume` with the run's flags writes it.") from None


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Adds one line to `metrics.jsonl`."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; a last line that was cut off by a crash is left out."""
    path = folder / METRICS
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def drop_metrics_after(folder: Path, step: int) -> None:
    """Drops the rows after `step`: epochs that a resumed run does again."""
    rows = [row for row in read_metrics(folder) if row["step"] <= step]
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
