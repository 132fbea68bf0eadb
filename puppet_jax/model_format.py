"""What a model file says of its model: the fields of format 3, checks of their values, and the way from others."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from puppet_jax.architecture import MAX_DEPTH, Puppet

FORMAT = 3
"""Its fields are those of format 2. In few bits a vector is codes with one scale; formats 1 and 2 have float16."""
_BY_COMMIT = "commit 02d1016 of the project reads it."


class _Kind(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_integer(value: Any, least: int = 0, most: int = 2**31 - 1) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any, least: float = -1e30) -> bool:
    return type(value) in (int, float) and least <= value <= 1e30


def _is_list(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(holds, value))


def _one_of(*values: Any) -> _Kind:
    words = ", ".join(map(repr, values))
    return _Kind(f"one of {words}", lambda value: any(type(value) is type(one) and value == one for one in values))


_BOOLEAN = _Kind("true or false", lambda value: type(value) is bool)
_COUNT = _Kind("an integer of at least 1", lambda value: _is_integer(value, 1))
_WHOLE = _Kind("an integer of at least 0", _is_integer)
_SEED = _Kind("an integer in [0, 2**64)", lambda value: _is_integer(value, most=2**64 - 1))
_SIZE_OF_KERNEL = _Kind("an odd integer in [1, 31]", lambda value: _is_integer(value, 1, 31) and value % 2 == 1)
_NUMBER = _Kind("a number in [-1e30, 1e30]", _is_number)
_NOT_NEGATIVE = _Kind("a number of at least 0", lambda value: _is_number(value, 0))
_COUNTS = _Kind("a list of integers of at least 1", lambda value: _is_list(value, _COUNT.holds))
_COUNTS_OR_NULL = _Kind(f"{_COUNTS.words}, or null", lambda value: value is None or _COUNTS.holds(value))
_HASH = _Kind("64 hexadecimal digits", lambda value: isinstance(value, str) and _is_hash(value))
_DEPTHS = _Kind(
    f"{_COUNTS.words} and at most {MAX_DEPTH} in rising order",
    lambda value: _COUNTS.holds(value) and value == sorted(set(value)) and value[-1] <= MAX_DEPTH,
)
_SIZE = _Kind("a pair of integers of at least 1", lambda value: _COUNTS.holds(value) and len(value) == 2)
_NAMES = _Kind("a list of names", lambda value: _is_list(value, lambda name: isinstance(name, str)))
_SHARE = _Kind("a number in [0, 1], or null", lambda value: value is None or (_is_number(value) and 0 <= value <= 1))
_THRESHOLD = _Kind(
    f"{_SHARE.words}, or a list of numbers of at least 0",
    lambda value: _SHARE.holds(value) or _is_list(value, _NOT_NEGATIVE.holds),
)
_LIMIT = _Kind("a number of at least 0, or infinity", lambda value: _is_number(value, 0) or value == float("inf"))
_KIND = _Kind("an object with a kind", lambda value: isinstance(value, dict) and isinstance(value.get("kind"), str))


def _is_hash(value: str) -> bool:
    return len(value) == 64 and set(value) <= set("0123456789abcdef")


_FIELDS: dict[str, Any] = {
    "format": _one_of(FORMAT),
    "network": _KIND,
    "depths": _DEPTHS,
    "class_names": _NAMES,
    "complexity": {"scale": _NOT_NEGATIVE, "offset": _NUMBER, "low": _LIMIT, "high": _LIMIT},
    "adaptation": _one_of("level", "sample"),
    "num_levels": _COUNT,
    "step": _WHOLE,
    "bits": _one_of(32, 8, 4),
    "threshold": _THRESHOLD,
    "pattern_sha256": _Kind(f"{_HASH.words}, or null", lambda value: value is None or _HASH.holds(value)),
    "sha256": _HASH,
}
_PUPPET: dict[str, Any] = {
    "kind": _one_of("puppet", "early_exit"),
    "puppet": {
        "channels": _COUNTS,
        "layers": _COUNTS_OR_NULL,
        "depth_rule": _one_of("per_stage", "total"),
        "stem": _BOOLEAN,
        "num_classes": _COUNT,
        "in_channels": _COUNT,
        "kernel_size": _SIZE_OF_KERNEL,
        "residual": _BOOLEAN,
        "dropout": _NUMBER,
        "mirror": _BOOLEAN,
        "affine": _BOOLEAN,
        "classifier": _one_of("linear", "generated"),
    },
    "puppeteer": {
        "max_channels": _COUNT,
        "kernel_size": _SIZE_OF_KERNEL,
        "initial_state": _one_of("seeded", "constant", "learned"),
        "seed": _SEED,
        "scale": _NUMBER,
        "kernels_from": _one_of("state", "velocity"),
    },
    "image_size": _SIZE,
}


def check_description(description: Mapping[str, Any], num_tensors: int) -> None:
    """Raises a ValueError unless every field of the format is there, none more, and each of its kind and range.

    Networks of other kinds than "puppet" and "early_exit" are their writer's to check. The tensors in the
    file must be as many as the layers of a puppet need, before anything is made of its size.
    """
    _check(description, _FIELDS, "")
    network, early = description["network"], description["network"]["kind"] == "early_exit"
    if early or network["kind"] == "puppet":
        _check(network, _PUPPET | {"exit_layer": _COUNT} if early else _PUPPET, "network")
        puppet = read_puppet(network)
        layers = sum(sum(puppet.layers_per_stage(depth)) for depth in description["depths"])
        if 2 * layers > num_tensors:
            raise ValueError(
                f"depths must be of no more than {num_tensors // 2} layers, as many as it has, got {layers}."
            )
        puppet.check_image_size(*network["image_size"])
        if description["complexity"]["low"] > description["complexity"]["high"]:
            raise ValueError(f"complexity.low must be at most complexity.high, got {description['complexity']}.")
        if len(description["class_names"]) != puppet.num_classes:
            raise ValueError(f"class_names must name {puppet.num_classes}, got {len(description['class_names'])}.")
        if early and network["exit_layer"] >= puppet.only_depth:
            raise ValueError(f"network.exit_layer must be less than {puppet.only_depth}, got {network['exit_layer']}.")
        threshold = description["threshold"]
        if not (isinstance(threshold, int | float) if early else threshold is None):
            raise ValueError(
                f"threshold must be {'a number' if early else 'null'} for the kind {network['kind']}, got {threshold}."
            )


def read_puppet(network: Mapping[str, Any]) -> Puppet:
    """The puppet that the field "network" describes."""
    fields: dict[str, Any] = dict(network["puppet"])
    for name in ("channels", "layers"):
        fields[name] = fields.get(name) and tuple(fields[name])
    return Puppet(**fields)


def _check(value: Any, kind: dict[str, Any] | _Kind, name: str) -> None:
    """Raises a ValueError that names the field, unless `value` has the fields of `kind`, or is of that kind."""
    if isinstance(kind, _Kind):
        if not kind.holds(value):
            raise ValueError(f"{name} must be {kind.words}, got {value!r:.80}.")
        return
    if not isinstance(value, Mapping):
        raise ValueError(f"{name or 'the description'} must be an object, got {value!r:.80}.")
    path = f"{name}." if name else ""
    for field in kind:
        if field not in value:
            raise ValueError(f"the field {path}{field} is missing.")
        _check(value[field], kind[field], path + field)
    for field in value:
        if field not in kind:
            raise ValueError(f"the field {path}{field} is unknown.")


# Format 1: what a file may hold, and what it means where it holds nothing. These values never change.
_ANY = _Kind("anything", lambda value: True)
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_FIELDS_1 = {name: kind for name, kind in _FIELDS.items() if name not in ("format", "num_levels", "sha256")}
_FIELDS_1 |= {"num_slices": _COUNT}
_NETWORK_1 = {
    **dict.fromkeys(("kind", "kernels", "exits"), _ANY),
    **{"puppet": _OBJECT, "generator": _OBJECT, "image_size": _SIZE},
}
_PUPPET_1 = {name: kind for name, kind in _PUPPET["puppet"].items() if name != "layers"} | {
    "depth_rule": _one_of("per_stage", "total", "last"),
    "max_depth": _ANY,
    "exit_depth": _ANY,
}
_MISSING_1 = {"threshold": None}
_NETWORK_MISSING_1 = {"kernels": "generated", "exits": None}
_PUPPET_MISSING_1 = {
    "depth_rule": "per_stage",
    "stem": False,
    "num_classes": 10,
    "in_channels": 3,
    "kernel_size": 3,
    "residual": False,
    "dropout": 0.0,
    "mirror": False,
    "affine": False,
    "classifier": "linear",
    "max_depth": None,
    "exit_depth": None,
}
_PUPPETEER_MISSING_1 = {
    "max_channels": None,
    "kernel_size": None,
    "initial_state": "seeded",
    "seed": 0,
    "scale": 0.1,
    "kernels_from": "state",
}


def upgrade(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a model file in today's format.

    A file without the field "format" is of format 1. What such a file may lack is written out here: it means what it
    meant then, whatever the defaults become.

    Args:
        description: as stored.

    Returns:
        The description; from format 1 without "sha256", which the reader computes.

    Raises:
        ValueError: if the version is unknown, or a file of format 1 lacks a field or has a network that is no more.
    """
    if "format" in description:
        version = description["format"]
        if type(version) is int and version > FORMAT:
            raise ValueError(
                f"written by a later version of puppet-jax (format {version}, this version reads up to {FORMAT}); "
                "upgrade the package."
            )
        _check(version, _one_of(2, FORMAT), "format")
        return {**description, "format": FORMAT}
    _check({**_MISSING_1, **description}, _FIELDS_1, "")
    network = _NETWORK_MISSING_1 | description["network"]
    kinds = tuple(network[name] for name in ("kind", "kernels", "exits"))
    if kinds != ("puppet", "generated", None):
        raise ValueError(f"a {kinds[0]} of {kinds[1]} kernels and exits {kinds[2]} is read no more; {_BY_COMMIT}")
    _check(network, _NETWORK_1, "network")
    old, puppeteer = _PUPPET_MISSING_1 | network["puppet"], _PUPPETEER_MISSING_1 | network["generator"]
    _check(old, _PUPPET_1, "network.puppet")
    _check(puppeteer, dict.fromkeys(_PUPPETEER_MISSING_1, _ANY), "network.generator")
    puppet = _puppet_of_layers(old, description["depths"])
    described = {
        "kind": "puppet",
        "puppet": puppet,
        "puppeteer": read_puppet({"puppet": puppet}).puppeteer_settings(puppeteer),
        "image_size": network["image_size"],
    }
    kept = {name: value for name, value in description.items() if name != "num_slices"}
    levels = {"num_levels": description["num_slices"]}
    return {**kept, **levels, "format": FORMAT, "network": described, "threshold": None}


def _puppet_of_layers(puppet: dict[str, Any], depths: list[int]) -> dict[str, Any]:
    """Of one depth: the layers of each stage, if these are as many; else the puppet keeps its rule."""
    nested = puppet.pop("max_depth"), puppet.pop("exit_depth")
    rule, stages, layers = puppet["depth_rule"], len(puppet["channels"]), None
    if nested != (None, None):
        raise ValueError(f"a nested puppet (max_depth {nested[0]}) is read no more; {_BY_COMMIT}")
    if len(depths) == 1 and rule == "last":  # one in each stage but the last, which had the rest
        layers = [1] * (stages - 1) + [depths[0] - stages + 1]
    elif len(depths) == 1:
        layers = list(read_puppet({"puppet": puppet}).layers_per_stage(depths[0]))
    if layers is not None and sum(layers) == depths[0] and min(layers) > 0:
        return puppet | {"layers": layers, "depth_rule": "per_stage", "stem": False}
    if rule == "last":
        raise ValueError(f"the depth rule 'last' is read no more; {_BY_COMMIT}")
    return puppet | {"layers": None}
