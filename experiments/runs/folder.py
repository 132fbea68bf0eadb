"""What a run's folder holds, and how it is read and written."""

import importlib.metadata
import io
import json
import platform
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.config import Config
from experiments.errors import RunError
from experiments.fields import as_json, flat, from_json
from experiments.runs.files import PARTIAL, with_checksum, without_checksum, write_bytes, write_json
from experiments.runs.lock import LOCK

CONFIG, METRICS, SPLIT = "config.json", "metrics.jsonl", "split.npz"
SUMMARY, MODEL, CHECKPOINTS = "summary.json", "model.safetensors", "checkpoints"
UNFINISHED = "unfinished.json"
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
    """Makes the folder of a new run, or checks that the run in it is the one to be resumed, as `check_run` does."""
    if check_run(folder, experiment, config, data, resume):
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {"layout": LAYOUT, "experiment": experiment, "config": as_json(config), "data": data}
        write_json(folder / CONFIG, with_checksum(wanted | {"versions": versions()}))


def check_run(folder: Path, experiment: str, config: Config, data: dict[str, Any], resume: bool) -> bool:
    """Whether a run begins in a folder; if not, it is the one to be resumed. Writes nothing.

    Args:
        folder: of the run.
        experiment: name of the data set.
        config: what the run computes.
        data: what identifies the data: JSON values. `data["sha256"]` is compared, and, where the run there has it,
            `data["teachers"]`, the SHA-256 of each teacher's model by its folder.
        resume: whether a run may be there already.

    Raises:
        RunError: if the folder holds something else, holds a run and `resume` is false, or holds a run of another
            configuration: which field differs.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is no folder; name another --workdir.")
    if not folder.exists() or not any(_counts(path) for path in folder.iterdir()):
        return True
    if not resume and not (folder / CONFIG).exists():
        raise RunError(f"{folder} is not empty and holds no run; name another --workdir.")
    found = read_config(folder)
    if not resume:
        raise RunError(f"{folder} holds a run already; go on with --resume, or name another --workdir.")
    there = {"experiment": found["experiment"], "sha256": found["data"].get("sha256")} | flat(found["config"])
    now = {"experiment": experiment, "sha256": data["sha256"]} | flat(as_json(config))
    if differing := differences(there, now):
        raise RunError(
            f"{folder} holds a run of another configuration ({differing}); give the same flags, or another --workdir."
        )
    teachers = data.get("teachers", {})
    if changed := [name for name, sha256 in found["data"].get("teachers", {}).items() if teachers.get(name) != sha256]:
        raise RunError(
            f"the model of the teacher {', '.join(changed)} is another than the one that {folder} began with; restore "
            "it, or train anew in another --workdir."
        )
    return False


def differences(there: dict[str, Any], now: dict[str, Any]) -> str:
    """In which options two flat configurations differ, in words; empty if in none."""
    names = [name for name in there | now if there.get(name) != now.get(name)]
    return "; ".join(f"{name}: {there.get(name)!r} there, {now.get(name)!r} now" for name in names)


def _counts(path: Path) -> bool:
    """Whether a file in a folder says that there is a run: not what is left of one that was killed at its start."""
    return path.name != LOCK and not path.name.endswith(PARTIAL)


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
        found = without_checksum(json.loads(path.read_text()))
    except (OSError, ValueError, RecursionError) as error:
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


def write_split(folder: Path, train: np.ndarray, validation: np.ndarray) -> None:
    """Writes which images of the training set a run trains and validates on: indices in the official order."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, train=train, validation=validation)
    write_bytes(folder / SPLIT, buffer.getvalue())


def read_split(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images that a run trains and validates on, as `write_split` wrote them.

    Raises:
        RunError: if the file is missing or damaged.
    """
    path = folder / SPLIT
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as split:
            return split["train"], split["validation"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise RunError(f"{path} is missing or damaged ({error}); `--resume` with the run's flags writes it.") from None


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Adds one line to `metrics.jsonl`."""
    _write_metrics(folder, [*read_metrics(folder), row])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, none if there is no such file; a last line that was cut off is left out.

    Raises:
        RunError: if another line is no row.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    text = path.read_text(errors="replace")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines := text.splitlines(), start=1):
        try:
            row = without_checksum(json.loads(line))
            if not isinstance(row, dict) or not {"epoch", "step"} <= row.keys():
                raise ValueError("no epoch and step")
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise RunError(f"{path}, line {number}, is damaged ({error}); restore it, or remove the run.") from None
        rows.append(row)
    return rows


def check_metrics(folder: Path, rows: list[dict[str, Any]], step: int) -> None:
    """Raises a RunError if a trained run lacks rows: that of the step of its model, or one before a checkpoint."""
    saved = [int(path.name) for path in (folder / CHECKPOINTS).glob("*") if path.name.isdigit()]
    if not saved:
        return
    epochs = max(saved) // rows[0]["step"] if rows else 1
    if [row["epoch"] for row in rows[:epochs]] != list(range(1, epochs + 1)) or step not in {r["step"] for r in rows}:
        raise RunError(
            f"{folder / METRICS} lacks rows: its model is of step {step}, its newest checkpoint of step {max(saved)}, "
            f"and the file has the epochs {[row['epoch'] for row in rows]}. Restore it."
        )


def drop_metrics_after(folder: Path, step: int) -> None:
    """Drops the rows after `step`: epochs that a resumed run does again."""
    rows = read_metrics(folder)
    kept = [row for row in rows if row["step"] <= step]
    if len(kept) < len(rows):
        _write_metrics(folder, kept)


def _write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_bytes(folder / METRICS, "".join(json.dumps(with_checksum(row)) + "\n" for row in rows).encode())


class Unfinished(NamedTuple):
    """The steps of an epoch that were taken before a stop.

    Attributes:
        losses: one a step.
        correct: fractions of correct answers, likewise.
        seconds: that they took.
    """

    losses: list[float]
    correct: list[float]
    seconds: float


NOT_BEGUN = Unfinished([], [], 0.0)
"""An epoch before its first step."""


def write_unfinished(folder: Path, step: int, taken: Unfinished) -> None:
    """Writes what was taken of an epoch that was stopped at `step`, for its row later."""
    write_json(folder / UNFINISHED, with_checksum({"step": step, **taken._asdict()}))


def read_unfinished(folder: Path, step: int) -> Unfinished:
    """What `write_unfinished` wrote at `step`.

    Raises:
        RunError: if it is missing, damaged, or was written at another step.
    """
    path = folder / UNFINISHED
    try:
        found = without_checksum(json.loads(path.read_text()))
        if found["step"] != step:
            raise ValueError(f"it is of step {found['step']}")
        losses, correct = (list(map(float, found[name])) for name in ("losses", "correct"))
        return Unfinished(losses, correct, float(found.get("seconds", 0)))  # which older files lack
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} must hold the losses of the epoch that was stopped at step {step}, but it is missing or damaged "
            f"({error}). Restore it, or remove {folder / CHECKPOINTS / str(step)} to take that epoch anew."
        ) from None


def check_resumable(folder: Path) -> bool:
    """Whether a run has a checkpoint to go on from; without one it begins anew.

    Raises:
        RunError: if it has none though epochs of it were finished, whose results would be overwritten.
    """
    if any(path.name.isdigit() for path in (folder / CHECKPOINTS).glob("*")):
        return True
    rows = read_metrics(folder)
    if len(rows) > 1 or (folder / SUMMARY).exists():
        raise RunError(
            f"{folder} holds {len(rows)} finished epochs but no checkpoint to go on from; restore {CHECKPOINTS}/, "
            f"measure its model with `python -m experiments.evaluate {folder}`, or train anew in another --workdir."
        )
    return False
