"""The discovery cache: what a proxy remembers of the services it talks to, and for how long.

An entry lives while it is used and `idle_seconds` longer (Linkerd: 5 s outbound, 90 s inbound). This is why a
control-plane outage does not touch busy clients and does break those that pause: the evicted entry has to be asked
for again, and nobody answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

OUTBOUND_IDLE_SECONDS = 5.0
INBOUND_IDLE_SECONDS = 90.0
DISCOVERY_TIMEOUT_SECONDS = 3.0
"""How long a request waits for a destination that is not yet known, before it is answered 504."""

V = TypeVar("V")


class DiscoveryCache(Generic[V]):
    """Entries by authority. `evict` is called with each entry that idled out."""

    def __init__(self, idle_seconds: float, evict: Callable[[str, V], None]) -> None:
        self._idle_seconds = idle_seconds
        self._evict = evict
        self._entries: dict[str, V] = {}
        self._used_at: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, V]]:
        return iter(list(self._entries.items()))

    def get(self, key: str) -> V | None:
        return self._entries.get(key)

    def put(self, key: str, value: V, now: float) -> None:
        self._entries[key] = value
        self._used_at[key] = now
        self._held.setdefault(key, 0)

    def hold(self, key: str, now: float) -> None:
        """A request begins to use the entry: it will not idle out before the matching `release`."""
        self._held[key] += 1
        self._used_at[key] = now

    def release(self, key: str, now: float) -> None:
        if key in self._entries:
            self._held[key] -= 1
            self._used_at[key] = now

    def remove(self, key: str) -> None:
        """Forgets the entry without calling `evict`."""
        self._entries.pop(key, None)
        self._used_at.pop(key, None)
        self._held.pop(key, None)

    def evict_least_recent(self) -> bool:
        """Evicts the entry that was used least recently; False where every one is held."""
        idle = [key for key, held in self._held.items() if not held]
        if not idle:
            return False
        key = min(idle, key=self._used_at.__getitem__)
        value = self._entries[key]
        self.remove(key)
        self._evict(key, value)
        return True

    def expire(self, now: float) -> float | None:
        """Evicts what idled out; returns when to look again (None: nothing to wait for)."""
        earliest: float | None = None
        for key, used_at in list(self._used_at.items()):
            if self._held[key]:
                continue
            due = used_at + self._idle_seconds
            if due <= now:
                value = self._entries[key]
                self.remove(key)
                self._evict(key, value)
            elif earliest is None or due < earliest:
                earliest = due
        return earliest
