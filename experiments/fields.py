"""Fields of records (frozen dataclasses): changed by flat names, written as JSON, read back. Imports no JAX."""

import dataclasses
import types
import typing
from collections.abc import Set
from typing import Any, TypeVar

R = TypeVar("R")


def replace(record: R, **options: Any) -> R:
    """A record with other options, each found by its name in the record or in the records within it.

    Raises:
        TypeError: if no record has an option of that name.
    """
    own = {field.name for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    changes = {name: options.pop(name) for name in list(options) if name in own}
    for name in own - changes.keys():
        part = getattr(record, name)
        if dataclasses.is_dataclass(part) and (
            inner := {key: options.pop(key) for key in _names(part) & options.keys()}
        ):
            changes[name] = replace(part, **inner)
    if options:
        raise TypeError(f"{type(record).__name__} has no option {', '.join(sorted(options))}.")
    return dataclasses.replace(record, **changes)  # type: ignore[type-var]


def as_json(record: Any) -> dict[str, Any]:
    """A record as JSON values, every field written out; `kind`, the name of its class, where a union leaves it open.

    A field with the metadata `{"stored": False}` is left out, one with `{"stored": "unless default"}` at its default.
    """

    def value_of(hint: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            kind = {"kind": type(value).__name__} if len(_members(hint)) > 1 else {}
            return kind | as_json(value)
        return [value_of(Any, one) for one in value] if isinstance(value, tuple) else value

    hints = typing.get_type_hints(type(record))
    left_out = {name for name, default in _optional(record).items() if getattr(record, name) == default}
    return {name: value_of(hints[name], getattr(record, name)) for name in _stored(record) if name not in left_out}


def from_json(kind: Any, described: Any) -> Any:
    """The value of type `kind` that `as_json` described.

    Raises:
        ValueError: if it describes none: a field is missing, unknown, or out of range.
    """
    members = _members(kind)
    if isinstance(described, list) and not members:
        return tuple(from_json(Any, one) for one in described)
    if not members or (described is None and type(None) in typing.get_args(kind)):
        return described
    if not isinstance(described, dict):
        raise ValueError(f"{' or '.join(members)} is expected, got {described!r}")
    fields = dict(described)
    if len(members) > 1 and (name := fields.pop("kind", None)) not in members:
        raise ValueError(f"kind must be one of {', '.join(members)}, got {name!r}")
    record = members[name] if len(members) > 1 else next(iter(members.values()))
    missing, unknown = _stored(record) - _optional(record).keys() - fields.keys(), fields.keys() - _stored(record)
    if missing or unknown:
        problems = [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
        problems += [f"has the unknown {', '.join(sorted(unknown))}"] * bool(unknown)
        raise ValueError(f"{record.__name__} {' and '.join(problems)}")
    hints = typing.get_type_hints(record)
    return record(**{name: from_json(hints[name], value) for name, value in fields.items()})


def _members(hint: Any) -> dict[str, Any]:
    """The records that a value of this type can be, by name."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    return {kind.__name__: kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def _stored(record: Any) -> Set[str]:
    """Names of the fields that are written, in order."""
    return {field.name: None for field in dataclasses.fields(record) if field.metadata.get("stored", True)}.keys()


def _optional(record: Any) -> dict[str, Any]:
    """Defaults of the fields that files may lack, by name."""
    fields = dataclasses.fields(record)
    return {field.name: field.default for field in fields if field.metadata.get("stored") == "unless default"}


def flat(described: dict[str, Any]) -> dict[str, Any]:
    """What `as_json` gives as one dictionary of options by their flat names, kinds under the names of their fields."""
    options: dict[str, Any] = {}
    for name, value in described.items():
        if isinstance(value, dict):
            inner = dict(value)
            options |= {name: inner.pop("kind")} if "kind" in inner else {}
            options |= flat(inner)
        else:
            options[name] = value
    return options


def _names(record: Any) -> set[str]:
    """Flat names of all options in a record."""
    parts = [getattr(record, field.name) for field in dataclasses.fields(record)]
    own = {field.name for field in dataclasses.fields(record)}
    return own.union(*(_names(part) for part in parts if dataclasses.is_dataclass(part)))


def check_at_least(record: Any, **least: int) -> None:
    """Raises a ValueError unless every field named is None or at least as large as is said."""
    for name, low in least.items():
        value = getattr(record, name)
        require(value is None or value >= low, name, f"at least {low}", value)


def require(condition: bool, name: str, what: str, value: Any) -> None:
    """Raises a ValueError that names an option, what it must be and what it is, unless the condition holds."""
    if not condition:
        raise ValueError(f"--{name.replace('_', '-')} must be {what}, got {value}.")
