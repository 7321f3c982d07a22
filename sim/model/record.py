"""What a replication leaves behind: the client's record of every request, and counters by second."""

from __future__ import annotations

import math


class Tally:
    """Counts things by second, the time of which only goes up."""

    __slots__ = ("_by_second", "_count", "_second", "_until")

    def __init__(self, by_second: dict[int, int]) -> None:
        self._by_second = by_second
        self._second = 0
        self._count = 0
        self._until = -math.inf

    def add(self, now: float) -> None:
        """One more, at `now`."""
        if now >= self._until:
            self.settle()
            self._second = math.floor(now)
            self._until = self._second + 1.0
        self._count += 1

    def settle(self) -> None:
        """Brings the dictionary up to date; it lags by the second under way otherwise."""
        if self._count:
            self._by_second[self._second] = self._by_second.get(self._second, 0) + self._count
            self._count = 0


class MeshTallies:
    """What all client proxies together count, by second."""

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
        self.reached: dict[str, dict[int, int]] = {}
        """Service → second → requests that reached its pods."""
        self.meant: dict[str, dict[int, int]] = {}
        """Service → second → requests that its callers' proxies were asked to send, at their end."""
        self.failed: dict[int, int] = {}
        """Second → of those meant, the ones that ended with 5xx or without an answer, over all services."""
        self.retried: dict[int, int] = {}
        """Second → tries beyond the first, over all services."""
        self.refused: dict[int, int] = {}
        """Second → handshakes between proxies that failed, counted once by each proxy that saw it fail."""
        self.killed: list[tuple[float, str, float]] = []
        """(when, service, its share of the service's pods) of each pod that was killed, counters and all."""
        self.client_seconds = 0.0
        """What the client itself adds to a latency, on average."""
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
        """Completes the counts by second."""
        for tally in self._tallies:
            tally.settle()
        self.mesh.settle()
