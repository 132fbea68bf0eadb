"""The pages that are made of the record: templates with figures filled in, tables of each study. Imports no JAX."""

import itertools
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.records.data import FOLDER, PER_SEED, STOPPED, RecordError, Study, load_record, look_up

TEMPLATES = {"README.md": "docs/templates/README.md", "docs/results.md": "docs/templates/results.md"}
"""Pages, and what each is made of."""
HEAD = "<!-- Made of {template} and docs/records by `python -m experiments.record`: edit those. -->\n"
START, END = "<!-- results -->", "<!-- end -->"
PLACEHOLDER = re.compile(r"\{\{([^{}|]+)(?:\|(\d))?\}\}")
BYTES = ("bytes", "floats", "puppeteer_bytes", "file_bytes", "activation_bytes", "kernel_bytes", "state_bytes")
MACS = ("macs", "generator_macs")
COLUMNS = {
    "bits": "bits",
    "bytes": "bytes",
    "trainable_bytes": "all trainable (bytes)",
    "coded_bytes": "all needed, coded (bytes)",
    "macs": "M multiply-accumulates",
    "validation": "validation (%)",
    "training": "training (%)",
    "unseen": "unseen (%)",
    "top1": "top-1, test (%)",
    "subset_top1": "top-1 of 200 (%)",
    "activation_bytes": "activations, 8 bits (bytes)",
    "kernel_bytes": "generated kernels, 8 bits (bytes)",
    "state_bytes": "a state (bytes)",
    "paper_top1": "the papers (%)",
    "rates": "learning rate, of those tried",
    "hours": "hours",
    "full_hours": "all epochs (hours), extrapolated",
    "before_ms": "before (ms)",
    "ms": "ms",
    "plain_s": "ordinary weights (s)",
    "before_s": "before (s)",
    "s": "s",
    "over_before": "time over that before",
    "predictor_ms": "predictor (ms)",
    "plain_ms": "stored weights, JAX (ms)",
    "pytorch_ms": "PyTorch (ms)",
    "onnxruntime_ms": "onnxruntime (ms)",
    "over_plain_before": "time over that of stored weights, before",
    "over_plain": "time over that of stored weights",
    "over_pytorch": "time over PyTorch's",
    "onnxruntime_over_pytorch": "onnxruntime's time over PyTorch's",
    "speed": "speed",
    "agreement": "same class (%)",
    "before_value_ms": "value before (ms)",
    "before_gradients_ms": "gradients before (ms)",
    "chosen_value_ms": "value (ms)",
    "chosen_gradients_ms": "gradients (ms)",
    **{
        f"to_{way}_{what}": f"times as fast as {named}, {what}"
        for way, named in (("xla", "XLA"), ("scan", "a bare scan"), ("pytorch", "PyTorch"))
        for what in ("value", "gradients")
    },
}
"""Fields of a row that a study's table shows, in their order."""


def make_pages(root: Path) -> dict[Path, str]:
    """Every page that is made of the record, with the text that it must have.

    Args:
        root: folder that holds `docs/records`.

    Raises:
        RecordError: if the record contradicts itself or lacks what a page asks for.
    """
    studies = load_record(root)
    pages = {}
    for page, template in TEMPLATES.items():
        text = fill((root / template).read_text(), studies)
        pages[root / page] = HEAD.format(template=template) + text
    for study in studies.values():
        path = study.folder / "README.md"
        pages[path] = _between(path, results_tables(study))
    index = root / FOLDER / "README.md"
    pages[index] = _between(index, never_run(studies))
    return pages


def _between(path: Path, made: str) -> str:
    """The page at `path` with what is made of the record between its two marks."""
    if not path.is_file():
        raise RecordError(f"{path} is missing; {FOLDER}/README.md at the last commit says what it holds.")
    before, start, rest = path.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise RecordError(f"{path} lacks {START} and {END}, between which its tables are written.")
    return f"{before}{START}\n\n{made}\n{END}{after}"


def fill(template: str, studies: Mapping[str, Study]) -> str:
    """A template with its placeholders replaced.

    `{{study/row/field}}` is a figure of the record, `{{A - B}}` a difference and `{{A / B}}` a ratio; `|N` behind it
    asks for N decimals. Fields with a figure for each seed are shown as mean and standard deviation; `.mean` and
    `.seeds` show one of the two sides, `.0` the first seed.
    """

    def figure(match: re.Match[str]) -> str:
        decimals = None if match[2] is None else int(match[2])
        for sign in (" - ", " / "):
            if sign in match[1]:
                left, right = (_mean(*look_up(studies, part.strip())) for part in match[1].split(sign))
                value = left - right if sign == " - " else left / right
                return _number(value, 1 if decimals is None else decimals)
        reference = match[1].strip()
        bare, dot, how = reference.rpartition(".")
        if dot and how in ("mean", "seeds"):
            field, value = look_up(studies, bare)
            return show(field, value if how == "seeds" else _mean(field, value), every_seed=True, decimals=decimals)
        return show(*look_up(studies, reference), decimals=decimals)

    return PLACEHOLDER.sub(figure, template)


def show(field: str, value: Any, *, every_seed: bool = False, decimals: int | None = None) -> str:
    """A figure as a page shows it: percentages with two decimals, bytes in full, multiply-accumulates in millions."""
    if isinstance(value, str):
        return value
    if field in PER_SEED:
        shown = [_number(one, 2 if decimals is None else decimals) for one in _list(value)]
        if every_seed or len(shown) == 1:
            return ", ".join(shown)
        return f"{_number(_mean(field, value), 2)} ± {_number(statistics.stdev(value), 2)}"
    if field in MACS:
        millions = _mean(field, value) / 1e6
        return _number(millions, decimals if decimals is not None else 0 if millions >= 100 else 1)
    if field in BYTES:
        return _number(_mean(field, value), 0)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {show(field, one, decimals=decimals)}" for key, one in value.items())
    if isinstance(value, list):
        shown = [show(field, one, decimals=decimals) for one in value]
        return ", ".join(f"({text})" if isinstance(one, list) else text for one, text in zip(value, shown, strict=True))
    if decimals is None and not isinstance(value, int):
        decimals = max(1, len(str(value).partition(".")[2]))
    return _number(value, decimals or 0)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _mean(field: str, value: Any) -> float:
    try:
        return statistics.fmean(_list(value))
    except (TypeError, ValueError):
        raise RecordError(f"{field} {value!r} is no number; a page calculates with it.") from None


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def results_tables(study: Study) -> str:
    """A study's figures as Markdown: its rows, a table for each `table` that they name, then other figures."""
    tables = itertools.groupby(study.results["rows"], key=lambda row: row.get("table"))
    text = "\n".join(f"**{name}**\n\n{_table(list(rows))}" if name else _table(list(rows)) for name, rows in tables)
    if "notes" in study.results:
        text += f"\n{study.results['notes']}\n"
    figures = study.results.get("figures", {})
    if figures:
        text += "\n| other figures | |\n| --- | --- |\n"
    for figure in figures.values():
        error = f" (± {show('', figure['standard_error'])})" if "standard_error" in figure else ""
        unit = f" {figure['unit']}" if "unit" in figure else ""
        text += f"| {figure['what']} | {show('', figure['value'])}{unit}{error} |\n"
    return text


def _table(rows: list[Mapping[str, Any]]) -> str:
    columns = [field for field in COLUMNS if any(field in row for row in rows)]
    seeds = any(len(row.get("top1", [])) > 1 for row in rows)
    head = ["row", "what", *(COLUMNS[field] for field in columns), *(["every seed"] if seeds else []), "remark"]
    lines = [head, ["---", "---", *["---:"] * len(columns), *(["---"] if seeds else []), "---"]]
    for row in rows:
        cells = [f"`{row['row']}`", row.get("label") or row.get("question", "")]
        for field in columns:
            several = field in ("validation", "training", "unseen")
            cells.append(show(field, row[field], every_seed=several) if field in row else "")
        if seeds:
            cells.append(show("top1", row.get("top1", []), every_seed=True) if len(row.get("top1", [])) > 1 else "")
        cells.append(_remark(row))
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def never_run(studies: Mapping[str, Study]) -> str:
    """Rows that were never run, or not to their end, as a Markdown table."""
    text = "| study | never run | not to its end |\n| --- | --- | --- |\n"
    for name, study in studies.items():
        rows = study.rows.items()
        never = ", ".join(f"`{row}`" for row, held in rows if held["status"] == "not run")
        broken = ", ".join(f"`{row}`" for row, held in rows if held["status"].startswith(STOPPED))
        if never or broken:
            text += f"| {name} | {never} | {broken} |\n"
    return text


def _remark(row: Mapping[str, Any]) -> str:
    status = row["status"] if row["status"] not in ("run", "published") else ""
    change = f"change: {show('', row['change'], decimals=2)} points" if "change" in row else ""
    gain = ""
    if "gain" in row:
        value, error = (show("", row[field], decimals=2) for field in ("gain", "standard_error"))
        gain = f"gain: {value} points, ± {error}"
    source = row["source"] if row["status"] == "published" else ""
    parts = (status, change, gain, row.get("conclusion", ""), row.get("notes", ""), source)
    return "; ".join(part for part in parts if part)
