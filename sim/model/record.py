"""What a replication leaves behind: the client's record of every request, and counters by second."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Record:
    """Requests in the order of their end; times are seconds from the begin of the inject phase."""

    route: list[str] = field(default_factory=list)
    """`POST storefront /checkout`."""
    intended_at: list[float] = field(default_factory=list)
    latency: list[float | None] = field(default_factory=list)
    """None: dropped, or no answer in time."""
    status: list[int] = field(default_factory=list)
    """0 where no answer came."""
    reached: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    """Service → second → requests that reached its pods."""
    meant: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    """Service → second → requests that its callers' proxies were asked to send, at their end."""
    handshake_failures: int = 0
    events: int = 0
    stopped_at: float | None = None
    """Set where the event bound ended the replication early."""

    def add(self, route: str, intended_at: float, latency: float | None, status: int) -> None:
        self.route.append(route)
        self.intended_at.append(intended_at)
        self.latency.append(latency)
        self.status.append(status)
