"""The papers' backbones in their three regimes, as presets (v1 table 3, v2 table 2). Imports no JAX."""

from typing import Any

from experiments.config import Adaptive, Backbone, Config, Data, DeepBackbone, Generated, Optim, Ordinary

REGIMES: dict[str, Generated | Adaptive | Ordinary] = {
    "fixed": Ordinary(),
    "puppet": Generated(),
    "adaptive": Adaptive(levels_per_batch=2, num_levels=16),
}
"""Kernels of its own; of a puppeteer at one complexity; of a puppeteer at the complexity of the image."""
RECORDS: dict[Any, type[Backbone]] = {
    "alexnet": Backbone,
    "vgg": DeepBackbone,
    "resnet": DeepBackbone,
    "resnet20": DeepBackbone,
    "mobilenet_v1": Backbone,
    "mobilenet_v2": Backbone,
    "squeezenet": Backbone,
}
"""The record of each backbone."""


def backbone_presets(data: Data, optim: Optim) -> dict[str, Config]:
    """Every backbone in every regime, NAME-REGIME, under one protocol."""
    return {
        f"{name}-{regime}": Config(network=record(name=name, kernels=kernels), data=data, optim=optim)
        for name, record in RECORDS.items()
        for regime, kernels in REGIMES.items()
    }
