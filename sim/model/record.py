"""What a replication leaves behind: the client's record of every request, and counters by slot."""

from __future__ import annotations

import math

SLOT_SECONDS = 0.125
"""Width of a slot of the counters. Windows are cut within slots as if what is in them were spread evenly, so they must
be short: of 170 arrivals in a second, 6 more or less than a half come in its first half. A power of two."""
BySlot = dict[int, int]
"""How many in [slot, slot + 1) times `SLOT_SECONDS`."""


class Tally:
    """Counts things by slot; the time only goes up."""

    __slots__ = ("_by_slot", "_count", "_slot", "_until")

    def __init__(self, by_slot: BySlot) -> None:
        self._by_slot = by_slot
        self._slot = 0
        self._count = 0
        self._until = -math.inf

    def add(self, now: float, count: int = 1) -> None:
        """So many more, at `now`."""
        if now >= self._until:
            self.settle()
            self._slot = math.floor(now / SLOT_SECONDS)
            self._until = (self._slot + 1) * SLOT_SECONDS
        self._count += count

    def settle(self) -> None:
        """Brings the dictionary up to date; it lags by the slot under way otherwise."""
        if self._count:
            self._by_slot[self._slot] = self._by_slot.get(self._slot, 0) + self._count
            self._count = 0


class MeshTallies:
    """What all client proxies together count, by slot."""

    __slots__ = ("failed", "refused", "retried")

    def __init__(self, record: Record) -> None:
        self.failed = Tally(record.failed)
        self.refused = Tally(record.refused)
        self.retried = Tally(record.retried)

    def settle(self) -> None:
        self.failed.settle()
        self.refused.settle()
        self.retried.settle()


class Record:
    """Requests in the order of their end; times are seconds from the begin of the inject phase."""

    def __init__(self) -> None:
        self.route: list[str] = []
        """`POST storefront /checkout`."""
        self.intended_at: list[float] = []
        self.latency: list[float | None] = []
        """None: dropped, or no answer in time."""
        self.status: list[int] = []
        """0 where no answer came."""
        self.reached: dict[str, BySlot] = {}
        """Service → slot → requests that reached its pods."""
        self.meant: dict[str, BySlot] = {}
        """Service → slot → requests its callers' proxies were asked to send, at their end, answered or given up."""
        self.failed: BySlot = {}
        """Slot → of those meant, the ones that ended with 5xx or without an answer, over all services."""
        self.retried: BySlot = {}
        """Slot → tries beyond the first, at the end of their request, over all services."""
        self.refused: BySlot = {}
        """Slot → handshakes between proxies that failed, counted once by each proxy that saw it fail."""
        self.entered: list[tuple[float, float]] = []
        """(when, seconds) of each answer to a try at the proxies where load enters: the wait for an endpoint is no part
        of it, as in their `response_latency_ms`."""
        self.killed: list[tuple[float, str, float]] = []
        """(when, service, its share of the service's pods) of each pod that was killed, counters and all."""
        self.handshake_failures = 0
        self.events = 0
        self.stopped_at: float | None = None
        """Set where the event bound ended the replication early."""
        self.mesh = MeshTallies(self)
        self._tallies: list[Tally] = []

    def add(self, route: str, intended_at: float, latency: float | None, status: int) -> None:
        self.route.append(route)
        self.intended_at.append(intended_at)
        self.latency.append(latency)
        self.status.append(status)

    def tallies(self, service: str) -> tuple[Tally, Tally]:
        """(reached, meant): the counters of a service, whose counts are complete after `settle`."""
        found = (
            Tally(self.reached.setdefault(service, {})),
            Tally(self.meant.setdefault(service, {})),
        )
        self._tallies.extend(found)
        return found

    def settle(self) -> None:
        """Completes the counts by slot."""
        for tally in self._tallies:
            tally.settle()
        self.mesh.settle()
