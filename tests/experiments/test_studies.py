"""The study: every row can be trained, and the log tells of every row."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import studies
from experiments.cli import run_command
from experiments.config import BEST
from experiments.networks import make_network
from experiments.studies.__main__ import Command, study
from experiments.studies.rows import ROWS
from experiments.tables import runs

LOG = (Path(studies.__file__).parent / "README.md").read_text()


def test_every_row_has_a_network_of_its_own():
    assert len(set(ROWS.values())) == len(ROWS)
    for config in ROWS.values():
        make_network(config, 10, (32, 32, 3)).check()


def test_preset_best_is_a_row():
    assert BEST in ROWS.values()


def test_one_protocol():
    """The same images and steps for all of a kind."""
    for name, config in ROWS.items():
        protocol = (config.num_images, config.num_validation, config.epochs, config.batch_size, config.augment)
        epochs, batch_size = 28 if name.startswith("whole") else 8, 128 if name.startswith("whole-512") else 64
        assert protocol == (8_000, 2_000, epochs, batch_size, "none")


@pytest.mark.parametrize("row", ROWS)
def test_the_log_names_every_row(row):
    assert f"| `{row}` |" in LOG


def test_command(tmp_path, monkeypatch, capsys):
    """Trains what is missing under the asked seed, reads what is finished, prints both."""
    trained = []

    def train(experiment, config, options, dataset):
        trained.append((experiment, config, options.workdir))
        options.workdir.mkdir()
        figures = ("top1", "top5", "puppeteer_bytes", "generator_macs", "puppet_macs", "latency_s",
                   "latency_generating_s", "depth_mean", "device", "versions")  # fmt: skip
        summary = dict.fromkeys(figures, 1) | {"trainable_bytes": 26_664, "train_seconds": 100 + len(trained)}
        (options.workdir / "config.json").write_text(json.dumps({"config": dataclasses.asdict(config)}))
        (options.workdir / "summary.json").write_text(json.dumps(summary))
        row = {"step": 1, "validation_top1": 0.61 + 0.01 * len(trained), "train_top1": 0.7}
        (options.workdir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return summary

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs, "load_dataset", lambda *_: None)

    def call(*rows):
        return run_command(Command, study, "experiments.studies", "", [*rows, "--seed", "3", "--runs", str(tmp_path)])

    assert call("wide") == 0
    capsys.readouterr()
    assert call("muon", "wide") == 0
    assert trained == [
        ("cifar10", dataclasses.replace(ROWS[name], seed=3), tmp_path / f"{name}-seed3") for name in ("wide", "muon")
    ]
    *_, muon, wide = capsys.readouterr().out.splitlines()
    assert muon.split() == ["muon", "63.00%", "70.00%", "26,664", "102"]
    assert wide.split() == ["wide", "62.00%", "70.00%", "26,664", "101"]
    monkeypatch.setitem(ROWS, "wide", dataclasses.replace(ROWS["wide"], epochs=9))
    assert call("wide") == 1  # what is finished is another row
    assert "another configuration (epochs: 8 there, 9 now)" in capsys.readouterr().err
    assert call("no-such-row") == 2
    assert call() == 2
