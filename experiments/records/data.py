"""Reads the record: one dated folder a study, with its figures in results.json. Imports no JAX."""

import dataclasses
import json
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.errors import ExperimentError

FOLDER = Path("docs/records")
RESULTS = "results.json"
PER_SEED = ("top1", "top5", "validation", "training", "unseen")
"""Fields of a row that hold one percentage a seed."""
REQUIRED = ("study", "date", "title", "code", "results", "rows")
STATUSES = ("run", "not run", "published")
STOPPED = ("stopped", "interrupted")
"""How a row's status may begin, beside `STATUSES`."""


class RecordError(ExperimentError):
    """The record contradicts itself, or a page asks for what it does not hold."""


@dataclasses.dataclass(frozen=True)
class Study:
    """One folder of the record.

    Attributes:
        folder: it.
        results: its results.json, as docs/records/README.md describes it.
    """

    folder: Path
    results: Mapping[str, Any]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Its rows by name."""
        return {row["row"]: row for row in self.results["rows"]}


def load_record(root: Path) -> dict[str, Study]:
    """All studies by name, in order of their dates.

    Args:
        root: folder that holds `docs/records`.

    Raises:
        RecordError: if there is none, or a results.json is missing, damaged, or contradicts itself.
    """
    folders = sorted(path for path in (root / FOLDER).glob("*") if path.is_dir())
    if not folders:
        raise RecordError(f"{root / FOLDER} holds no study; run the command in the root of the repository.")
    studies: dict[str, Study] = {}
    for folder in folders:
        path = folder / RESULTS
        try:
            results = json.loads(path.read_text())
        except FileNotFoundError:
            raise RecordError(f"{path} is missing; every study has its figures there.") from None
        except ValueError as error:
            raise RecordError(f"{path} is no JSON: {error}.") from None
        _check(path, results)
        studies[results["study"]] = Study(folder, results)
    return studies


def _check(path: Path, results: dict[str, Any]) -> None:
    for field in REQUIRED:
        if field not in results:
            raise RecordError(f"{path} has no {field!r}; it needs {', '.join(REQUIRED)}.")
    name = f"{results['date']}-{results['study']}"
    if path.parent.name != name or not re.fullmatch(r"\d{4}-\d\d-\d\d-[a-z0-9-]+", name):
        raise RecordError(f"{path} is of date and study {name}; its folder must be named so, like 2026-11-22-ablation.")
    seen = set()
    for row in results["rows"]:
        where = f"{path}, row {row.get('row')!r}"
        if row.get("row") in seen or not row.get("row"):
            raise RecordError(f"{where}: every row needs a name of its own in 'row'.")
        seen.add(row["row"])
        status = row.get("status", "")
        if status not in STATUSES and not status.startswith(STOPPED):
            raise RecordError(f"{where}: status must be {', '.join(STATUSES)}, 'stopped ...', got {status!r}.")
        _check_seeds(where, row)


def _check_seeds(where: str, row: dict[str, Any]) -> None:
    for field in PER_SEED:
        if not isinstance(row.get(field, []), list):
            raise RecordError(f"{where}: {field} is a list, one percentage a seed, got {row[field]!r}.")
    top1 = row.get("top1", [])
    if "seeds" in row and top1 and len(row["seeds"]) != len(top1):
        raise RecordError(f"{where}: {len(top1)} figures of top1 for {len(row['seeds'])} seeds.")
    if len(top1) > 1 and row["status"] == "run":
        expected = statistics.fmean(top1), statistics.stdev(top1)
        found = row.get("top1_mean"), row.get("top1_std")
        if any(value is None or abs(value - right) > 0.0051 for value, right in zip(found, expected, strict=True)):
            raise RecordError(
                f"{where}: top1_mean and top1_std must be {expected[0]:.2f} and {expected[1]:.2f}, got {found}."
            )


def look_up(studies: Mapping[str, Study], reference: str) -> tuple[str, Any]:
    """What `study/row/field` or `study/figures/name` stands for; `.0`, `.1`, ... behind it pick one of a list.

    Returns:
        Name of the field, and its value; a number, a text or a list.

    Raises:
        RecordError: if the record does not hold it.
    """
    parts = reference.split("/")
    if len(parts) != 3:
        raise RecordError(f"{{{{{reference}}}}} must be study/row/field or study/figures/name.")
    study, row, field = parts
    field, _, pick = field.partition("." if row != "figures" else ":")
    try:
        found = studies[study]
        held = found.results["figures"][field]["value"] if row == "figures" else found.rows[row][field]
        if pick.isdigit():
            held = held[int(pick)]
    except (KeyError, IndexError, TypeError):
        raise RecordError(f"{{{{{reference}}}}} is not in the record; see {FOLDER}/*-{study}/{RESULTS}.") from None
    return field, held


def numbers(value: Any) -> Iterator[float]:
    """Every number in a JSON value, those inside its texts included."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, str):
        for text in re.findall(r"\d[\d,]*(?:\.\d+)?", value):
            yield float(text.replace(",", ""))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers(key)
            yield from numbers(inner)
    else:
        for inner in value:
            yield from numbers(inner)
