"""What a run's folder holds, and how it is read and written."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.errors import RunError

CONFIG, METRICS, SPLIT = "config.json", "metrics.jsonl", "split.npz"
SUMMARY, MODEL, CHECKPOINTS = "summary.json", "model.safetensors", "checkpoints"


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
    wanted = json.loads(json.dumps({"experiment": experiment, "config": dataclasses.asdict(config), "data": data}))
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is no folder; name another --workdir.")
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, wanted | {"versions": versions()})
        return
    found = read_config(folder)
    found["config"] = full_config(found.get("config", {}))
    if not resume:
        raise RunError(f"{folder} holds a run already; go on with --resume, or name another --workdir.")
    differences = [
        f"{name}: {found.get(part, {}).get(name)!r} there, {value!r} now"
        for part in ("config", "data")
        for name, value in wanted[part].items()
        if name != "source" and found.get(part, {}).get(name) != value
    ]
    if found.get("experiment") != experiment:
        differences.insert(0, f"experiment: {found.get('experiment')!r} there, {experiment!r} now")
    if differences:
        raise RunError(
            f"{folder} holds a run of another configuration ({'; '.join(differences)}); give the same flags, or "
            "another --workdir."
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a run.

    Raises:
        RunError: if the folder is missing or holds no readable run.
    """
    path = folder / CONFIG
    if not path.is_file():
        what = "does not exist" if not folder.exists() else f"holds no {CONFIG}, so it is no folder of a run"
        raise RunError(f"{folder} {what}; give the --workdir of a run.")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); restore it, or start anew in another --workdir.") from None


def read_summary(folder: Path, use: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The `summary.json` of a finished run, from which `use` can take what it needs.

    Raises:
        RunError: if it is missing or damaged.
    """
    path, again = folder / SUMMARY, f"python -m experiments.evaluate {folder}"
    if not path.is_file():
        raise RunError(f"{folder} holds no {SUMMARY}; `{again}` writes it.")
    try:
        summary = json.loads(path.read_text())
        use(summary)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error!r}); `{again}` writes it anew.") from None
    return summary


def as_config(described: dict[str, Any]) -> Config:
    """The configuration that a `config.json` describes.

    Raises:
        RunError: if it is of another version of the project.
    """
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in described.items()
    }
    try:
        return Config(**values)
    except (TypeError, ValueError) as error:
        raise RunError(f"its configuration is of another version of the project ({error}); train it again.") from None


def full_config(described: dict[str, Any]) -> dict[str, Any]:
    """The configuration that a `config.json` describes, as JSON; fields that an earlier version lacks are filled in."""
    return json.loads(json.dumps(dataclasses.asdict(Config()))) | described


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file at once: a reader sees the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)


def write_split(folder: Path, train: np.ndarray, validation: np.ndarray) -> None:
    """Writes which images of the training set a run trains and validates on: indices in the official order."""
    np.savez_compressed(folder / SPLIT, train=train, validation=validation)


def read_split(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images that a run trains and validates on, as `write_split` wrote them."""
    with np.load(folder / SPLIT) as split:
        return split["train"], split["validation"]


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
