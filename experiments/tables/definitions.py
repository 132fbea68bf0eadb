"""Which runs make up each table, and what the papers print beside them. Imports no JAX."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experiments.backbones import RECORDS, REGIMES
from experiments.cifar10 import BEST, LIGHT, PAPER, SMALL
from experiments.config import (
    ByComplexity,
    Config,
    DeepBackbone,
    FrozenBasis,
    Generated,
    Ordinary,
    ResNet8,
    Tiniest,
)
from experiments.fields import replace
from experiments.tables import generators, papers, systems
from experiments.tables.rows import Row, Table

NAMES = {"alexnet": "AlexNet", "vgg": "VGG", "resnet": "ResNet", "puppet": "Puppet-CNN"}
FULL_TRAINING_SET: dict[str, Any] = {"num_images": 45_000, "num_validation": 5_000}
CIFAR100: dict[str, Any] = {"num_images": 40_000, "num_validation": 10_000}
ORDINARY_OPTIM: dict[str, Any] = generators.ADAM | {"learning_rate": 4e-2}
"""The optimiser that was found for weights that are not generated."""
MINI_IMAGENET: dict[str, Any] = {"num_images": 48_000, "num_validation": 6_000}


def _backbone(network: Any, regime: str, **data: Any) -> Config:
    backbone = RECORDS[network](name=network, kernels=REGIMES[regime])
    return Config(network=backbone, data=dataclasses.replace(PAPER.data, **data), optim=PAPER.optim)


def _accuracy(printed: tuple[float, ...], mb: float) -> dict[str, float]:
    return {"top1": printed[0], "top5": printed[1], "mb": mb}


def _regime_label(network: str, regime: str) -> str:
    suffix = {"fixed": "", "puppet": " + puppeteer-puppet", "adaptive": " + parameter adaptation"}
    return NAMES[network] + suffix[regime]


def backbones() -> Table:
    """v1 table 3, v2 table 2."""
    rows = tuple(
        Row(
            _regime_label(network, regime),
            "cifar10",
            _backbone(network, regime),
            _accuracy(printed, papers.MODEL_MB[network] if regime == "fixed" else 1.08),
        )
        for (network, regime), printed in papers.BACKBONES.items()
    )
    return Table("Backbones under three regimes (v1 table 3, v2 table 2)", rows, smoke=0.00005)


def operations() -> Table:
    """v1 table 4, v2 table 5."""
    configs = {
        "ResNet": _backbone("resnet", "fixed"),
        "Puppet-ResNet": _backbone("resnet", "adaptive"),
        "Puppet-CNN": PAPER,
    }
    rows = tuple(Row(label, "cifar10", config, papers.OPERATIONS[label]) for label, config in configs.items())
    columns = ("mb", "generator_gmacs", "network_gmacs", "s_per_image", "s_per_image_generating")
    title = "Multiply-accumulates and speed (v1 table 4, v2 table 5)"
    return Table(title, rows, smoke=0.00005, columns=columns)


def training_sets() -> Table:
    """v2 table 4: the partial set of 8,000 images and the full one."""
    rows = []
    for (network, regime), printed in papers.FULL_SET.items():
        mb = papers.MODEL_MB[network] if regime == "fixed" else 1.08
        label = _regime_label(network, regime)
        partial = _accuracy(papers.BACKBONES[network, regime], mb)
        rows.append(Row(f"{label}, partial", "cifar10", _backbone(network, regime), partial))
        full = _backbone(network, regime, **FULL_TRAINING_SET)
        rows.append(Row(f"{label}, full", "cifar10", full, _accuracy(printed, mb)))
    return Table("Partial and full training set (v2 table 4)", tuple(rows), smoke=0.00005)


def datasets() -> Table:
    """v1 and v2 table 6."""
    rows = []
    for (experiment, network), printed in papers.DATASETS.items():
        split = CIFAR100 if experiment == "cifar100" else MINI_IMAGENET
        config = replace(PAPER, **split) if network == "puppet" else _backbone(network, "fixed", **split)
        name = {"cifar100": "CIFAR-100", "mini_imagenet": "mini-ImageNet"}[experiment]
        rows.append(Row(f"{NAMES[network]}, {name}", experiment, config, _accuracy(printed[:2], printed[2])))
    return Table("CIFAR-100 and mini-ImageNet (v1 and v2 table 6)", tuple(rows), smoke=0.00001)


ABLATION = replace(SMALL, channels=(8, 16, 32), levels_per_batch=1, num_levels=16, num_validation=1_000, epochs=20)
"""A size that two CPU cores train in minutes; C = 32."""


def ablation() -> Table:
    """What the papers do not take apart: one choice changed at a time, a small puppet."""
    one = ByComplexity(rule="per_stage", depths=(4, 4))  # the depth of the mean complexity of CIFAR-10
    configs = {
        "default: seeded, scale 0.1, per stage, both": ABLATION,
        "initial state constant (Eq. 11)": replace(ABLATION, initial_state="constant"),
        "initial state learned": replace(ABLATION, initial_state="learned"),
        "adaptation none": replace(ABLATION, kernels=Generated(), depth=one),
        "adaptation of parameters": replace(ABLATION, depth=one),
        "adaptation of depth": replace(ABLATION, kernels=Generated()),
        "depth rule total": replace(ABLATION, rule="total"),
        "scale 0.03": replace(ABLATION, scale=0.03),
        "scale 0.3": replace(ABLATION, scale=0.3),
        "scale 1": replace(ABLATION, scale=1.0),
    }
    title = "Ablation: initial state, scale, depth rule, adaptation (stages 8-16-32, C = 32)"
    return Table(title, _rows(configs), smoke=0.02, seeds=3, columns=("trainable_mb", "depth"))


NARROW = replace(
    BEST,
    channels=(64, 128, 256),
    max_channels=512,
    kernels_from="state",
    scale=0.1,
    dropout=0.3,
    batch_size=128,
    learning_rate=2.5e-3,
)
"""C = 512 in a puppet of few channels."""


def equal_bytes() -> Table:
    """Puppets beside networks of as many stored bytes, each at the best rate that is known, at three sizes."""
    c64, c512 = BEST, NARROW
    c128 = replace(BEST, channels=(64, 128, 128), dropout=0.2, learning_rate=2.5e-3)
    configs = {
        "Puppet-CNN, C = 64": c64,
        "the same, kernels from the states": replace(c64, kernels_from="state", scale=0.1),
        "the same layers, frozen random basis": _not_generated(c64, FrozenBasis()),
        "the same layers, slim, ordinary weights": _slim(c64, (8, 14, 16)),
        "residual network of 8 layers, 24 kB": _residual(c64, num_layers=8, width=18),
        "Puppet-CNN, C = 128": c128,
        "its layers, frozen random basis": _not_generated(c128, FrozenBasis()),
        "its layers, slim, ordinary weights": _slim(c128, (14, 28, 28)),
        "residual network of 8 layers, 80 kB": _residual(c128, num_layers=8, width=33),
        "Puppet-CNN, C = 512, kernels from the states": c512,
        "its layers of C = 512, frozen random basis": _not_generated(c512, FrozenBasis(max_channels=512)),
        "its layers of C = 512, slim, ordinary weights": _slim(c512, (54, 106, 106), dropout=0.3),
        "residual network of 20 layers, 1.1 MB": _residual(c512, num_layers=20, width=65),
    }
    title = "Accuracy at equal stored bytes: 8,000 images, no augmentation"
    return Table(title, _rows(configs), smoke=0.02, seeds=3, columns=generators.COLUMNS)


def few_products() -> Table:
    """Preset light beside ordinary weights of as many bytes and at most as many multiply-accumulates, in few bits.

    The networks of today see images shifted and mirrored; without, they overfit. Preset light gains nothing from it.
    """
    configs = {
        "Puppet-CNN, preset light, 8 bits": LIGHT,
        "ordinary weights, slim, mirrored, 8 bits": replace(_slim(BEST, (16, 30, 30)), epochs=56, bits=8),
        "ordinary weights, slim, mirrored, 4 bits": replace(_slim(BEST, (22, 42, 42)), epochs=56, bits=4),
    }
    others: dict[str, Tiniest | ResNet8] = {
        "cifar10-tiniest of width 40, 4 bits, augmented": Tiniest(width=40),
        "ResNet-8 of width 44, 4 bits, augmented": ResNet8(width=44),
    }
    optim = replace(LIGHT.optim, **ORDINARY_OPTIM)
    rows = []
    for label, network in others.items():
        config = Config(network=network, data=generators.AUGMENTED, optim=optim, bits=4)
        rows.append(Row(label, "cifar10", config, rates=generators.ADAM_RATES))
    title = "Accuracy in 23.4 kB and 20 million multiply-accumulates: 8,000 images"
    return Table(title, _rows(configs) + tuple(rows), smoke=0.02, seeds=3, columns=generators.COLUMNS)


def _not_generated(config: Config, kernels: Ordinary | FrozenBasis, **changes: Any) -> Config:
    """A network of the puppet's layers with other kernels, and the optimiser that was found for them."""
    return replace(config, kernels=kernels, **ORDINARY_OPTIM | changes)


def _slim(config: Config, channels: tuple[int, ...], dropout: float = 0.1) -> Config:
    return _not_generated(config, Ordinary(), channels=channels, dropout=dropout)


def _residual(config: Config, num_layers: int, width: int) -> Config:
    """The residual network of He et al., with the optimiser that was found for it."""
    backbone = DeepBackbone(name="resnet20", num_layers=num_layers, width=width)
    optim = replace(config.optim, **ORDINARY_OPTIM)
    return Config(network=backbone, data=config.data, optim=optim)


def _rows(configs: Mapping[str, Config]) -> tuple[Row, ...]:
    return tuple(Row(label, "cifar10", config) for label, config in configs.items())


TRAINED: dict[str, Callable[[], Table]] = {
    "adaptive": systems.adaptive,
    "lightweight": systems.lightweight,
    "backbones": backbones,
    "operations": operations,
    "training_sets": training_sets,
    "datasets": datasets,
    "ablation": ablation,
    "equal_bytes": equal_bytes,
    "few_products": few_products,
    "few_bytes": generators.few_bytes,
    "generators": generators.generators,
    "transformers": generators.transformers,
}
"""Tables that need training, by name."""
