"""Changes to a frozen configuration: `section.field=value` on the command line, nested fields in the launchpad."""

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class OverrideError(ValueError):
    """An override names no field, or its value does not fit; the message names the valid choices."""


def apply_overrides(config: ConfigT, overrides: Iterable[str], *, option: str = "--set") -> ConfigT:
    """A new configuration with each `section.field=value` set and everything validated again.

    Values are JSON where they parse as JSON (`3`, `0.5`, `true`, `null`), text otherwise.

    Raises:
        OverrideError: see the class.
    """
    values = config.model_dump()
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise OverrideError(f"{option} {override}: expected section.field=value")
        try:
            _set(config, values, path.strip(), _parse(text.strip()))
        except OverrideError as error:
            raise OverrideError(f"{option} {path.strip()}: {error}") from error
    return _validated(config, values)


def merge_overrides(config: ConfigT, overrides: Mapping[str, Any]) -> ConfigT:
    """A new configuration with the fields of a nested mapping set and everything validated again.

    Raises:
        OverrideError: see the class.
    """
    return _validated(config, _merged(config.model_dump(), overrides))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        known = merged.get(name)
        if isinstance(known, Mapping) and isinstance(change, Mapping):
            change = _merged(known, change)
        merged[name] = change
    return merged


def _validated(config: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    try:
        return type(config).model_validate(values)
    except ValidationError as error:
        raise OverrideError("; ".join(map(_explain, error.errors()))) from error


def _set(config: BaseModel, values: dict[str, Any], path: str, value: Any) -> None:
    *sections, field = path.split(".")
    node: Any = config
    target: Any = values
    for depth, section in enumerate(sections):
        node = _child(node, section, ".".join(sections[:depth]))
        target = target[section]
    valid = _names(node)
    if field not in valid:
        where = ".".join(sections) or "the configuration"
        raise OverrideError(_unknown(where, field, valid))
    # A table whose names the user chooses, such as `subsets`, may be given as a whole.
    names_are_free = isinstance(_child(node, field, ""), Mapping)
    # A section that stores only what was given lacks the rest.
    if isinstance(target.get(field), dict) and not (names_are_free and isinstance(value, dict)):
        raise OverrideError(
            "that is a section; valid: " + ", ".join(f"{path}.{name}" for name in target[field])
        )
    target[field] = value


def _child(node: Any, name: str, where: str) -> Any:
    valid = _names(node)
    if name not in valid:
        raise OverrideError(_unknown(where or "the configuration", name, valid))
    return node[name] if isinstance(node, Mapping) else getattr(node, name)


def _unknown(where: str, name: str, valid: Sequence[str]) -> str:
    """One line with the names that are near the unknown one, or else with all."""
    near = get_close_matches(name, valid, n=5)
    choices = f"near it: {', '.join(near)}" if near else f"valid: {', '.join(valid)}"
    return f"{where} has no {name!r}; {choices}"


def _names(node: Any) -> list[str]:
    if isinstance(node, BaseModel):
        return list(type(node).model_fields)
    return list(node) if isinstance(node, Mapping) else []


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "configuration"
    # Of a rule about several fields the input is all of them, which the message has chosen from.
    found = "" if isinstance(error["input"], Mapping) else f", got {error['input']!r}"
    return f"{where}: {error['msg']}{found}"
