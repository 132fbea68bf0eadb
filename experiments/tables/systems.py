"""Tables 1 and 2 of the first paper, 1 and 3 of the second: Puppet-CNN beside other systems. Imports no JAX.

All train under the papers' protocol: 8,000 images without augmentation, Adam, batches of 64, 800 epochs. The learning
rate of each, Puppet-CNN included, is chosen on validation images.
"""

from typing import Any

from experiments.backbones import RECORDS
from experiments.baselines import BASELINES
from experiments.cifar10 import PAPER
from experiments.config import Config, Ordinary
from experiments.fields import replace
from experiments.tables import papers
from experiments.tables.rows import Row, Table

RATES = (3e-4, 1e-3, 3e-3)
REINFORCEMENT_SHARE = 10_000 / 64_000
"""Iterations of SkipNet's reinforcement phase over those of its supervised one, as published."""
REINFORCEMENT_RATE = 1e-4
COLUMNS = ("mb", "network_gmacs", "network_gmacs_std", "s_per_image", "images_per_s", "hours", "full_hours")
TITLES = {
    "adaptive": "Systems that adapt to their input (v1 table 1, v2 table 1)",
    "lightweight": "Small networks (v1 table 2, v2 table 3)",
}
SMOKE = 0.00005


def _row(label: str, network: Any, *, paper: str | None = None, **options: Any) -> Row:
    printed = papers.ADAPTIVE | papers.LIGHTWEIGHT
    config = Config(network=network, data=PAPER.data, optim=PAPER.optim)
    return Row(label, "cifar10", config, printed.get(paper or label, {}), rates=RATES, **options)


def _skipnet() -> Row:
    """The reinforcement phase, from a supervised run."""
    first = Config(network=BASELINES["skipnet"], data=PAPER.data, optim=PAPER.optim)
    epochs = round(PAPER.optim.epochs * REINFORCEMENT_SHARE)
    config = replace(first, phase="reinforcement", epochs=epochs, learning_rate=REINFORCEMENT_RATE)
    return Row(
        "SkipNet",
        "cifar10",
        config,
        papers.ADAPTIVE["SkipNet"],
        rates=RATES,
        first=first,
        short_epochs=4,
        confidence="medium",
    )


def _puppet() -> Row:
    return Row(
        "Puppet-CNN",
        "cifar10",
        PAPER,
        papers.ADAPTIVE["Puppet-CNN"],
        rates=RATES,
        search_epochs=1,
        confidence="exact",
    )


def _hypernetwork() -> Row:
    return _row("hypernetwork of WRN-40-2", BASELINES["hyper-wrn"])


def adaptive() -> Table:
    """v1 table 1, v2 table 1, and what stands near: the ODE-Net of v1 figure 1b, and a static hypernetwork."""
    rows = (
        _row("DFN", BASELINES["dfn"], confidence="medium"),
        _row("WeightNet", BASELINES["weightnet"], confidence="medium-high"),
        _row("DDFN-SW, dense", BASELINES["ddf-dense"], paper="DDFN-SW", confidence="none"),
        _row("DDFN-SW, depthwise as published", BASELINES["ddf"], paper="DDFN-SW", confidence="none"),
        _row("BranchyNet", BASELINES["branchynet"], confidence="low"),
        _skipnet(),
        _row("DRNN, from its abstract", BASELINES["drnn"], paper="DRNN", confidence="low"),
        _row("ODE-Net, Euler, 8 steps", BASELINES["odenet-euler"]),
        _row("ODE-Net, adaptive steps", BASELINES["odenet"]),
        _hypernetwork(),
        _puppet(),
    )
    return Table(TITLES["adaptive"], rows, smoke=SMOKE, columns=COLUMNS)


def lightweight() -> Table:
    """v1 table 2, v2 table 3, and the networks that a user would pick today."""
    ordinary: dict[str, tuple[Any, str]] = {
        "AlexNet": ("alexnet", "medium"),
        "MobileNet-v1": ("mobilenet_v1", "high"),
        "MobileNet-v2": ("mobilenet_v2", "low-medium"),
        "SqueezeNet": ("squeezenet", "high"),
        "ResNet-20": ("resnet20", ""),
    }
    rows = (
        *(
            _row(label, RECORDS[name](name=name, kernels=Ordinary()), confidence=confidence)
            for label, (name, confidence) in ordinary.items()
        ),
        _row("ResNet-8 of MLPerf Tiny", BASELINES["resnet8"]),
        _row("cifar10-tiniest", BASELINES["tiniest"]),
        _hypernetwork(),
        _puppet(),
    )
    return Table(TITLES["lightweight"], rows, smoke=SMOKE, columns=COLUMNS)
