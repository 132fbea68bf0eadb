"""Measures of complexity, and what routing by each is worth."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import evaluation
from experiments.cli import run_command
from experiments.config import Config, Options
from experiments.measures import (
    MEASURES,
    SHARES,
    Command,
    assign,
    compare,
    compressed_size,
    gradient_energy,
    uncertainty,
)
from experiments.run import train

RNG = np.random.Generator(np.random.PCG64(0))
NOISE = RNG.integers(0, 256, (2, 16, 16, 3), np.uint8)
FLAT = np.full((1, 16, 16, 3), 90, np.uint8)


class TestMeasures:
    @pytest.mark.parametrize("name", [name for name in MEASURES if name != "by lot"])
    def test_noise_is_more_complex_than_one_colour(self, name):
        values = MEASURES[name](np.concatenate([NOISE, FLAT]))
        assert values.shape == (3,)
        assert values[2] < values[:2].min()

    def test_gradient_energy_by_hand(self):
        image = np.zeros((1, 2, 3, 1), np.uint8)
        image[0, 1, 1] = 255  # two horizontal differences of four, one vertical of three
        np.testing.assert_allclose(gradient_energy(image), 2 / 4 + 1 / 3)

    def test_compressed_size_is_at_least_the_entropy_of_noise(self):
        assert compressed_size(NOISE).min() > 0.95 * NOISE[0].size

    def test_uncertainty_by_hand(self):
        logits = np.array([[0.0, 0.0], [1000.0, 0.0], [np.log(3.0), 0.0]])
        certain = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
        np.testing.assert_allclose(uncertainty(logits), [np.log(2), 0, certain], atol=1e-12)

    def test_lot_tells_nothing_of_the_images(self):
        np.testing.assert_array_equal(MEASURES["by lot"](NOISE), MEASURES["by lot"](255 - NOISE))


def test_assignment_cuts_where_validation_images_say():
    place = assign(np.arange(100.0), np.array([-5, 19, 20, 69, 70, 1e9]), np.array([0.2, 0.5, 0.3]))
    np.testing.assert_array_equal(place, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(assign(np.arange(9.0), np.array([3.0]), np.array([1.0])), [0])


CONFIG = Config(
    channels=(8, 8), spread=(1, 3), adapt="depth", mix_depths=True, affine=True, num_levels=1, num_images=1_000,
    num_validation=200, epochs=3, batch_size=40, learning_rate=0.01,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        names = ("latency_s", "latency_generating_s", "images_per_s")
        patch.setattr(evaluation, "speed", lambda *_, **__: dict.fromkeys(names, 1.0))
        train("digits", CONFIG, Options(workdir=folder / "mixed"))
    return folder / "mixed"


@pytest.fixture(scope="module")
def result(run):
    compare(Command(run=run))
    return json.loads((run / "measures.json").read_text())


class TestCompare:
    def test_single_depths_bound_the_cost(self, result):
        rows = {row["measure"]: row for row in result["rows"]}
        single = [rows[f"all at depth {depth}"]["macs"] for depth in result["depths"]]
        assert result["depths"] == [1, 2, 3]
        assert single == sorted(single)
        for name in MEASURES:
            assert single[0] < rows[name]["macs"] < single[-1]
        # the shallowest puppet runs for all
        assert rows["doubt of the shallowest puppet"]["macs"] > rows["by lot"]["macs"] + 0.9 * single[0] * (
            1 - result["shares"][0]
        )

    def test_gain_is_what_it_says(self, result):
        rows = [row for row in result["rows"] if "gain" in row]
        assert len(rows) == len(MEASURES) + 4
        for row in rows:
            assert row["gain"] == pytest.approx(row["top1"] - row["single_top1"])
            assert 0 < row["standard_error"] < 0.05

    def test_the_lot_gains_nothing(self, result):
        (row,) = (row for row in result["rows"] if row["measure"] == "by lot")
        assert row["gain"] < 4 * row["standard_error"]

    def test_shares_are_those_of_training(self, result):
        assert sum(result["shares"]) == pytest.approx(1)
        assert min(result["shares"]) > 0

    def test_a_picture(self, run, result):
        assert (run / "measures.png").stat().st_size > 5_000


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exits")
    config = dataclasses.replace(CONFIG, adapt="doubt", spread=(1, 3), deep_share=0.3, mix_depths=False)
    with pytest.MonkeyPatch.context() as patch:
        names = ("latency_s", "latency_generating_s", "images_per_s")
        patch.setattr(evaluation, "speed", lambda *_, **__: dict.fromkeys(names, 1.0))
        summary = train("digits", config, Options(workdir=folder / "run"))
    compare(Command(run=folder / "run"))
    rows = json.loads((folder / "run" / "measures.json").read_text())
    return summary | {"by_share": rows["by_share"]}, rows["shares"], {row["measure"]: row for row in rows["rows"]}


class TestNested:
    """A run with exits: the deep puppet goes on from the shallow one's work."""

    def test_shares_are_those_asked_for(self, nested):
        assert nested[1] == pytest.approx([0.7, 0.3])

    def test_the_row_of_doubt_is_what_the_run_itself_reports(self, nested):
        summary, _, rows = nested
        row = rows["doubt of the shallowest puppet"]
        assert row["top1"] == pytest.approx(summary["top1"])
        assert row["macs"] == pytest.approx(summary["puppet_macs"], abs=1)

    def test_other_shares(self, nested):
        summary, _, rows = nested
        found = summary["by_share"]
        assert [row["share"] for row in found] == list(SHARES)
        costs = [row["macs"] for row in found]
        assert costs == sorted(costs)
        assert found[2]["top1"] == pytest.approx(rows["doubt of the shallowest puppet"]["top1"])

    def test_shared_layers_are_paid_once(self, nested):
        summary, _, rows = nested
        shallow, deep = (rows[f"all at depth {depth}"]["macs"] for depth in (1, 3))
        share = summary["depth_counts"]["3"] / summary["test_images"]
        first_layer = 9 * 8 * 8 * 8  # taps, channels and pixels
        assert rows["doubt of the shallowest puppet"]["macs"] == pytest.approx(shallow + share * (deep - first_layer))


def test_refuses_a_run_whose_depths_saw_other_images(run, tmp_path, capsys):
    described = json.loads((run / "config.json").read_text())
    described["config"]["mix_depths"] = False
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert run_command(Command, compare, "experiments.measures", "Compares.", [str(tmp_path)]) == 1
    assert "train with --adapt depth --mix-depths" in capsys.readouterr().err


@pytest.mark.parametrize("others", [{"adapt": "both"}, {"adapt": "none"}, {"network": "vgg"}])
def test_only_depth_can_be_mixed(others):
    with pytest.raises(ValueError, match="--mix-depths must be left out unless"):
        Config(mix_depths=True, **others)
