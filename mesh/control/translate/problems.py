"""How translation speaks of a value it cannot use: where it stands in the resource, and what to write instead."""

from __future__ import annotations

from collections.abc import Callable

FieldPath = tuple[str | int, ...]
"""Keys and indexes from the resource's root: `("metadata", "annotations", "retry.linkerd.io/limit")`."""

Complain = Callable[[FieldPath, str], None]
"""Called with the place of a wrong value and one sentence on it."""


def ignore_problems(path: FieldPath, message: str) -> None:
    """A `Complain` for callers whose resources were already checked."""


def annotation(name: str) -> FieldPath:
    return ("metadata", "annotations", name)


class Unusable(Exception):
    """A part of a resource that cannot be used, and why; its translator decides what goes without it."""

    def __init__(self, path: FieldPath, message: str) -> None:
        super().__init__(message)
        self.path = path
