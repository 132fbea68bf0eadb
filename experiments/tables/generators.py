"""What a puppeteer is worth: other generators of as many floats, in networks of several kinds. Imports no JAX."""

import dataclasses
from typing import Any, Literal

from experiments.cifar10 import BEST, LIGHT
from experiments.config import (
    Config,
    Data,
    FrozenBasis,
    Generated,
    Optim,
    Ordinary,
    OtherGenerator,
    Puppetized,
    ResNet8,
    Tiniest,
    Transformer,
)
from experiments.fields import replace
from experiments.tables.rows import Row, Table

OTHERS: dict[str, FrozenBasis] = {
    "frozen random basis (PRANC)": FrozenBasis(),
    "low rank": OtherGenerator(generator="low_rank"),
    "inverse DCT": OtherGenerator(generator="inverse_dct"),
    "hypernetwork in chunks": OtherGenerator(generator="hypernetwork"),
    "shared floats": OtherGenerator(generator="shared"),
}
ADAM: dict[str, Any] = {"optimizer": "adam", "weight_decay": 0.05}
"""Of all generators but the puppeteer, and of ordinary weights."""
MUON_RATES = (2.5e-3, 5e-3, 1e-2)
ADAM_RATES = (4e-3, 1.2e-2, 4e-2)
TRANSFORMER_RATES = (1e-3, 3e-3, 1e-2)
TRANSFORMER_OPTIM = Optim(epochs=10, learning_rate=3e-3, label_smoothing=0.1, **ADAM)
PARTIAL = Data(num_images=8_000, num_validation=2_000)
AUGMENTED = dataclasses.replace(PARTIAL, augment="crop_flip")
COLUMNS = ("trainable_mb", "generator_gmacs", "network_gmacs")
C = 48
"""Of the puppeteers of transformers, which then store less than 30 kB with biases and norms."""


def generators() -> Table:
    """Preset `best` with kernels of other generators, each of as many floats as its puppeteer."""
    rows = (
        Row("Puppet-CNN", "cifar10", BEST, rates=MUON_RATES),
        *(
            Row(label, "cifar10", replace(BEST, kernels=kernels, **ADAM), rates=ADAM_RATES)
            for label, kernels in OTHERS.items()
        ),
    )
    title = "Generators of as many floats, in the network of preset best: 8,000 images, no augmentation"
    return Table(title, rows, smoke=0.02, seeds=3, columns=COLUMNS)


def transformers() -> Table:
    """A vision transformer and an MLP-Mixer, all of whose weights are generated, beside small ordinary ones."""
    rows = (
        *_transformers("vit", width=12, num_blocks=4, patch=4),
        *_transformers("mixer", width=12, num_blocks=3, patch=8),
    )
    title = "Weights that are matrices: a vision transformer and an MLP-Mixer, 8,000 images, no augmentation"
    return Table(title, rows, smoke=0.05, seeds=3, columns=COLUMNS)


def few_bytes() -> Table:
    """Ordinary networks in 7.0 kB, and wider ones of as many bytes, whose weights are generated; in 4 bits."""
    stages = replace(LIGHT.network, channels=(46, 92, 92, 92), dropout=0.0)
    tiniest, resnet8 = Tiniest(width=40), ResNet8(width=44)
    networks: dict[str, Any] = {
        "cifar10-tiniest of width 20": Tiniest(width=20),
        "tiniest of width 40, shared floats": _puppetized(tiniest, "shared", 96),
        "tiniest of width 40, frozen random basis (PRANC)": _puppetized(tiniest, "frozen_basis", 78),
        "tiniest of width 40, puppeteer": _puppetized(tiniest, "puppeteer", 88),
        "ResNet-8 of width 23": ResNet8(width=23),
        "ResNet-8 of width 44, shared floats": _puppetized(resnet8, "shared", 105),
        "ResNet-8 of width 44, frozen random basis (PRANC)": _puppetized(resnet8, "frozen_basis", 94),
        "ResNet-8 of width 44, puppeteer": _puppetized(resnet8, "puppeteer", 98),
        "stages of preset light, slim, ordinary weights": replace(
            stages, channels=(16, 22, 22, 22), kernels=Ordinary()
        ),
        "stages of preset light, shared floats": replace(stages, kernels=_kernels("shared", 100)),
        "stages of preset light, frozen random basis (PRANC)": replace(stages, kernels=_kernels("frozen_basis", 98)),
        "stages of preset light, puppeteer": stages,
    }
    rows = []
    for label, network in networks.items():
        by_puppeteer = isinstance(getattr(network, "kernels", None), Generated)
        optim = LIGHT.optim if by_puppeteer else replace(LIGHT.optim, **ADAM)
        config = Config(network=network, data=AUGMENTED, optim=replace(optim, epochs=28), bits=4)
        rows.append(Row(label, "cifar10", config, rates=MUON_RATES if by_puppeteer else ADAM_RATES))
    title = "Accuracy in 7.0 kB: 8,000 images, shifted and mirrored"
    return Table(title, tuple(rows), smoke=0.02, seeds=3, columns=COLUMNS)


def _puppetized(plain: Tiniest | ResNet8 | Transformer, kind: str, channels: int) -> Puppetized:
    """The network from a generator of as many floats as a puppeteer of so many channels."""
    return Puppetized(plain=plain, kernels=_kernels(kind, channels))


def _kernels(kind: str, channels: int) -> Any:
    """The generator."""
    return {
        "puppeteer": Generated(max_channels=channels, kernels_from="velocity", scale=0.03),
        "frozen_basis": FrozenBasis(max_channels=channels),
        "shared": OtherGenerator(generator="shared", max_channels=channels),
    }[kind]


def _transformers(name: Literal["vit", "mixer"], **ordinary: int) -> tuple[Row, ...]:
    """Adam for all, so that they differ by their weights alone; and for one puppeteer Muon, as in preset best."""
    plain = Transformer(name=name)

    def row(label: str, network: Any, optimizer: Literal["adam", "muon"] = "adam") -> Row:
        optim = dataclasses.replace(TRANSFORMER_OPTIM, optimizer=optimizer)
        label = f"{'ViT' if name == 'vit' else 'Mixer'}, {label}"
        return Row(label, "cifar10", Config(network=network, data=PARTIAL, optim=optim), rates=TRANSFORMER_RATES)

    states = Generated(max_channels=C)
    best = _puppetized(plain, "puppeteer", C)
    return (
        row("puppeteer (velocity, taps)", best),
        row("puppeteer (velocity, taps, Muon)", best, "muon"),
        row("puppeteer (states, taps)", Puppetized(plain=plain, kernels=states)),
        row("puppeteer (states, mean)", Puppetized(plain=plain, kernels=states, matrices="mean")),
        row("frozen random basis (PRANC)", _puppetized(plain, "frozen_basis", C)),
        row("shared floats", _puppetized(plain, "shared", C)),
        row("slim, ordinary weights", Transformer(name=name, **ordinary)),
    )
