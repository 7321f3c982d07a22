"""Objects that depend on values, written once and read twice: as plain dictionaries, and as a Helm template.

    {"replicas": Ref("controllerReplicas"), "affinity": When(Is("highAvailability"), {…})}

        evaluate(node, values)      → {"replicas": 3, "affinity": {…}}             `gameday mesh install`
        mesh.deploy.helm.emit(node) → replicas: {{ .Values.controllerReplicas }} …  `gameday mesh chart`

A node is a mapping, a list, a scalar, or one of the classes below. What is absent leaves no key and no item; a mapping
or list of which every member is conditional is absent as soon as none is there: no `resources: null` comes out.

Rejected: templates as text (two languages in one file, and nothing checks that the chart and the CLI agree), and plain
functions of `Values` (nothing to make a chart from but copies of it).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()
Node = Any
"""Mapping[str, Node] | list[Node] | str | int | float | bool | None | one of the classes below."""

PLACEHOLDER = re.compile(r"\{([A-Za-z.]+)\}")


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of a field: a scalar, or a whole mapping or list."""

    path: str


@dataclass(frozen=True, slots=True)
class Required:
    """The text of a field without which there is nothing to install."""

    path: str
    hint: str
    """What the chart says when it is missing."""


@dataclass(frozen=True, slots=True)
class Secret(Required):
    """The same in base64, as `data` of a Secret wants it."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text with fields in it: `{image.name}:{image.version}`."""

    text: str

    @property
    def paths(self) -> list[str]:
        return PLACEHOLDER.findall(self.text)


@dataclass(frozen=True, slots=True)
class Item:
    """Within `Each`: the item."""

    number: bool = False
    """The item is text, and stands for a whole number."""


@dataclass(frozen=True, slots=True)
class Each:
    """Items of a list, one for each item of the field, which is a list or (`separator`) text with separators."""

    path: str
    node: Node
    separator: str | None = None


@dataclass(frozen=True, slots=True)
class AllValues:
    """All values as YAML text, without certificates and keys."""


# ---- tests


@dataclass(frozen=True, slots=True)
class Is:
    """The field is true, or not empty."""

    path: str


@dataclass(frozen=True, slots=True)
class Not:
    test: Test


@dataclass(frozen=True, slots=True)
class Both:
    first: Test
    second: Test


@dataclass(frozen=True, slots=True)
class Either:
    tests: tuple[Test, ...]


Test = Is | Not | Both | Either


@dataclass(frozen=True, slots=True)
class When:
    test: Test
    then: Node
    otherwise: Node = ABSENT


CREDENTIALS = ("identityTrustAnchorsPEM", "identity.issuer.tls")
"""Fields of the context that are not values: never in `AllValues`."""


def evaluate(node: Node, context: Mapping[str, Any], item: object = None) -> Node:
    """What `node` is with these values; ABSENT where it is not there. `context`: values and credentials, nested."""
    match node:
        case Secret(path):
            return base64.b64encode(str(look_up(context, path)).encode()).decode()
        case Ref(path) | Required(path):
            return look_up(context, path)
        case Text(text):
            return PLACEHOLDER.sub(lambda match: str(look_up(context, match.group(1))), text)
        case Item(number):
            return int(str(item)) if number else item
        case AllValues():
            return yaml.safe_dump(_without_credentials(context), sort_keys=True, width=120)
        case When(test, then, otherwise):
            return evaluate(then if holds(test, context) else otherwise, context, item)
        case dict():
            found = {key: evaluate(value, context, item) for key, value in node.items()}
            present = {key: value for key, value in found.items() if value is not ABSENT}
            return present if present or not node else ABSENT
        case list():
            items = [value for member in node for value in _members(member, context, item)]
            return items if items or not node else ABSENT
        case _:
            return node


def holds(test: Test, context: Mapping[str, Any]) -> bool:
    match test:
        case Is(path):
            return bool(look_up(context, path))
        case Not(inner):
            return not holds(inner, context)
        case Both(first, second):
            return holds(first, context) and holds(second, context)
        case Either(tests):
            return any(holds(inner, context) for inner in tests)


def condition_of(node: Node) -> Test | None:
    """When the node is there at all; None: always."""
    match node:
        case When(test, then, otherwise) if otherwise is ABSENT:
            inner = condition_of(then)
            return test if inner is None else Both(test, inner)
        case Each(path):
            return Is(path)
        case dict() | list() if node:
            members = [condition_of(member) for member in (node.values() if isinstance(node, dict) else node)]
            tests = tuple(dict.fromkeys(test for test in members if test is not None))
            if len(tests) == 0 or any(test is None for test in members):
                return None
            return tests[0] if len(tests) == 1 else Either(tests)
        case _:
            return None


def look_up(context: Mapping[str, Any], path: str) -> Any:
    """The field at `path`. A wrong path is a bug of the template and raises KeyError."""
    found: Any = context
    for step in path.split("."):
        found = found[step]
    return found


def _members(node: Node, context: Mapping[str, Any], item: object) -> list[Node]:
    if isinstance(node, Each):
        field = look_up(context, node.path)
        items = [part.strip() for part in field.split(node.separator)] if node.separator else list(field)
        return [evaluate(node.node, context, each) for each in items if each != ""]
    value = evaluate(node, context, item)
    return [] if value is ABSENT else [value]


def _without_credentials(context: Mapping[str, Any]) -> dict[str, Any]:
    def copy(mapping: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: copy(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in mapping.items()
            if f"{prefix}{key}" not in CREDENTIALS
        }

    return copy(context, "")


Builder = Callable[[], list[Node]]
"""A component: the objects that it consists of."""
