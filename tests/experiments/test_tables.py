"""Tables: their sizes, the runs behind them, what is printed and written."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import rewrite_json
from made_up import make_summary
from shared_programs import share_programs, stand_still

from experiments.cifar10 import PRESETS
from experiments.cli import run_command
from experiments.config import Adaptive, ByComplexity, Config, Data, Optim, Ordinary, PuppetCNN
from experiments.errors import Interrupted, RunError
from experiments.evaluation.summary import read_summary, write_summary
from experiments.fields import replace
from experiments.runs import folder as run_folder
from experiments.runs.files import write_json
from experiments.tables import __main__ as program, runs, sizes
from experiments.tables.__main__ import Command, make
from experiments.tables.definitions import TRAINED
from experiments.tables.rows import Row, Table, scaled, search_of

CONFIG = Config(
    network=PuppetCNN(
        channels=(8,), depth=ByComplexity(depths=(1, 1)), kernels=Adaptive(levels_per_batch=1, num_levels=2)
    ),
    data=Data(num_images=64, num_validation=32),
    optim=Optim(epochs=2, batch_size=16),
)
PRINTED = {"top1": 0.7251, "top5": 0.9685, "mb": 1.08}


def command_line(tmp_path, *argv, name="ablation"):
    words = [name, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *map(str, argv)]
    return run_command(Command, make, "experiments.tables", "Makes a table.", words)


def table_of(*rows, **settings):
    return Table(title="A table", rows=rows, **({"smoke": 0.5, "seeds": 2, "columns": ("mb", "depth")} | settings))


def define(monkeypatch, *rows, **settings):
    monkeypatch.setitem(TRAINED, "ablation", lambda: table_of(*rows, **settings))


REAL = replace(CONFIG, channels=(4,))
REAL_ROWS = (Row("one", "digits", REAL, PRINTED), Row("other", "digits", replace(REAL, num_validation=40)))
ROWS = (
    Row("eight channels", "digits", CONFIG, PRINTED),
    Row("ten channels", "digits", replace(CONFIG, max_channels=10)),
)


class Trainer:
    """Stands in for `train`: writes a run's folder with made-up figures, notes what it was asked for."""

    def __init__(self):
        self.configs = []
        self.fails = {}
        self.validation = {}

    def __call__(self, experiment, config, options, dataset):
        self.configs.append(config)
        run_folder.open_run(options.workdir, experiment, config, {"sha256": "0"}, options.resume)
        if config in self.fails:
            raise self.fails.pop(config)
        top1 = 0.5 + 0.01 * len(self.configs)
        stored = 0 if isinstance(config.network.kernels, Ordinary) else 1_000_000
        validation = self.validation.get(round(config.optim.learning_rate, 6), 0.5)
        figures = {"top1": top1, "puppeteer_bytes": stored, "validation_top1": validation, "train_seconds": 7200}
        summary = make_summary(config, **figures)
        write_summary(options.workdir, summary)
        return summary


def _rate(folder):
    return json.loads((folder / "config.json").read_text())["config"]["optim"]["learning_rate"]


def _epochs(folder):
    return json.loads((folder / "config.json").read_text())["config"]["optim"]["epochs"]


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr(runs, "train", trainer)
    return trainer


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_line(capsys):
    """The last line, which is the only error."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


class TestSizes:
    def test_channels(self, tmp_path, capsys):
        assert command_line(tmp_path, "--json", name="channels") == 0
        described = json.loads(capsys.readouterr().out)
        rows = {row["channels"]: row for row in described["rows"]}
        printed = {64: (0.04, 0.02), 512: (2.63, 1.08), 4096: (167.83, 67.35)}
        for c, (millions, mb) in printed.items():
            assert rows[c]["floats"] == c**2 + 15 * c
            assert (rows[c]["paper_with_state_m"], rows[c]["paper_mb"]) == (millions, mb)
            assert (round(rows[c]["with_state_m"], 2), round(rows[c]["mb"], 2)) == (millions, mb)
        assert len(rows) == 7
        for row in rows.values():
            assert abs(row["residual_mb"]) < 0.0051
        text = (tmp_path / "out" / "channels.md").read_text()
        assert "| C = 512 | 269,824 | 1.0793 | 1.08 | -0.0007 | 2.63 | 2.63 |" in text

    def test_networks(self, tmp_path, capsys):
        """On standard output one JSON object, nothing else; and it is the one that is written."""
        assert command_line(tmp_path, "--json", name="sizes") == 0
        out, err = capsys.readouterr()
        described = json.loads(out)
        assert out.count("\n") == 1
        assert err.startswith("written: ")
        assert described == json.loads((tmp_path / "out" / "sizes.json").read_text())
        assert described["name"] == "sizes"
        rows = {row["label"]: row for row in described["rows"]}
        floats = {label: row["floats"] for label, row in rows.items()}
        assert floats["alexnet"] == 2_913_610
        assert floats["vgg, 100 classes"] == 9_799_844
        assert floats["resnet"] == 11_209_290
        assert floats["squeezenet"] == 990_282
        assert (
            floats["puppeteer, C = 512"] == floats["puppeteer of alexnet"] == floats["puppeteer of resnet"] == 269_824
        )
        assert floats["puppeteer of vgg and all else it trains"] > floats["puppeteer of vgg"]
        for label, row in rows.items():
            assert row["mb"] == 4 * row["floats"] / 1e6
            close = 0.06 if label == "mobilenet_v2" else 0.0051
            assert row["paper_mb"] is None or abs(row["residual_mb"]) < close
        assert rows["alexnet"]["paper_mb"] == 11.65
        assert rows["resnet, 100 classes"]["paper_mb"] == 45.02
        assert rows["resnet20"]["residual_mb"] is None

    @pytest.mark.slow
    def test_depths(self, tmp_path, monkeypatch, capsys):
        """Generated kernels cost the same at any depth; kernels of one's own grow."""
        monkeypatch.setattr(sizes, "LAYERS", {"vgg": (11, 47), "resnet": (12, 48)})
        assert command_line(tmp_path, "--json", name="depths") == 0
        out = capsys.readouterr().out
        described, text = json.loads(out), (tmp_path / "out" / "depths.md").read_text()
        assert out.count("\n") == 1
        assert described == json.loads((tmp_path / "out" / "depths.json").read_text())
        rows = described["rows"]
        assert [(row["network"], row["layers"]) for row in rows] == [
            *(("vgg", 11), ("vgg", 47)),
            *(("resnet", 12), ("resnet", 48)),
        ]
        for shallow, deep in (rows[:2], rows[2:]):
            assert shallow["puppet_bytes"] == deep["puppet_bytes"]
            assert shallow["puppeteer_bytes"] == deep["puppeteer_bytes"] == 4 * 269_824
            assert deep["fixed_bytes"] > 3 * shallow["fixed_bytes"]
            assert shallow["puppet_bytes"] < shallow["puppet_affine_bytes"] < deep["puppet_affine_bytes"]
            assert shallow["puppet_bytes"] < shallow["fixed_bytes"]
        assert rows[0]["fixed_bytes"] == 4 * 9_753_674
        assert f"{rows[0]['fixed_bytes']:,}" in text


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table of two rows and two seeds at half the protocol, of whose runs all is real but the steps.

    Tests must not change its folder.
    """
    folder = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        share_programs(patch, lambda config: replace(config, seed=0, num_validation=32))
        stand_still(patch)
        define(patch, *REAL_ROWS)
        assert command_line(folder) == 0
    return folder


class TestTrained:
    def described(self, folder):
        return json.loads((folder / "out" / "ablation.json").read_text())

    def test_runs_are_ordinary_ones(self, made):
        described = self.described(made)
        folders = [folder for row in described["rows"] for folder in row["runs"]]
        assert len(set(folders)) == 4
        for folder, expected in zip(folders, [(0, 32), (1, 32), (0, 40), (1, 40)], strict=True):
            described = run_folder.read_config(made / "runs" / folder.split("/")[-1])
            config = described["config"]
            assert (described["experiment"], config["optim"]["epochs"]) == ("digits", 1)
            assert (config["seed"], config["data"]["num_validation"]) == expected

    def test_json(self, made):
        described = self.described(made)
        assert described["smoke"] is True
        assert (described["name"], described["budget"], described["seeds"]) == ("ablation", 0.5, 2)
        for row, paper in zip(described["rows"], [PRINTED, {}], strict=True):
            assert (row["paper"], row["seeds"]) == (paper, [0, 1])
            summaries = [read_summary(made / "runs" / one.split("/")[-1]) for one in row["runs"]]
            top1 = [summary.top1 for summary in summaries]
            assert row["ours"]["top1"]["seeds"] == top1
            assert row["ours"]["top1"]["mean"] == pytest.approx(np.mean(top1))
            assert row["ours"]["top1"]["std"] == pytest.approx(np.std(top1, ddof=1))
            assert row["seconds"] == pytest.approx(sum(summary.train_seconds for summary in summaries))
            assert row["ours"]["mb"] == {"mean": 4 * (4**2 + 15 * 4) / 1e6, "std": 0, "seeds": [4 * 76 / 1e6] * 2}

    def test_markdown(self, made):
        text = (made / "out" / "ablation.md").read_text()
        title, _, header, _, *lines = text.splitlines()
        assert title == "## A table: SMOKE RUN, 50 % of the protocol"
        columns = [cell.strip() for cell in header.strip("|").split("|")]
        cells = dict(zip(columns, [cell.strip() for cell in lines[0].strip("|").split("|")], strict=True))
        assert columns[0] == ""
        assert cells[""] == "one"
        assert (cells["papers: top-1 (%)"], cells["papers: top-5 (%)"]) == ("72.51", "96.85")
        ours = self.described(made)["rows"][0]["ours"]["top1"]
        assert cells["ours: top-1 (%)"] == f"{100 * ours['mean']:.2f} ± {100 * ours['std']:.2f}"
        assert cells["every seed"] == ", ".join(f"{100 * value:.2f}" for value in ours["seeds"])
        assert cells["ours: mean depth"] == "1.00"
        assert "2 seeds; budget 0.5, a small budget: not the protocol's result; " in text
        assert re.search(r"Python \d+\.\d+\.\d+, jax \d+", text)

    def test_picture(self, made):
        assert (made / "out" / "ablation.png").read_bytes().startswith(b"\x89PNG")

    def test_a_second_call_trains_nothing(self, made, monkeypatch, capsys):
        """And with --json, standard output is the object that is written, nothing else."""

        def refuses(*_):
            raise AssertionError("trained again")

        monkeypatch.setattr(runs, "train", refuses)
        monkeypatch.setattr(runs, "load_dataset", refuses)
        define(monkeypatch, *REAL_ROWS)
        before = contents(made)
        assert command_line(made, "--json") == 0
        picture = made / "out" / "ablation.png"  # drawn again
        assert contents(made) | {picture: b""} == before | {picture: b""}
        out, err = capsys.readouterr()
        assert json.loads(out) == self.described(made)
        assert out.count("\n") == 1
        assert "written: " in err


class TestRuns:
    def test_the_whole_budget_is_no_smoke_run(self, trainer, tmp_path, monkeypatch, capsys):
        define(monkeypatch, *ROWS)
        assert command_line(tmp_path, "--budget", 1, "--seeds", 1) == 0
        text = capsys.readouterr().out
        assert text == (tmp_path / "out" / "ablation.md").read_text() + "\n"
        assert text.startswith("## A table\n")
        assert "SMOKE" not in text
        assert "small budget" not in text
        assert "every seed" not in text
        assert trainer.configs == [row.config for row in ROWS]

    def test_stored_kernels_count_as_what_is_stored(self, trainer, tmp_path, monkeypatch):
        fixed, generated = PRESETS["vgg-fixed"], PRESETS["vgg-puppet"]
        define(monkeypatch, Row("fixed", "digits", fixed), Row("generated", "digits", generated))
        assert command_line(tmp_path, "--seeds", 1) == 0
        rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
        assert [row["ours"]["mb"]["mean"] for row in rows] == [3, 1]

    @pytest.mark.parametrize(("budget", "times"), [(0.5, 2), (0.25, None)])
    def test_time_of_the_full_protocol(self, trainer, tmp_path, monkeypatch, budget, times):
        """Is extrapolated from one epoch of two, not from less than one, whose time is that of compiling."""
        define(monkeypatch, *ROWS, columns=("full_hours",))
        assert command_line(tmp_path, "--budget", budget, "--seeds", 1) == 0
        ours = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"][0]["ours"]
        assert ours.get("full_hours", {}).get("mean") == (times and pytest.approx(times * ours["hours"]["mean"]))
        assert "full protocol (h), extrapolated" in (tmp_path / "out" / "ablation.md").read_text()

    def test_interrupted(self, trainer, tmp_path, monkeypatch, capsys):
        """Stops with the status of the signal; what is finished is kept, what is not goes on."""
        define(monkeypatch, *ROWS)
        second = scaled(ROWS[1].config, 0.5, 1)
        trainer.fails[second] = Interrupted(2, "stopped after step 3")
        assert command_line(tmp_path) == 130
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[-1] == (
            "ten channels, seed 1, is interrupted and saved; give the same command to go on."
        )
        assert not (tmp_path / "out").exists()
        assert len(trainer.configs) == 4
        assert command_line(tmp_path) == 0
        assert trainer.configs[4:] == [second]
        assert len(json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]) == 2

    def test_missing_data(self, trainer, tmp_path, monkeypatch, capsys):
        """Is said in its row, which does not keep the others from their figures."""
        define(monkeypatch, Row("no data", "mini_imagenet", CONFIG, PRINTED), ROWS[0])
        assert command_line(tmp_path) == 0
        text = capsys.readouterr().out
        assert re.search(r"\| no data \| 72\.51 \| 96\.85 \| 1\.08 \| not run \|", text)
        assert "Not run: no data: there is no automatic download of mini-ImageNet" in text
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1
        missing, ran = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
        assert "--mini-imagenet-dir" in missing["missing"]
        assert "ours" not in missing
        assert ran["ours"]["top1"]["seeds"] == [0.51, 0.52]

    def test_all_data_missing(self, trainer, tmp_path, monkeypatch, capsys):
        define(monkeypatch, Row("no data", "mini_imagenet", CONFIG))
        assert command_line(tmp_path, "--mini-imagenet-dir", tmp_path / "nothing") == 1
        assert str(tmp_path / "nothing") in one_line(capsys)
        assert not (tmp_path / "out").exists()

    def test_data_of_the_rows_of_choice_missing(self, trainer, tmp_path, monkeypatch, capsys):
        define(monkeypatch, *ROWS, Row("no data", "mini_imagenet", CONFIG))
        assert command_line(tmp_path, "--rows", "no data", "--mini-imagenet-dir", tmp_path / "nothing") == 1
        assert str(tmp_path / "nothing") in one_line(capsys)

    def test_finished_runs_need_no_data(self, trainer, tmp_path, monkeypatch):
        define(monkeypatch, *ROWS)
        assert command_line(tmp_path) == 0
        monkeypatch.setattr(runs, "load_dataset", None)
        assert command_line(tmp_path) == 0
        assert len(trainer.configs) == 4

    def test_finished_runs_alone(self, trainer, tmp_path, monkeypatch, capsys):
        define(monkeypatch, *ROWS)
        assert command_line(tmp_path) == 0
        folders = sorted((tmp_path / "runs").glob("*/summary.json"))
        seeds = [run_folder.read_config(path.parent)["config"] for path in folders]
        for path, config in zip(folders, seeds, strict=True):
            if config["network"]["kernels"]["max_channels"] is None or config["seed"] == 0:
                path.unlink()
        assert command_line(tmp_path, "--finished") == 0
        assert len(trainer.configs) == 4  # nothing more
        first, second = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
        assert first["missing"] == "no seed is finished"
        assert (second["seeds"], second["ours"]["top1"]["seeds"]) == ([1], [0.54])
        text = (tmp_path / "out" / "ablation.md").read_text()
        assert "Not run: eight channels: no seed is finished\n" in text
        assert "Seeds not run: ten channels: 0.\n" in text
        for path in folders:
            path.unlink(missing_ok=True)
        assert command_line(tmp_path, "--finished") == 1
        assert "no run of this table is finished in" in capsys.readouterr().err

    def test_rows_of_choice(self, trainer, tmp_path, monkeypatch, capsys):
        define(monkeypatch, *ROWS)
        assert command_line(tmp_path, "--rows", "ten channels") == 0
        assert [config.network.kernels.max_channels for config in trainer.configs] == [10, 10]
        first, second = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
        assert (first["missing"], second["seeds"]) == ("no seed is finished", [0, 1])
        assert command_line(tmp_path, "--rows", "eight channels", "ten channels") == 0
        rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
        assert len(trainer.configs) == 4 and all("ours" in row for row in rows)
        capsys.readouterr()
        assert command_line(tmp_path, "--rows", "nine channels") == 2
        assert "ablation has no row 'nine channels'; give --rows some of eight channels; ten channels." in one_line(
            capsys
        )

    @pytest.mark.parametrize(
        ("name", "damaged"),
        [
            ("config.json", "{"),
            ("summary.json", "{"),
            ("summary.json", "[]"),
            ("summary.json", '{"top1": 0.5}'),
            ("config.json", None),
        ],
    )
    def test_a_damaged_run(self, trainer, tmp_path, monkeypatch, capsys, name, damaged):
        """One line that names it; nothing is overwritten."""
        define(monkeypatch, *ROWS)
        assert command_line(tmp_path) == 0
        rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
        (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.name == rows[1]["runs"][0].split("/")[-1])
        (folder / name).unlink() if damaged is None else (folder / name).write_text(damaged)
        before = contents(tmp_path)
        capsys.readouterr()
        assert command_line(tmp_path) == 1
        assert folder.name in one_line(capsys)
        assert contents(tmp_path) == before
        assert len(trainer.configs) == 4

    def test_a_failed_run(self, trainer, tmp_path, monkeypatch, capsys):
        define(monkeypatch, *ROWS)
        trainer.fails[scaled(CONFIG, 0.5, 1)] = RunError("the loss became nan.")
        assert command_line(tmp_path) == 1
        assert "the loss became nan." in one_line(capsys)

    def test_a_changed_configuration_is_noticed(self, trainer, tmp_path, monkeypatch, capsys):
        """Where the folder's name does not tell, the configuration that lies in it does; of unfinished runs as well."""
        define(monkeypatch, ROWS[0])
        assert command_line(tmp_path) == 0
        (folder, _) = sorted((tmp_path / "runs").iterdir())
        stored = json.loads((folder / "config.json").read_text())
        stored["config"]["network"]["kernels"]["scale"] = 0.5
        rewrite_json(folder / "config.json", stored)
        capsys.readouterr()
        assert command_line(tmp_path) == 1
        assert "scale: 0.5 there, 0.1 now" in one_line(capsys)
        (folder / "summary.json").unlink()
        assert command_line(tmp_path) == 1
        assert "scale: 0.5 there, 0.1 now" in one_line(capsys)

    def test_a_rate_is_chosen_on_validation_images(self, trainer, tmp_path, monkeypatch, capsys):
        """Each rate for a fifth of the epochs, further out while the best is at an edge; the best for all epochs."""
        trainer.validation = {1e-3: 0.3, 3e-3: 0.4, 9e-3: 0.6, 2.7e-2: 0.5}
        config = replace(CONFIG, epochs=10)
        rows = (
            Row("one", "digits", config, {"mb": 1.5}, rates=(1e-3, 3e-3), confidence="low"),
            Row("other", "digits", CONFIG),
        )
        define(monkeypatch, *rows, seeds=1)
        assert command_line(tmp_path, "--budget", "1") == 0
        searched = [(config.optim.epochs, config.optim.learning_rate) for config in trainer.configs]
        rates = pytest.approx([1e-3, 3e-3, 9e-3, 2.7e-2, 9e-3])
        assert [epochs for epochs, _ in searched] == [2, 2, 2, 2, 10]
        assert [rate for _, rate in searched] == rates
        described = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"][0]
        assert described["learning_rate"] == pytest.approx(9e-3)
        assert [one["validation_top1"] for one in described["search"]] == [0.3, 0.4, 0.6, 0.5]
        text = (tmp_path / "out" / "ablation.md").read_text()
        assert re.search(r"\| -0.500 \| low \| 10 \| 0.009 of 0.001, 0.003, 0.009, 0.027 \|", text)

    def test_a_row_whose_rates_are_tried_for_fewer_epochs(self, trainer, tmp_path, monkeypatch):
        """As few as the row says under a small budget; a fifth of the epochs under the full one."""
        row = Row("long", "digits", replace(CONFIG, epochs=20), rates=(1e-3, 3e-3, 1e-2), search_epochs=1)
        trainer.validation = {1e-3: 0.3, 3e-3: 0.4, 1e-2: 0.1}
        define(monkeypatch, row, seeds=1)
        assert command_line(tmp_path, "--budget", "0.5") == 0
        assert [config.optim.epochs for config in trainer.configs] == [1, 1, 1, 10]
        assert search_of(row, 1, 1e-3).optim.epochs == 4

    def test_a_row_that_starts_from_another_run(self, trainer, tmp_path, monkeypatch):
        first, second = replace(CONFIG, epochs=4), replace(CONFIG, epochs=2, learning_rate=1e-4)
        row = Row("two phases", "digits", second, rates=(1e-3, 3e-3, 1e-2), first=first, short_epochs=2)
        trainer.validation = {1e-3: 0.3, 3e-3: 0.4, 1e-2: 0.1}
        define(monkeypatch, row, seeds=1)
        assert command_line(tmp_path, "--budget", "0.75") == 0
        *searched, before, after = trainer.configs
        assert [config.optim.learning_rate for config in searched] == [1e-3, 3e-3, 1e-2]
        assert (before.optim.epochs, before.optim.learning_rate, before.start_from) == (2, 3e-3, None)  # at most two
        longer = dataclasses.replace(row, first=replace(first, epochs=20))
        assert search_of(longer, 1, 1e-3).optim.epochs == 4  # under the full budget
        assert (after.optim.epochs, after.optim.learning_rate) == (2, 1e-4)
        start = Path(after.start_from)
        assert start.parent == tmp_path / "runs"
        assert json.loads((start / "summary.json").read_text())["config"]["optim"]["learning_rate"] == 3e-3
        described = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"][0]
        assert (described["epochs"], described["learning_rate"]) == (4, 3e-3)
        seconds = read_summary(start).train_seconds
        assert described["seconds"] == 2 * seconds
        assert described["ours"]["hours"]["mean"] == pytest.approx(2 * seconds / 3600)
        full = seconds * (4 / 2 + 2 / 2)  # all epochs of both, from the time of two each
        assert described["ours"]["full_hours"]["mean"] == pytest.approx(full / 3600)

    def test_goes_on_from_the_record(self, trainer, tmp_path, monkeypatch, capsys):
        """Its rows stand in the study; the copied runs are finished ones, wherever they lie, and start each other."""
        first = replace(CONFIG, epochs=4)
        second = replace(CONFIG, epochs=2, learning_rate=1e-4)
        rows = (
            Row("Two phases!", "digits", second, PRINTED, rates=(1e-3, 3e-3, 1e-2), first=first, confidence="low"),
            Row("one", "digits", CONFIG),
        )
        define(monkeypatch, *rows, seeds=2)
        study = tmp_path / "2026-11-22-study"
        assert command_line(tmp_path, "--budget", "1", "--record", study) == 2
        assert "holds no results.json" in capsys.readouterr().err
        study.mkdir()
        write_json(study / "results.json", {"rows": [{"row": "other-one"}, {"row": "ablation-old"}]})
        assert command_line(tmp_path, "--budget", "1", "--record", study) == 0
        found = json.loads((study / "results.json").read_text())
        assert [row["row"] for row in found["rows"]] == ["other-one", "ablation-two-phases", "ablation-one"]
        described = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
        two, one = found["rows"][1:]
        assert (two["status"], two["seeds"], two["rates"], two["paper_top1"]) == (
            "run",
            [0, 1],
            "0.001 of 0.000333333, 0.001, 0.003, 0.01",
            72.51,
        )
        assert two["top1"] == [round(100 * top1, 2) for top1 in described[0]["ours"]["top1"]["seeds"]]
        assert two["top1_mean"] == pytest.approx(100 * described[0]["ours"]["top1"]["mean"])
        assert (one["bytes"], one["trainable_bytes"]) == (1_000_000, 3_000_000)
        assert (two["hours"], two["full_hours"]) == (4, 4)  # two hours each phase, at the whole budget
        assert found["runs"].keys() == {path.name for path in (tmp_path / "runs").iterdir()}
        assert str(tmp_path) not in "".join(path.read_text() for path in (study / "runs").glob("*/*"))
        before = len(trainer.configs)
        shutil.move(study / "runs", tmp_path / "elsewhere")
        shutil.rmtree(tmp_path / "runs")
        words = ["ablation", "--budget", "1", "--runs", str(tmp_path / "elsewhere"), "--out", str(tmp_path / "again")]
        assert run_command(Command, make, "experiments.tables", "Makes a table.", words) == 0
        assert len(trainer.configs) == before
        again = json.loads((tmp_path / "again" / "ablation.json").read_text())["rows"]
        assert [row["ours"] for row in again] == [row["ours"] for row in described]

    def test_a_row_that_is_not_run_is_recorded_as_such(self, trainer, tmp_path, monkeypatch):
        define(monkeypatch, Row("one", "digits", CONFIG, PRINTED, rates=(1e-3,)), Row("other", "digits", CONFIG))
        assert command_line(tmp_path, "--budget", "1") == 0
        found = next(path for path in (tmp_path / "runs").iterdir() if _epochs(path) == 1)  # that tries a rate
        (found / "summary.json").unlink()
        study = tmp_path / "study"
        study.mkdir()
        write_json(study / "results.json", {"rows": []})
        assert command_line(tmp_path, "--budget", "1", "--finished", "--record", study) == 0
        first, second = json.loads((study / "results.json").read_text())["rows"]
        assert (first["status"], second["status"]) == ("not run", "run")
        assert first["paper_mb"] == 1.08 and "top1" not in first

    def test_finished_without_a_rate_that_is_tried(self, trainer, tmp_path, monkeypatch, capsys):
        define(monkeypatch, Row("one", "digits", CONFIG, rates=(1e-3, 3e-3)), Row("other", "digits", CONFIG), seeds=1)
        assert command_line(tmp_path, "--budget", "1") == 0
        (found,) = [path for path in (tmp_path / "runs").iterdir() if _rate(path) == 3e-3 and _epochs(path) == 1]
        (found / "summary.json").unlink()
        assert command_line(tmp_path, "--budget", "1", "--finished") == 0
        assert (
            "Not run: one: the learning rate 0.003 is not tried yet" in (tmp_path / "out" / "ablation.md").read_text()
        )

    def test_rows_of_one_configuration_share_runs(self, trainer, tmp_path, monkeypatch):
        define(monkeypatch, ROWS[0], dataclasses.replace(ROWS[0], label="again"))
        assert command_line(tmp_path) == 0
        assert len(trainer.configs) == 2


class TestUsage:
    def test_every_table_is_described(self):
        names = {*TRAINED, "channels", "sizes", "depths"}
        assert set(re.findall(r"^\| (\w+) \|", program.__doc__, re.MULTILINE)) == names | {"NAME"}

    @pytest.mark.parametrize(
        "argv",
        [
            *(["ablation", "--budget", value] for value in ("0", "2", "-1", "nan", "inf", "many")),
            ["ablation", "--seeds", "0"],
            ["sizes", "--record", "study"],
            ["sizes", "--rows", "ResNet"],
            ["ablation", "--finished", "--rows", "scale 1"],
            ["figure7"],
            [],
            ["ablation", "--table", "3"],
        ],
        ids=" ".join,
    )
    def test_wrong(self, tmp_path, monkeypatch, capsys, argv):
        monkeypatch.chdir(tmp_path)
        assert run_command(Command, make, "experiments.tables", "Makes a table.", argv) == 2
        assert "Traceback" not in capsys.readouterr().err
        assert not any(tmp_path.iterdir())
