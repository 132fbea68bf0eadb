"""Accuracy against stored bytes: which runs are one point, which are one line, and what is on the frontier."""

import json

import pytest
from made_up import make_summary

from experiments.cifar10 import BEST, EARLY_EXIT, PRESETS, SMALL
from experiments.cli import run_command
from experiments.config import (
    Config,
    DeepBackbone,
    FrozenBasis,
    OneDepth,
    Ordinary,
    Puppetized,
    Tiniest,
    Transformer,
)
from experiments.evaluation.frontier import Point, collect, lines, on_frontier, table
from experiments.evaluation.summary import write_summary
from experiments.fields import as_json, flat, replace
from experiments.frontier import Command, make
from experiments.names import distinct_names

RESIDUAL = Config(network=DeepBackbone(name="resnet20", num_layers=8, width=18))


def summary(config, trainable_bytes, top1, **others):
    figures = {"trainable_bytes": trainable_bytes, "top1": top1, "experiment": "cifar10", "test_images": 100}
    return make_summary(config, **figures | others)


def described(config):
    return flat(as_json(config))


@pytest.fixture
def folder(tmp_path):
    """Three seeds of a puppet, the same in 4 bits, and a network of ordinary weights."""
    summaries = [summary(replace(BEST, seed=seed), 1000, 0.6 + seed / 100) for seed in range(3)]
    summaries += [
        summary(replace(BEST, seed=seed, bits=4), 200, 0.59 + seed / 100, coded_bytes=150 - seed) for seed in range(3)
    ]
    summaries.append(summary(RESIDUAL, 800, 0.55))
    for n, one in enumerate(summaries):
        (tmp_path / f"run{n}").mkdir()
        write_summary(tmp_path / f"run{n}", one)
    (tmp_path / "unfinished").mkdir()
    return tmp_path


def complaint(capsys, *argv):
    assert run_command(Command, make, "experiments.frontier", "Frontier.", [*map(str, argv)]) == 1
    return capsys.readouterr().err


class TestCollect:
    def test_seeds_are_one_point_in_their_order(self):
        (point,) = collect([summary(replace(BEST, seed=seed), 1000, top1) for seed, top1 in ((2, 0.5), (0, 0.7))])
        assert (point.seeds, point.top1, point.bytes) == ((0, 2), (0.7, 0.5), 1000)
        assert point.mean == pytest.approx(0.6)

    def test_bits_are_points_of_one_network(self):
        points = collect([summary(replace(BEST, bits=bits), 100 * bits, 0.6) for bits in (32, 4, 8)])
        assert [point.bits for point in points] == [4, 8, 32]
        assert len({point.network for point in points}) == 1
        assert lines(points) == {points[0].network: ([400, 800, 3200], [0.6, 0.6, 0.6])}

    def test_runs_that_each_went_on_from_their_own_are_one_point(self):
        tuned = [replace(BEST, seed=seed, bits=4, epochs=6, start_from=f"runs/seed{seed}") for seed in range(2)]
        rounded = [replace(BEST, seed=seed, bits=4) for seed in range(2)]
        points = collect([summary(config, 100, 0.6) for config in tuned + rounded])
        assert [(point.network.count(", tuned"), point.seeds) for point in points] == [(0, (0, 1)), (1, (0, 1))]


class TestNames:
    def test_what_a_network_is(self):
        depth = OneDepth(layers=(1, 3))
        configs = [
            replace(BEST, kernels_from="state"),
            replace(BEST, kernels_from="state", channels=(64, 128), depth=depth, max_channels=512, mirror=False),
            BEST,
            replace(BEST, kernels=Ordinary()),
            replace(BEST, kernels=FrozenBasis()),
            RESIDUAL,
            PRESETS["vgg-puppet"],
            SMALL,
        ]
        assert distinct_names([described(config) for config in configs]) == [
            "puppet 64-64-64, C = 64, mirrored",
            "puppet 64-128, C = 512",
            "puppet 64-64-64, C = 64, from the velocity, mirrored",
            "ordinary kernels 64-64-64, mirrored",
            "frozen random basis 64-64-64, C = 64, mirrored",
            "resnet20, 8 layers, 18 wide",
            "puppet-vgg",
            "puppet, kernels by complexity 16-32-64, C = 64",
        ]

    def test_networks_without_a_choice_of_kernels_have_a_name(self):
        networks = [Tiniest(), Transformer(), Puppetized(), Puppetized(plain=Tiniest())]
        names = distinct_names([described(Config(network=network)) for network in networks])
        assert names == ["Tiniest", "vit, 64 wide", "puppet-vit, 64 wide", "puppet-Tiniest"]

    def test_options_tell_apart_what_would_be_called_the_same(self):
        names = distinct_names([described(config) for config in (BEST, replace(BEST, dropout=0.3), SMALL)])
        assert names[0] == "puppet 64-64-64, C = 64, from the velocity, mirrored, dropout 0.1"
        assert names[1] == "puppet 64-64-64, C = 64, from the velocity, mirrored, dropout 0.3"
        assert names[2] == "puppet, kernels by complexity 16-32-64, C = 64"

    def test_only_options_that_differ_do(self):
        changes = {"learning_rate": BEST.optim.learning_rate, "layers": (1, 1, 6)}
        names = distinct_names([described(BEST), described(replace(EARLY_EXIT, **changes))])
        same = "puppet 64-64-64, C = 64, from the velocity, mirrored, depth"
        assert names == [
            f"{same} OneDepth, layers 1 3 3",
            f"{same} ByConfidence, layers 1 1 6, exit_layer 5, fraction 0.4",
        ]


def test_frontier_by_hand():
    networks = [("a", 100, 0.5), ("b", 100, 0.5), ("c", 200, 0.5), ("d", 300, 0.7), ("e", 400, 0.6), ("f", 500, 0.71)]
    points = [Point(network=n, bits=32, bytes=size, top1=(top1,), seeds=(0,)) for n, size, top1 in networks]
    assert [point.network for point in on_frontier(points) if point.frontier] == ["a", "d", "f"]


class TestCommand:
    def test_files(self, folder, tmp_path, capsys):
        make(Command(runs=(folder,), out=tmp_path / "out"))
        text = (tmp_path / "out" / "frontier.md").read_text()
        name = "puppet 64-64-64, C = 64, from the velocity, mirrored"
        assert f"| {name} | 4 | 200 | 150 | **60.00 ± 1.00** | 59.00, 60.00, 61.00 |" in text
        assert "| resnet20, 8 layers, 18 wide | 32 | 800 |  | 55.00 | 55.00 |" in text
        assert f"| {name} | 32 | 1,000 |  | **61.00 ± 1.00** | 60.00, 61.00, 62.00 |" in text
        points = json.loads((tmp_path / "out" / "frontier.json").read_text())
        assert [(point["bytes"], point["frontier"]) for point in points] == [(200, True), (800, False), (1000, True)]
        assert (tmp_path / "out" / "frontier.png").stat().st_size > 5_000
        assert text in capsys.readouterr().out

    def test_single_runs_and_folders_of_runs_alike(self, folder, tmp_path):
        make(Command(runs=(folder, folder / "run0"), out=tmp_path / "out"))  # the run that is named twice counts once
        assert len(json.loads((tmp_path / "out" / "frontier.json").read_text())) == 3

    def test_refuses_what_is_no_run(self, folder, capsys):
        assert "is no finished run and holds none" in complaint(capsys, folder / "unfinished")
        assert "is no finished run and holds none" in complaint(capsys, folder / "nowhere")

    def test_refuses_damage(self, folder, capsys):
        (folder / "run6" / "summary.json").write_text("{")
        assert "run6/summary.json is damaged" in complaint(capsys, folder)

    def test_refuses_other_test_images(self, folder, capsys):
        write_summary(folder / "run6", summary(RESIDUAL, 800, 0.55, test_images=50))
        assert "got 50 of cifar10, 100 of cifar10" in complaint(capsys, folder)

    def test_refuses_the_same_seed_twice(self, folder, capsys):
        (folder / "run6" / "summary.json").write_text((folder / "run0" / "summary.json").read_text())
        assert "two runs are of the same configuration and seed 0" in complaint(capsys, folder)


def test_one_seed_has_no_deviation():
    (point,) = on_frontier(collect([summary(BEST, 1000, 0.6)]))
    assert "± " not in table([point])
