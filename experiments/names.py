"""How networks are called in tables and pictures, by their flat configurations (JSON). Imports no JAX."""

from collections.abc import Sequence
from typing import Any

KERNELS = {
    "Generated": "puppet",
    "Adaptive": "puppet, kernels by complexity",
    "FrozenBasis": "frozen random basis",
    "Ordinary": "ordinary kernels",
    "low_rank": "low rank",
    "inverse_dct": "inverse DCT",
    "hypernetwork": "hypernetwork",
    "shared": "shared floats",
}
"""How a network of the puppet's layers is called, by where its kernels come from."""


def name_of(config: dict[str, Any]) -> str:
    """What kind of network it is, how wide, of how large a puppeteer; tuned if it began with a run, taught by teachers.

    Args:
        config: from `experiments.fields.flat`.
    """
    tuned = (["tuned"] if config["start_from"] else []) + (["taught"] if config.get("teachers") else [])
    if config["network"] != "PuppetCNN":
        name = config.get("name") or config.get("plain") or config["network"]
        parts = [name if config.get("kernels", "Ordinary") == "Ordinary" else f"puppet-{name}"]
        parts += [f"{config['num_layers']} layers"] if config.get("num_layers") else []
        parts += [f"{config['width']} wide"] if config.get("width") else []
        return ", ".join(parts + tuned)
    parts = [f"{KERNELS[config.get('generator') or config['kernels']]} {'-'.join(map(str, config['channels']))}"]
    if config["kernels"] != "Ordinary":
        parts.append(f"C = {config['max_channels'] or max(config['channels'])}")
    if config.get("kernels_from") == "velocity":
        parts.append("from the velocity")
    return ", ".join(parts + (["mirrored"] if config["mirror"] else []) + tuned)


def distinct_names(configs: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each configuration: what it is, and, where that is not enough, in which options it differs."""
    names = [name_of(config) for config in configs]
    result = []
    for name, config in zip(names, configs, strict=True):
        alike = [other for other, its in zip(configs, names, strict=True) if its == name]
        differing = [option for option in config if any(other.get(option) != config[option] for other in alike)]
        result.append(", ".join([name, *(f"{option} {_shown(config[option])}" for option in differing)]))
    return result


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
