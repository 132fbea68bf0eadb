"""The trained models in the package, which need no network and no data."""

import json
from pathlib import Path

import pytest

import puppet_jax as pj
from puppet_jax.pretrained import pretrained_file

RECORDS = Path(__file__).parents[1] / "docs" / "records"


def test_the_default_is_there():
    assert pretrained_file().is_file()


def _figure(name, field, trained):
    """As recorded when the model was stored anew, else as its training left it."""
    rows = json.loads((RECORDS / "2026-11-30-vectors" / "results.json").read_text())["rows"]
    for row in rows:
        if row["label"] == f"{name}, vectors in 8 bits (format 3)":
            return row[field][0] if isinstance(row[field], list) else row[field]
    return trained


@pytest.mark.parametrize("name", pj.pretrained_models())
def test_each_has_its_card_and_its_log(name):
    card = pretrained_file(name).with_suffix(".md").read_text()
    assert name in card
    (log,) = RECORDS.glob(f"*/runs/{name}")
    summary = json.loads((log / "summary.json").read_text())
    assert f"**{_figure(name, 'top1', 100 * summary['top1']):.2f} %** top-1" in card
    assert f"{_figure(name, 'bytes', summary['trainable_bytes']):,}" in card
    assert f"{pretrained_file(name).stat().st_size:,}" in card
    assert summary["config"]["bits"] == pj.load_pretrained(name).bits
    trained = log
    if not (trained / "metrics.jsonl").exists():  # rounded without further training
        (trained,) = RECORDS.glob(f"*/runs/{name.removesuffix('-4bit')}")
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == summary["config"]["epochs"]
