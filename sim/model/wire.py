"""What a throttled pod sends: one queue before a token bucket, on the calendar (`scenarios.throttle`).

Answers, the server's flight of a TLS handshake and, where the world throttles them, the pod's own calls stand in it in
the order in which they were written. A fault's end frees all that waits at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from scenarios.throttle import BURST_BYTES, RECORD_BYTES, TokenBucket, on_the_wire
from sim.model.agenda import Agenda, Call

HANDSHAKE_BYTES = 1_482.0
"""What a server's proxy sends before the first request, less a record's bytes: hello, leaf and issuer, and a signature
were 1,504 bytes between two of our proxies. They send no session tickets."""
TYPICAL_BYTES = (90.0, 300.0)
"""An answer and a call of the shipped workload, as their proxies write them, without TLS."""


class Wire:
    """One pod's way out while it is throttled."""

    def __init__(self, agenda: Agenda, bytes_per_second: float, burst: float = BURST_BYTES) -> None:
        self._agenda = agenda
        self._bucket = TokenBucket(agenda.now, bytes_per_second, burst)
        self._waiting: deque[tuple[float, Callable[[Any], None], Any]] = deque()
        """When each is out, and what happens then."""
        self._timer: Call | None = None

    def send(self, size: float, then: Callable[[Any], None], argument: Any) -> None:
        """`then(argument)` once `size` bytes of a TLS record are out."""
        agenda = self._agenda
        at = self._bucket.leaves_at(agenda.now, on_the_wire(size + RECORD_BYTES, bool(self._waiting)))
        if at <= agenda.now:
            then(argument)
            return
        self._waiting.append((at, then, argument))
        if self._timer is None:
            self._timer = agenda.call_at(at, self._out)

    def _out(self, _: object) -> None:
        _, then, argument = self._waiting.popleft()
        self._timer = self._agenda.call_at(self._waiting[0][0], self._out) if self._waiting else None
        then(argument)

    def free(self) -> None:
        """The throttle is gone: what waits leaves at once."""
        self._stop()
        while self._waiting:
            _, then, argument = self._waiting.popleft()
            then(argument)

    def clear(self) -> None:
        """The pod is gone, with everything that waits."""
        self._stop()
        self._waiting.clear()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
