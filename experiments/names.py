"""How networks are called in tables and pictures, by their configurations (JSON). Imports no JAX."""

from collections.abc import Sequence
from typing import Any

from experiments.config import CONTROLS, DOUBT_ALONE

KINDS = {
    "generated": "puppet",
    "combined": "combined frozen kernels",
    "stored": "stored kernels",
    "standardised": "standardised puppet",
    "reseeded": "reseeded puppet",
}
"""How a network of the puppet's layers is called, by the kind of its kernels."""


def name_of(config: dict[str, Any]) -> str:
    """What kind of network it is, how wide, and of how large a puppeteer; tuned if it began with a run."""
    tuned = ["tuned"] if config["start_from"] else []
    if config["network"] != "puppet":
        parts = [config["network"] if config["kernels"] == "stored" else f"puppet-{config['network']}"]
        parts += [f"{config['num_layers']} layers"] if config["num_layers"] else []
        parts += [f"{config['max_channels']} wide"] if config["max_channels"] else []
        return ", ".join(parts + tuned)
    parts = [f"{KINDS[config['kernels']]} {'-'.join(map(str, config['channels']))}"]
    if config["kernels"] != "stored":
        parts.append(f"C = {config['max_channels'] or max(config['channels'])}")
    if config["kernels"] not in CONTROLS and config["kernels_from"] == "velocity":
        parts.append("from the velocity")
    return ", ".join(parts + (["mirrored"] if config["mirror"] else []) + tuned)


def distinct_names(configs: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each configuration: what it is, and, where that is not enough, in which fields it differs."""
    names = [name_of(config) for config in configs]
    result = []
    for name, config in zip(names, configs, strict=True):
        alike = [other for other, its in zip(configs, names, strict=True) if its == name]
        differing = [
            field
            for field in config
            if any(other[field] != config[field] for other in alike) and field not in _without_effect(config)
        ]
        result.append(", ".join([name, *(f"{field} {_shown(config[field])}" for field in differing)]))
    return result


def _without_effect(config: dict[str, Any]) -> tuple[str, ...]:
    return () if config["adapt"] == "doubt" else DOUBT_ALONE


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
