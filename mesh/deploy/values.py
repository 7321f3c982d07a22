"""What the user wants installed: defaults ← --ha ← --values files ← --set, checked before anything is printed.

    --set proxy.logLevel=debug --set 'tolerations=[{"operator": "Exists"}]' --values mesh.yaml

The fields, with unit, default and reason, are those of `mesh.api.values.Values`. A later source wins, field by field;
lists are replaced whole, as in Helm. Every mistake is one line that names the source and the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec.structs import replace

from mesh.api.values import HA, VERSION, InvalidValues, Values, dump_values, load_values
from mesh.control.translate.annotations import suggestion
from mesh.deploy.checks import problems_of

__all__ = ["HA", "InvalidValues", "Values", "dump_values", "field_names", "load_values", "merge", "read_values"]


def read_values(
    *,
    base: Values | None = None,
    high_availability: bool = False,
    files: Sequence[Path] = (),
    settings: Iterable[str] = (),
) -> Values:
    """The values of an install. `base`: those of the cluster, for an upgrade; the defaults without it.

    Raises:
        InvalidValues: a file or setting that cannot be read, an unknown field, or a value out of range.
    """
    merged = to_mapping(Values() if base is None else _moved_on(base))
    if high_availability:
        merged = merge(merged, HA)
    for file in files:
        given = _read_file(file)
        _check_names(given, merged, str(file))
        merged = merge(merged, given)
    for setting in settings:
        given = _read_setting(setting)
        _check_names(given, merged, f"--set {setting}")
        merged = merge(merged, given)
    values = _convert(merged | {"version": VERSION})
    for field, message in problems_of(values):
        raise InvalidValues(f"{field}: {message}")
    return values


def _moved_on(installed: Values) -> Values:
    """The values of an older version, with this version's image, unless the user had chosen another."""
    if installed.image.version != installed.version:
        return installed
    return replace(installed, image=replace(installed.image, version=VERSION))


def to_mapping(values: Values) -> dict[str, Any]:
    """As in a values file; lists are lists."""
    mapping: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(values))  # to_builtins leaves tuples
    return mapping


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`upper` laid over `lower`, mapping by mapping."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def field_names(prefix: str = "", mapping: Mapping[str, Any] | None = None) -> list[str]:
    """Every field as `--set` names it: `proxy.resources.cpu.limit`."""
    names: list[str] = []
    for key, value in (to_mapping(Values()) if mapping is None else mapping).items():
        name = f"{prefix}{key}"
        names.append(name)
        if isinstance(value, dict) and name not in _FREE:
            names += field_names(f"{name}.", value)
    return names


_FREE = frozenset({"nodeSelector"})
"""Mappings whose keys are the user's own."""


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InvalidValues(f"--values {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidValues(f"--values {path}: not YAML ({' '.join(str(error).split())})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidValues(f"--values {path}: must be a mapping of fields, such as proxy: {{logLevel: debug}}")
    return content


def _read_setting(text: str) -> dict[str, Any]:
    """`a.b=value`; the value is YAML, so that numbers, true and [lists] are what they look like."""
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise InvalidValues(f"--set {text}: write field=value, such as proxy.logLevel=debug")
    try:
        parsed = yaml.safe_load(value) if value else ""
    except yaml.YAMLError:
        parsed = value
    if isinstance(_field(name), str) and not isinstance(parsed, (dict, list)):
        parsed = value  # 1e3, 010 or true are text where the field is text
    nested: Any = parsed
    for key in reversed(_keys(name)):
        nested = {key: nested}
    assert isinstance(nested, dict)
    return nested


def _keys(name: str) -> list[str]:
    """Steps of a field's name. A label's key has dots of its own: nodeSelector.kubernetes.io/os is two steps."""
    for free in _FREE:
        if name.startswith(f"{free}."):
            return [free, name.removeprefix(f"{free}.").replace("\\.", ".")]
    return name.split(".")


def _field(name: str) -> object:
    found: object = to_mapping(Values())
    for key in _keys(name):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _check_names(given: Mapping[str, Any], known: Mapping[str, Any], source: str, prefix: str = "") -> None:
    for key, value in given.items():
        name = f"{prefix}{key}"
        if key not in known:
            near = suggestion(name, [f"{prefix}{field}" for field in known]) or suggestion(name, field_names())
            raise InvalidValues(f"{source}: no field {name!r}{near or '; `gameday mesh install --help` tells of them'}")
        below = known[key]
        if isinstance(below, dict) and name not in _FREE:
            if not isinstance(value, dict):
                raise InvalidValues(f"{source}: {name}: has fields of its own: {', '.join(below)}")
            _check_names(value, below, source, f"{name}.")


def _convert(merged: Mapping[str, Any]) -> Values:
    try:
        return msgspec.convert(merged, Values)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        field = where.strip("`").removeprefix("$.")
        raise InvalidValues(f"{field}: {_plain(message)}") from None


_WORDS = {"int": "a whole number", "str": "text", "object": "a mapping", "array": "a list", "bool": "true or false"}


def _plain(message: str) -> str:
    """msgspec's "Expected `int`, got `str`" in the words of YAML."""
    text = re.sub(r"`(\w+)`", lambda match: _WORDS.get(match.group(1), match.group(1)), message)
    return text[:1].lower() + text[1:]
