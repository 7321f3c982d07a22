"""What an informer knows: the last good state of every object of one kind. No sockets, no clock.

    page of a list ─┐
                    ├─► compare uid and resourceVersion ─► read ─► Change(before, after)
    watch event ────┘

The store only ever reports differences, so lists and watches can overlap, repeat and start over at will. An object that
cannot be read keeps what it last said (as a broken manifest does in the files registry) and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")

Key = tuple[str, str]
"""Namespace (empty for what is in none) and name."""


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """One object: what it said, and what it says. Either may be None, never both."""

    key: Key
    before: T | None
    after: T | None


class Head(msgspec.Struct, rename="camel", frozen=True):
    """The part of metadata that tells one version of an object from another."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Object(msgspec.Struct, frozen=True):
    metadata: Head


class Unreadable(ValueError):
    """An object that does not have the shape of its kind."""


Read = Callable[[bytes], "T | None"]
"""Bytes of one object → what is kept of it; None: of no interest. Raises Unreadable or msgspec.ValidationError."""


@dataclass(slots=True)
class _Held(Generic[T]):
    uid: str
    version: str
    value: T | None


class Store(Generic[T]):
    """Objects by namespace and name."""

    def __init__(self, read: Read[T], complain: Callable[[Key, str], None] | None = None) -> None:
        self._read = read
        self._complain = complain
        self._held: dict[Key, _Held[T]] = {}
        self.unreadable = 0
        """Versions of objects that could not be read so far."""

    def __len__(self) -> int:
        return len(self._held)

    def get(self, namespace: str, name: str) -> T | None:
        held = self._held.get((namespace, name))
        return held.value if held is not None else None

    def values(self) -> list[T]:
        return [held.value for held in self._held.values() if held.value is not None]

    def items(self) -> list[tuple[Key, T]]:
        return [(key, held.value) for key, held in self._held.items() if held.value is not None]

    def listing(self) -> Listing[T]:
        """A list begins; nothing is removed before it is complete."""
        return Listing(self)

    def put(self, raw: bytes) -> tuple[Key, Change[T] | None]:
        """An object as it is now. Raises msgspec.DecodeError where not even its metadata can be read."""
        head = msgspec.json.decode(raw, type=_Object).metadata
        key = (head.namespace, head.name)
        held = self._held.get(key)
        if held is not None and held.uid == head.uid and held.version == head.resource_version:
            return key, None
        before = held.value if held is not None else None
        try:
            after = self._read(raw)
        except (Unreadable, msgspec.ValidationError) as error:
            self.unreadable += 1
            if self._complain is not None:
                self._complain(key, str(error))
            after = before if held is not None and held.uid == head.uid else None
        self._held[key] = _Held(head.uid, head.resource_version, after)
        return key, Change(key, before, after) if before != after else None

    def delete(self, raw: bytes) -> Change[T] | None:
        """An object that is gone; one that has been made anew since (another uid) stays."""
        head = msgspec.json.decode(raw, type=_Object).metadata
        key = (head.namespace, head.name)
        held = self._held.get(key)
        if held is None or held.uid != head.uid:
            return None
        return self._remove(key)

    def clear(self) -> list[Change[T]]:
        """The kind itself is gone."""
        return self._keep_only(frozenset())

    def _keep_only(self, keys: Iterable[Key]) -> list[Change[T]]:
        kept = keys if isinstance(keys, (set, frozenset)) else set(keys)
        changes = [self._remove(key) for key in list(self._held) if key not in kept]
        return [change for change in changes if change is not None]

    def _remove(self, key: Key) -> Change[T] | None:
        held = self._held.pop(key)
        return Change(key, held.value, None) if held.value is not None else None


class Listing(Generic[T]):
    """One list of all objects, page by page."""

    def __init__(self, store: Store[T]) -> None:
        self._store = store
        self._seen: set[Key] = set()

    def page(self, items: Iterable[bytes]) -> list[Change[T]]:
        changes = []
        for raw in items:
            key, change = self._store.put(raw)
            self._seen.add(key)
            if change is not None:
                changes.append(change)
        return changes

    def finish(self) -> list[Change[T]]:
        """All pages are in: what was on none of them is gone."""
        return self._store._keep_only(self._seen)
