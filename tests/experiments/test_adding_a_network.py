"""Adding a network takes one file: what the docstring of `experiments.networks` says, done with a toy."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_network
from toy_network import Toy, ToyNetwork

from experiments import networks
from experiments.cli import run_experiment
from experiments.config import Config, Data, Optim, Options, PuppetCNN
from experiments.evaluation import report
from experiments.networks import KINDS, Network, describe_network, read_network
from experiments.runs.load import load_run
from experiments.training.run import train

PRESET = Config(
    network=Toy(),
    data=Data(num_images=8, num_validation=8, num_test=8),
    optim=Optim(epochs=1, batch_size=4, learning_rate=0.1),
)
DOC = networks.__doc__


@pytest.fixture
def added(monkeypatch):
    """The file is in `experiments.networks`, the class in `KINDS`, the record in `Config.network`."""
    monkeypatch.setitem(sys.modules, "experiments.networks.toy_network", toy_network)
    monkeypatch.setitem(KINDS, "toy", "toy_network.ToyNetwork")
    monkeypatch.setattr(ToyNetwork, "__module__", "experiments.networks.toy_network")
    monkeypatch.setitem(Config.__annotations__, "network", Config.__annotations__["network"] | Toy)


def test_is_one_short_file():
    assert len(Path(toy_network.__file__).read_text().splitlines()) < 80


def test_the_contract_has_at_most_eight_methods():
    methods = [name for name, value in vars(Network).items() if callable(value) and not name.startswith("__")]
    assert len(methods) <= 8
    named = [name for name in methods if f"`{name}`" in DOC]
    assert named == methods  # the docstring names each


@pytest.mark.usefixtures("added")
class TestToy:
    def test_trains_two_steps_and_is_read_back(self, tmp_path, monkeypatch):
        names = ("latency_s", "latency_generating_s", "images_per_s")
        monkeypatch.setattr("experiments.evaluation.accuracy.speed", lambda *_, **__: dict.fromkeys(names, 1.0))
        summary = train("digits", PRESET, Options(workdir=tmp_path / "run"))
        assert (summary.steps, summary.test_images, summary.puppeteer_bytes) == (2, 8, 0)
        assert summary.trainable_bytes == 4 * (64 * 4 + 4 * 10 + 10)
        assert summary.puppet_macs == 64 * 4 + 4 * 10

        run = load_run(tmp_path / "run")
        assert run.config == PRESET
        network = PRESET.network.make(10, (8, 8, 1))
        assert run.model.network == network
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), network.init(0, (1,)), run.model.params)
        assert all(0 < change < 1 for change in moved.values())
        again = report.summarise(run.folder, run.experiment, run.config, run.model, *run.test)
        assert (again.top1, again.loss) == (summary.top1, summary.loss)

    def test_description(self):
        network = PRESET.network.make(10, (8, 8, 1))
        described = describe_network(network)
        assert described == {"kind": "toy", "num_classes": 10, "image_shape": [8, 8, 1], "hidden": 4}
        assert read_network(described) == network

    @pytest.mark.parametrize(("preset", "flag"), [("toy", "--mirror"), ("puppet", "--hidden")])
    def test_its_options_are_its_own(self, preset, flag, capsys):
        presets = {"toy": PRESET, "puppet": Config(network=PuppetCNN())}
        assert run_experiment("digits", presets, "Trains.", ["--preset", preset, flag, "3"]) == 2
        assert f"Unrecognized options: {flag}" in capsys.readouterr().err
