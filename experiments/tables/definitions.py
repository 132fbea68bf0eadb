"""Which runs make up each table, and what the papers print beside them. Imports no JAX."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

from experiments.config import BEST, FORMER_RATE, FULL, FULL_CIFAR100, NARROW, PAPER, SMALL, STATE, Config
from experiments.tables import papers

NAMES = {"alexnet": "AlexNet", "vgg": "VGG", "resnet": "ResNet", "puppet": "Puppet-CNN"}
REGIMES: dict[str, dict[str, Any]] = {
    "fixed": {"kernels": "stored"},
    "puppet": {"kernels": "generated", "adapt": "none"},
    "adaptive": {"kernels": "generated", "adapt": "parameters"},
}
FULL_TRAINING_SET: dict[str, Any] = {"num_images": 45_000, "num_validation": 5_000}
CROPPED: dict[str, Any] = FULL_TRAINING_SET | {"augment": "crop_flip", "dropout": 0.0, "epochs": 16}
CIFAR100: dict[str, Any] = {"num_images": 40_000, "num_validation": 10_000}
MINI_IMAGENET: dict[str, Any] = {"num_images": 48_000, "num_validation": 6_000}
ABLATION = dataclasses.replace(
    SMALL, channels=(8, 16, 32), num_levels=1, num_slices=16, num_validation=1_000, epochs=20
)
"""A size that two CPU cores train in minutes; C = 32."""
NO_PUPPETEER: dict[str, Any] = STATE | {"optimizer": "adam", "learning_rate": 4e-2, "weight_decay": 0.05}
"""What the study found for networks that no puppeteer generates; they read no trajectory."""
NO_PUPPETEER_FORMER_RATE: dict[str, Any] = {"learning_rate": 1e-2}
"""Theirs before the study searched further, in tables that have not been measured again."""
RING = dataclasses.replace(BEST, dropout=0.2, **FORMER_RATE)
"""Preset `best` as it was before less dropout and twice the rate were found to be better at C = 64, in tables that have
not been measured again."""
RING_COLUMNS = ("trainable_mb", "generator_gmacs", "network_gmacs")
SMOKE_TEST_IMAGES = 1_000
"""Most test images of a run of less than one epoch."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: what is trained, for every seed, and what the papers print.

    Attributes:
        label: shown.
        experiment: name of the data set.
        config: of the full protocol; seed and budget are put in later.
        paper: printed figures by name (`top1`, `top5` fractions; `mb`; `gmacs`; `s_per_image`).
    """

    label: str
    experiment: str
    config: Config
    paper: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose lines are trained.

    Attributes:
        title: shown above it, with its number in the papers.
        rows: its lines.
        smoke: the budget of a smoke run, small enough for two CPU cores.
        seeds: seeds of the full protocol.
        columns: figures shown beside accuracy, see `experiments.tables.render`.
    """

    title: str
    rows: tuple[Row, ...]
    smoke: float
    seeds: int = 1
    columns: tuple[str, ...] = ("mb",)


def scaled(config: Config, budget: float, seed: int) -> Config:
    """A configuration with a share of the epochs.

    Less than one epoch is one epoch on a share of the images, evaluated on at most `SMOKE_TEST_IMAGES` test images.

    Args:
        config: of the full protocol.
        budget: in (0, 1]; 1 is the full protocol.
        seed: of the run.
    """
    epochs = config.epochs * budget
    if budget == 1 or epochs >= 1:
        return dataclasses.replace(config, epochs=max(1, round(epochs)), seed=seed)
    images = max(config.batch_size, round((config.num_images or config.batch_size) * epochs))
    validation = min(config.num_validation, max(config.batch_size, round(config.num_validation * epochs)))
    few: dict[str, Any] = {"num_images": images, "num_validation": validation, "num_test": SMOKE_TEST_IMAGES}
    return dataclasses.replace(config, epochs=1, seed=seed, **few)


def _backbone(network: Any, regime: str, **changes: Any) -> Config:
    return dataclasses.replace(PAPER, network=network, **REGIMES[regime], **changes)


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
        config = dataclasses.replace(PAPER, **split) if network == "puppet" else _backbone(network, "fixed", **split)
        name = {"cifar100": "CIFAR-100", "mini_imagenet": "mini-ImageNet"}[experiment]
        rows.append(Row(f"{NAMES[network]}, {name}", experiment, config, _accuracy(printed[:2], printed[2])))
    return Table("CIFAR-100 and mini-ImageNet (v1 and v2 table 6)", tuple(rows), smoke=0.00001)


def ablation() -> Table:
    """What the papers do not take apart: one choice changed at a time, a small puppet."""
    changes: dict[str, dict[str, Any]] = {
        "default: seeded, scale 0.1, per stage, both": {},
        "initial state constant (Eq. 11)": {"initial_state": "constant"},
        "initial state learned": {"initial_state": "learned"},
        "adaptation none": {"adapt": "none"},
        "adaptation of parameters": {"adapt": "parameters"},
        "adaptation of depth": {"adapt": "depth"},
        "depth rule total": {"depth_rule": "total"},
        "scale 0.03": {"scale": 0.03},
        "scale 0.3": {"scale": 0.3},
        "scale 1": {"scale": 1.0},
    }
    rows = tuple(Row(label, "cifar10", dataclasses.replace(ABLATION, **change)) for label, change in changes.items())
    title = "Ablation: initial state, scale, depth rule, adaptation (stages 8-16-32, C = 32)"
    return Table(title, rows, smoke=0.02, seeds=3, columns=("trainable_mb", "depth"))


def _ring(title: str, best: Config, mirrored: Config, plain: Config, residual: Config, **changes: Any) -> Table:
    """Networks of as many stored bytes under one protocol: `best`, its control, and three of stored weights.

    `changes` are of all but the first two, which a puppeteer generates.
    """
    generated = {"Puppet-CNN": best, "the same, kernels from the states": dataclasses.replace(best, **STATE)}
    others = {
        "the same, kernels combined from frozen ones": _combined(best),
        "its layers, slim, weights stored": mirrored,
        "its layers, slim, weights stored, not mirrored": plain,
        f"residual network of {residual.num_layers} layers": residual,
    }
    configs = generated | {label: dataclasses.replace(config, **changes) for label, config in others.items()}
    rows = tuple(Row(label, "cifar10", config) for label, config in configs.items())
    return Table(title, rows, smoke=0.02, seeds=3, columns=RING_COLUMNS)


def _slim(best: Config, channels: tuple[int, ...], **changes: Any) -> Config:
    """Stored weights in the puppet's layers, with the optimiser and the dropout that the study found for them."""
    return dataclasses.replace(best, channels=channels, kernels="stored", **NO_PUPPETEER | {"dropout": 0.1} | changes)


def _combined(best: Config) -> Config:
    """The control: sums of frozen signs, as many coefficients as the puppeteer has floats."""
    return dataclasses.replace(best, kernels="combined", **NO_PUPPETEER)


def _residual(best: Config, num_layers: int, max_channels: int) -> Config:
    """The residual network of He et al., with the optimiser that the study found for it."""
    size: dict[str, Any] = {"num_layers": num_layers, "max_channels": max_channels}
    # these options are the puppet's alone
    puppets: dict[str, Any] = {"spread": None, "mirror": False, "dropout": 0.0, "dtype": "float32"}
    return dataclasses.replace(best, network="resnet20", kernels="stored", **NO_PUPPETEER | size | puppets)


def ring64() -> Table:
    """23 KB."""
    return _ring64("Accuracy per stored byte, C = 64: 8,000 images, no augmentation", BEST)


def ring128() -> Table:
    """79 KB."""
    best = dataclasses.replace(RING, channels=(64, 128, 128))
    return _ring128("Accuracy per stored byte, C = 128: 8,000 images, no augmentation", best)


def _ring64(title: str, best: Config, **changes: Any) -> Table:
    plain = _slim(best, (6, 12, 12), mirror=False, spread=(6, 6))
    return _ring(title, best, _slim(best, (8, 14, 16)), plain, _residual(best, 8, 18), **changes)


def _ring128(title: str, best: Config, **changes: Any) -> Table:
    plain = _slim(best, (10, 20, 20), mirror=False)
    return _ring(title, best, _slim(best, (14, 28, 28)), plain, _residual(best, 8, 33), **changes)


def ring512() -> Table:
    """1.1 MB, as much as the papers' puppeteer and as ResNet-20."""
    best = dataclasses.replace(RING, channels=(256, 512, 512), epochs=100)
    title = "Accuracy per stored byte, C = 512: 8,000 images, no augmentation"
    plain = _slim(best, (40, 74, 74), mirror=False)
    return _ring(title, best, _slim(best, (54, 106, 106)), plain, _residual(best, 20, 65))


def narrow512() -> Table:
    """1.1 MB in a puppet of 64, 128 and 256 channels, which two CPU cores train in an hour a seed."""
    best = dataclasses.replace(NARROW, dropout=0.3, batch_size=128)
    title = "Accuracy per stored byte, C = 512 in a narrow puppet: 8,000 images, no augmentation"
    return Table(title, _narrow_rows(best), smoke=0.02, seeds=3, columns=RING_COLUMNS)


def narrow_full512() -> Table:
    """All training images with crops: 16 epochs, two hours on two CPU cores."""
    best = dataclasses.replace(NARROW, **CROPPED | {"dropout": 0.1, "batch_size": 256})
    title = "Accuracy per stored byte, C = 512 in a narrow puppet: full training set, crops and flips, 16 epochs"
    return Table(title, _narrow_rows(best), smoke=0.00005, seeds=1, columns=RING_COLUMNS)


def _narrow_rows(best: Config) -> tuple[Row, ...]:
    dropout = best.dropout  # slim networks have enough floats to overfit
    slim = _slim(best, (54, 106, 106), max_channels=None, dropout=dropout, **NO_PUPPETEER_FORMER_RATE)
    residual = dataclasses.replace(_residual(best, 20, 65), **NO_PUPPETEER_FORMER_RATE)
    combined = dataclasses.replace(_combined(best), **NO_PUPPETEER_FORMER_RATE)
    return (
        Row("Puppet-CNN", "cifar10", best),
        Row("its layers, slim, weights stored", "cifar10", slim),
        Row("residual network of 20 layers", "cifar10", residual),
        Row("Puppet-CNN, kernels combined from frozen ones", "cifar10", combined),
        Row("Puppet-CNN, kernels from the states", "cifar10", dataclasses.replace(best, **STATE)),
    )


def full64() -> Table:
    """The rows of `ring64` on the full training set, which makes dropout needless."""
    best = dataclasses.replace(RING, **CROPPED)
    title = "Accuracy per stored byte, C = 64: full training set, crops and flips, 16 epochs"
    return _ring64(title, best, dropout=0.0, **NO_PUPPETEER_FORMER_RATE)


def full128() -> Table:
    """The rows of `ring128` likewise."""
    best = dataclasses.replace(RING, channels=(64, 128, 128), **CROPPED)
    title = "Accuracy per stored byte, C = 128: full training set, crops and flips, 16 epochs"
    return _ring128(title, best, dropout=0.0)


def full512() -> Table:
    """1.1 MB, full training sets: CIFAR-10 with crops and mirror images, CIFAR-100 without; presets `full`."""
    slimmer = dataclasses.replace(FULL, channels=(256, 256, 512, 512), num_validation=5_000, epochs=262)
    first = dataclasses.replace(slimmer, channels=(256, 512, 512), spread=(7, 7), cutout=0, epochs=190)
    half = dataclasses.replace(first, dropout=0.4, epochs=95)
    residual = dataclasses.replace(_residual(FULL, 20, 65), batch_size=128, cutout=0)
    full100 = dataclasses.replace(FULL_CIFAR100, **CIFAR100)
    slim = _slim(full100, (54, 106, 106), max_channels=None, spread=(7, 7), dropout=0.3, batch_size=256, epochs=80)
    residual100 = dataclasses.replace(_residual(full100, 20, 65), batch_size=128)
    rows = [
        Row("Puppet-CNN, CIFAR-10, crops, mirror images and cutout", "cifar10", FULL),
        Row("256-256-512-512, 45,000 images, 262 epochs", "cifar10", slimmer),
        Row("seven layers, 256-512-512, 45,000 images without cutout, 190 epochs", "cifar10", first),
        Row("the same, dropout of 0.4, 95 epochs", "cifar10", half),
        Row("ResNet-20, CIFAR-10, crops and mirror images", "cifar10", residual),
        Row("Puppet-CNN, CIFAR-100, no augmentation", "cifar100", full100),
        Row("the same at half the rate", "cifar100", dataclasses.replace(full100, **FORMER_RATE)),
        Row("seven of its layers, slim, weights stored, 80 epochs", "cifar100", slim),
        Row("ResNet-20, CIFAR-100, no augmentation", "cifar100", residual100),
    ]
    title = "Accuracy per stored byte, C = 512: full training sets"
    return Table(title, tuple(rows), smoke=0.00005, columns=RING_COLUMNS)


def controls64() -> Table:
    """What each idea behind preset `best` is worth, at C = 64, with kernels from the states."""
    best = dataclasses.replace(RING, **STATE)
    changes: dict[str, dict[str, Any]] = {
        "Puppet-CNN": {},
        "not mirrored": {"mirror": False},
        "depth follows complexity": {"adapt": "depth", "spread": (6, 8)},
        "depth and parameters follow complexity": {"adapt": "both", "spread": (6, 8), "num_levels": 2},
        "every weight of its kernels stored": {"kernels": "stored"},
    }
    rows = tuple(Row(label, "cifar10", dataclasses.replace(best, **change)) for label, change in changes.items())
    columns = (*RING_COLUMNS, "depth")
    return Table("Preset best and its controls, C = 64", rows, smoke=0.02, seeds=3, columns=columns)


def exits64() -> Table:
    """Input-adaptive depth by doubt against single depths."""
    return _exits("Input-adaptive depth by doubt, C = 64: 8,000 images, no augmentation", RING)


def exits128() -> Table:
    """The same at C = 128, where a puppet is no longer short of floats."""
    best = dataclasses.replace(RING, channels=(64, 128, 128))
    return _exits("Input-adaptive depth by doubt, C = 128: 8,000 images, no augmentation", best)


def exits64_last() -> Table:
    """Depth by doubt with all further layers in the last stage, where the exit's loss trains the exit alone."""
    best = dataclasses.replace(BEST, **FORMER_RATE)
    last = dataclasses.replace(best, depth_rule="last")
    doubt: dict[str, Any] = {"adapt": "doubt", "spread": (5, 8), "deep_share": 0.4}
    rows = (
        Row("layers 1-1-4", "cifar10", dataclasses.replace(last, spread=(6, 6))),
        Row(
            "layers 1-1-3, those in doubt on to 1-1-6",
            "cifar10",
            dataclasses.replace(last, **doubt, own_exit=True, detach_exit=True),
        ),
        Row("layers 1-1-6", "cifar10", dataclasses.replace(last, spread=(8, 8))),
        Row("layers 1-3-3", "cifar10", best),
    )
    title = "Input-adaptive depth by doubt in the last stage, C = 64: 8,000 images, no augmentation"
    return Table(title, rows, smoke=0.02, seeds=3, columns=(*RING_COLUMNS, "depth"))


def _exits(title: str, best: Config) -> Table:
    """The share of deep images makes depth by doubt cost as the first row does."""
    doubt: dict[str, Any] = {"adapt": "doubt", "spread": (5, 7), "deep_share": 0.36}
    changes: dict[str, dict[str, Any]] = {
        "all images at depth 6": {"spread": (6, 6)} | STATE,
        "all images at depth 7": STATE,
        "depth 5, those in doubt on to depth 7": doubt | STATE,
        "the same, the shallow loss weighing 0.3": doubt | {"shallow_weight": 0.3} | STATE,
        "kernels from the velocity, all images at depth 6": {"spread": (6, 6)},
        "kernels from the velocity, all images at depth 7": {},
        "kernels from the velocity, depth 5, those in doubt on to depth 7": doubt,
        "the same, the shallow puppet's norms and classifier its own": doubt | {"own_exit": True},
    }
    rows = tuple(Row(label, "cifar10", dataclasses.replace(best, **change)) for label, change in changes.items())
    return Table(title, rows, smoke=0.02, seeds=3, columns=(*RING_COLUMNS, "depth"))


TRAINED: dict[str, Callable[[], Table]] = {
    "backbones": backbones,
    "operations": operations,
    "training_sets": training_sets,
    "datasets": datasets,
    "ablation": ablation,
    "ring64": ring64,
    "ring128": ring128,
    "ring512": ring512,
    "narrow512": narrow512,
    "narrow_full512": narrow_full512,
    "full64": full64,
    "full128": full128,
    "full512": full512,
    "controls64": controls64,
    "exits64": exits64,
    "exits64_last": exits64_last,
    "exits128": exits128,
}
"""Tables that need training, by name."""


def differences(config: Config) -> Iterator[tuple[str, Any]]:
    """Fields in which a configuration is not the default; JSON values."""
    for name, value in json.loads(json.dumps(dataclasses.asdict(config))).items():
        if value != json.loads(json.dumps(getattr(Config(), name))):
            yield name, value
