"""A table's results as rows of a study in docs/records, and the runs behind them, from which a table goes on."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UsageError
from experiments.evaluation.summary import read_summary, write_summary
from experiments.records.data import RESULTS
from experiments.runs.files import with_checksum, write_json
from experiments.runs.folder import CONFIG, SUMMARY, read_config
from experiments.tables.rows import movable

COPIED = ("seeds", "epochs", "learning_rate", "search", "confidence")


def write(table: Mapping[str, Any], study: Path, runs: Path) -> None:
    """Replaces the table's rows in a study's results.json, and copies what says that a run is finished.

    Args:
        table: as its JSON.
        study: folder of the study; its results.json has all but the rows.
        runs: folder of the runs. Each that is finished has its configuration and its summary copied to `study`/runs,
            without the places of its data; with a copy of that folder for --runs the table goes on.

    Raises:
        UsageError: if the study has no results.json.
    """
    path = study / RESULTS
    if not path.is_file():
        raise UsageError(f"{study} holds no {RESULTS}; make the study first, docs/records/README.md says how.")
    results = json.loads(path.read_text())
    name = table["name"]
    kept = [row for row in results["rows"] if not row["row"].startswith(f"{name}-")]
    results["rows"] = kept + [_row(name, result) for result in table["rows"]]
    results.setdefault("runs", {})
    for folder in sorted(one.parent for one in runs.glob(f"*/{SUMMARY}")):
        copy = study / "runs" / folder.name
        copy.mkdir(parents=True, exist_ok=True)
        described = read_config(folder)
        described["data"].pop("source", None)
        write_json(copy / CONFIG, with_checksum(described | {"config": movable(described["config"])}))
        summary = read_summary(folder)
        summary = dataclasses.replace(summary, config=movable(summary.config))
        if not (copy / SUMMARY).is_file() or read_summary(copy) != summary:  # one of an earlier version stays as it is
            write_summary(copy, summary)
        results["runs"][folder.name] = round(100 * summary.top1, 2)
    write_json(path, results)


def _row(table: str, result: Mapping[str, Any]) -> dict[str, Any]:
    slug = re.sub(r"[^a-z0-9]+", "-", result["label"].lower()).strip("-")
    row: dict[str, Any] = {"row": f"{table}-{slug}", "label": result["label"], "status": "not run"}
    for field, value in result["paper"].items():
        row[f"paper_{field}"] = round(100 * value, 2) if field.startswith("top") else value
    if "ours" not in result:
        return row
    ours = {name: spread["seeds"] for name, spread in result["ours"].items()}
    row |= {"status": "run", "source": "summary.json"} | {name: result[name] for name in COPIED if name in result}
    row |= {name: [round(100 * value, 2) for value in ours[name]] for name in ("top1", "top5")}
    if len(row["top1"]) > 1:
        row |= {"top1_mean": 100 * result["ours"]["top1"]["mean"], "top1_std": 100 * result["ours"]["top1"]["std"]}
    if result.get("search"):
        tried = ", ".join(f"{one['learning_rate']:g}" for one in result["search"])
        row["rates"] = f"{result['learning_rate']:g} of {tried}"
    means = {name: spread["mean"] for name, spread in result["ours"].items()}
    if "full_hours" in means:
        row["full_hours"] = round(means["full_hours"], 1)
    if means["trainable_mb"] != means["mb"]:
        row["trainable_bytes"] = round(1e6 * means["trainable_mb"])
    return row | {
        "bytes": round(1e6 * means["mb"]),
        "macs": round(1e9 * means["network_gmacs"]),
        "generator_macs": round(1e9 * means["generator_gmacs"]),
        "macs_std": round(1e9 * means["network_gmacs_std"]),
        "ms": round(1e3 * means["s_per_image"], 2),
        "images_per_s": round(means["images_per_s"]),
        "hours": round(means["hours"], 2),
    }
