"""Speed of runs beside each other."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import rewrite_json
from made_up import PUPPET, graded_images, make_model

import puppet_jax as pj
from experiments.benchmark import Command, benchmark
from experiments.benchmarks import convolutions, generation, predictor, steps
from experiments.benchmarks.rounds import table, time_rounds
from experiments.cifar10 import BEST, SMALL
from experiments.cli import run_command
from experiments.data import load_dataset
from experiments.fields import replace
from experiments.model import save_model
from experiments.runs.folder import versions


def command_line(*argv):
    return run_command(Command, benchmark, "experiments.benchmark", "Times.", [str(arg) for arg in argv])


MIRRORED = (2, 4, 128, 128, 3, 1, True)


@pytest.fixture
def run(straight):
    return straight.folder


class TestTimeRounds:
    def test_each_takes_its_turn_and_another_begins(self):
        order, now = [], [0.0]

        def call(which):
            def run():
                order.append(which)
                now[0] += which + 1

            return run

        seconds = time_rounds([call(0), call(1), call(2)], 4, clock=lambda: now[0])
        assert seconds == [[1] * 4, [2] * 4, [3] * 4]
        assert order[:3] == [0, 1, 2]  # compiles
        assert [order[3 + 3 * turn : 6 + 3 * turn] for turn in range(4)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]


def test_ratios_are_to_the_first_in_the_same_round():
    rows = [
        {"network": "a", "batch_size": 1, "images_per_s": 1234.5, "speed": 1.0, "speed_range": [1.0, 1.0]},
        {"network": "b", "batch_size": 256, "images_per_s": 9.0, "speed": 0.5, "speed_range": [0.25, 0.75]},
    ]
    assert table(rows).splitlines()[2:] == [
        "| a | 1 | 1,234 | 1.00 (1.00 to 1.00) |",
        "| b | 256 | 9 | 0.50 (0.25 to 0.75) |",
    ]


class TestCommand:
    def test_writes_what_it_prints(self, run, tmp_path, capsys):
        argv = (run, run, "--rounds", 3, "--images", 64, "--batch-sizes", 1, 32, "--out", tmp_path)
        assert command_line(*argv) == 0
        found = json.loads((tmp_path / "benchmark.json").read_text())
        assert [row["batch_size"] for row in found["rows"]] == [1, 1, 32, 32]
        for first, second in (found["rows"][:2], found["rows"][2:]):
            assert (first["speed"], first["speed_range"]) == (1, [1, 1])
            low, high = second["speed_range"]
            assert 0 < low <= second["speed"] <= high
            assert first["images_per_s"] > 0
        assert {row["run"] for row in found["rows"]} == {str(run)}
        assert (found["rounds"], found["versions"]) == (3, versions())
        out = capsys.readouterr().out
        assert table(found["rows"]) in out
        assert out.endswith(f"device: {found['device']}\n")

    def test_convolutions(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(
            convolutions,
            "CASES",
            [convolutions.Case(*one) for one in ((4, 6, 6, 4), (64, 8, 32, 32), (4, 6, 4, 4, 3, 4), MIRRORED)],
        )
        monkeypatch.setattr("puppet_jax.cpu.fast_convolution.has_avx512", lambda: False)
        assert command_line("--convolutions", "--rounds", 2, "--out", tmp_path) == 0
        found = json.loads((tmp_path / "convolutions.json").read_text())
        small, wide, depthwise, mirrored = found["rows"]
        assert (small["images"], small["kernel"], small["chosen"]) == ([4, 6, 6, 6], [3, 3, 6, 4], "products")
        assert wide["chosen"] == "winograd"
        assert (depthwise["kernel"], depthwise["groups"], depthwise["chosen"]) == ([3, 3, 1, 4], 4, "shifts")
        assert (mirrored["kernel"], mirrored["mirrored"], mirrored["chosen"]) == ([3, 3, 128, 64], True, "halves")
        for row in found["rows"]:
            assert row["error"] < 1e-5
            for name in ("value", "gradients"):
                ours = [seconds for way, seconds in row[name].items() if way != "pytorch"]
                assert min(ours) > 0
                assert row["to_best"][name] == row[name][row["chosen"]] / min(ours) >= 1
        assert convolutions.table(found["rows"]) in capsys.readouterr().out

    def test_generation(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(generation, "CASES", [generation.Case(8, 2), generation.Case(16, 3)])
        monkeypatch.setattr(generation, "GRADIENT_MACS", 2 * (8**2 + 11 * 8) * 8 * 9)
        assert command_line("--generation", "--rounds", 2, "--out", tmp_path) == 0
        found = json.loads((tmp_path / "generation.json").read_text())["rows"]
        assert [(row["channels"], row["layers"]) for row in found] == [(8, 2), (16, 3)]
        assert [row["macs"] for row in found] == [2 * (8**2 + 11 * 8) * 8 * 9, 3 * (16**2 + 11 * 16) * 16 * 9]
        assert all(row["error"] < 1e-5 and min(row["value"].values()) > 0 for row in found)
        assert "gradient" in found[0] and "gradient" not in found[1]
        assert found[0]["line"] == 1
        seconds = [row["value"]["library"] for row in found]
        assert found[1]["line"] == pytest.approx(seconds[1] / seconds[0] * found[0]["macs"] / found[1]["macs"])
        assert generation.table(found) in capsys.readouterr().out

    def test_steps(self, tmp_path, capsys, monkeypatch):
        """One depth, and two sets of kernels at a depth that follows complexity."""
        one = replace(BEST, channels=(4, 6), layers=(1, 2), batch_size=8)
        two = replace(SMALL, channels=(4, 6), batch_size=8)
        monkeypatch.setattr(steps, "CASES", [steps.Case("one", one, 8), steps.Case("two", two, 8)])
        monkeypatch.setattr(steps.subprocess, "run", lambda argv, env, check: started.append((argv[-1], env)))
        started = []
        assert command_line("--steps", "--rounds", 2, "--out", tmp_path) == 0
        found = json.loads((tmp_path / "steps.json").read_text())["rows"]
        assert [preset for preset, _ in started] == ["best", "best"]
        assert started[0][1]["JAX_COMPILATION_CACHE_DIR"] == started[1][1]["JAX_COMPILATION_CACHE_DIR"]
        start, found = found["start"], found["steps"]
        assert start.keys() == {"cold", "warm"}
        assert [(row["name"], row["batch"], row["depth"], row["sets"]) for row in found] == [
            ("one", 8, 3, 1),
            ("two", 8, 4, 2),
        ]
        for row in found:
            assert row["seconds"].keys() >= {"puppet", "plain"} and min(row["seconds"].values()) > 0
            assert row["error"] is None or row["error"] < 1e-5
        assert steps.table(found, start) in capsys.readouterr().out

    def test_table_of_steps_where_pytorch_is_left_out_of_one(self):
        """As of bfloat16."""
        both = {"name": "one", "batch": 8, "seconds": {"puppet": 0.2, "pytorch": 0.4, "plain": 0.1}}
        ours = {"name": "two", "batch": 512, "seconds": {"puppet": 0.03, "plain": 0.02}}
        lines = steps.table([both, ours], {"cold": 4.0, "warm": 1.0}).splitlines()
        assert (
            lines[0] == "| preset | batch | puppet, ms | pytorch, ms | plain, ms | puppet ÷ plain | puppet ÷ pytorch |"
        )
        assert lines[2:4] == ["| one | 8 | 200 | 400 | 100 | 2.00 | 0.50 |", "| two | 512 | 30.0 |  | 20.0 | 1.50 |  |"]

    def test_more_cases_on_a_gpu(self, monkeypatch):
        measured = []
        monkeypatch.setattr(steps, "measure", lambda rounds, cases: measured.append(cases) or [])
        monkeypatch.setattr(steps, "measure_start", lambda preset: {})
        monkeypatch.setattr(steps, "table", lambda *_: "")
        monkeypatch.setattr("experiments.devices.device_name", lambda: "a device")
        for backend in ("cpu", "gpu"):
            monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
            benchmark(Command(steps=True))
        assert measured == [steps.CASES, steps.CASES + steps.ON_GPU]
        assert {case.batch for case in steps.ON_GPU} == {512}

    def test_predictor(self, tmp_path, monkeypatch):
        """The finer the levels, the closer to kernels of each image's own complexity."""
        puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=PUPPET.max_channels, kernels_from="velocity")
        params = pj.init_puppet(jax.random.key(1), PUPPET, puppeteer, max_depth=2)
        kernel = jax.random.normal(jax.random.key(2), params.classifier_kernel.shape)
        stats = {depth: pj.init_batch_stats(PUPPET, depth) for depth in (1, 2)}
        model = make_model(params=dataclasses.replace(params, classifier_kernel=kernel), batch_stats=stats)
        save_model(tmp_path / "model.safetensors", model)
        model = pj.load_pretrained(tmp_path / "model.safetensors")
        for name, value in {"CALLS": 2, "ROUTED": 16, "LEVELS": (1, 4096)}.items():
            monkeypatch.setattr(predictor, name, value)
        images = graded_images()
        found = predictor.measure(model, images, 2)
        one = found["one_image"]
        assert min(one["predictor"], one["network"]) > 0
        assert one["overhead"] == one["predictor"] - one["network"]
        for row in found["runtimes"]:
            assert row["ms"].keys() >= {"predictor", "plain"} and min(row["ms"].values()) > 0
            assert row["error"] < 1e-5
        assert [row["batch"] for row in found["runtimes"]] == [1, min(64, len(images))]
        depths = model.predictor().route(images)[1]
        assert found["routed"]["images"].keys() == set(depths.tolist()) == {1, 2}
        assert sum(found["routed"]["images"].values()) == min(16, len(images))
        low, high = found["routed"]["speed_range"]
        assert 0 < low <= found["routed"]["speed"] <= high
        coarse, fine = found["bank"]
        assert (coarse["levels"], fine["levels"], fine["top1_agreement"]) == (1, 4096, 1)
        assert 10 * fine["error"] < coarse["error"]
        assert f"| 4096 | 100.00 % | {fine['error']:.1e} |" in predictor.table(found)

    def test_predictor_of_one_depth(self, monkeypatch):
        """Where complexity does not matter there is nothing to route, and one set of kernels."""
        monkeypatch.setattr(predictor, "CALLS", 2)
        model = pj.load_pretrained("cifar10-c64-4bit")
        found = predictor.measure(model, np.zeros((4, *model.image_shape), np.uint8), 1)
        assert found.keys() == {"one_image", "runtimes"}
        assert "single depths" not in predictor.table(found)

    def test_predictor_of_other_classes_is_refused(self, tmp_path, monkeypatch, capsys):
        save_model(tmp_path / "model.safetensors", make_model())
        digits = load_dataset("digits")
        names = tuple(f"kind {n}" for n in range(10))
        monkeypatch.setattr("experiments.data.load_dataset", lambda *_: dataclasses.replace(digits, class_names=names))
        assert command_line("--predictor", tmp_path / "model.safetensors") == 1
        assert "give a puppet for CIFAR-10" in capsys.readouterr().err
        assert command_line("--predictor", tmp_path / "none") == 2

    def test_refuses_both_and_neither(self, run, capsys):
        for argv in ((), (run, "--convolutions"), (run, "--predictor", "best"), ("--generation", "--predictor", "a")):
            assert command_line(*argv) == 2
            assert "give at least one RUN" in capsys.readouterr().err

    def test_refuses_runs_on_other_data(self, run, tmp_path, capsys):
        other = shutil.copytree(run, tmp_path / "other")
        described = json.loads((other / "config.json").read_text())
        described["data"]["sha256"] = "0" * 64
        rewrite_json(other / "config.json", described)
        assert command_line(run, other) == 1
        assert "was trained on other data than" in capsys.readouterr().err

    def test_refuses_a_folder_without_a_run(self, tmp_path, capsys):
        assert command_line(tmp_path / "none") == 1
        assert "none" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"runs": ()}, "at least one RUN"),
            ({"batch_sizes": (0,)}, r"--batch-sizes must be positive, got \(0,\)"),
            ({"batch_sizes": ()}, "--batch-sizes must be positive"),
            ({"rounds": 0}, "--rounds must be at least 1, got 0"),
            ({"images": 0}, "--images must be at least 1, got 0"),
            ({"runs": (), "steps": True, "images": 7}, "--images has no meaning here"),
            ({"runs": (), "steps": True, "data_dir": Path("data")}, "--data-dir has no meaning here"),
            ({"runs": (), "predictor": "cifar10-full", "batch_sizes": (3,)}, "--batch-sizes has no meaning here"),
        ],
    )
    def test_refuses_values_out_of_range(self, run, changes, message):
        with pytest.raises(ValueError, match=message):
            Command(**{"runs": (run,)} | changes)
