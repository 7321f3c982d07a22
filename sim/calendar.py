"""SimPy's calendar, with calls that cost no process and can be cancelled.

Slow things (the fault timeline, certificate renewal, restarts) are ordinary SimPy processes. Requests are chains of
callbacks: `call_at` puts a function and one argument on the same heap that SimPy's events live on, so that both kinds
happen in one order of time. Measured in reference models: a process for each request is five times slower.

SimPy 4 cannot cancel a timeout. A cancelled `Call` stays on the heap, empty, until its time comes; deadlines of
requests that were answered in time cost one pop and nothing else.

Rejected: a heap of our own beside SimPy's (two clocks to keep in step for a gain of about a third).
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy

CALL_PRIORITY = 1
"""SimPy's NORMAL."""


class Call:
    """A function that will be called once with one argument."""

    __slots__ = ("argument", "function")

    def __init__(self, function: Callable[[Any], None], argument: Any) -> None:
        self.function: Callable[[Any], None] | None = function
        self.argument = argument

    def cancel(self) -> None:
        """The call will not happen; of no effect when it already did."""
        self.function = None
        self.argument = None


class TooManyEvents(Exception):
    """The model ran away: more events than its bound, and the simulated time at which it was stopped."""

    def __init__(self, events: int, at: float) -> None:
        super().__init__(f"stopped after {events} events at {at:.1f} s")
        self.at = at


class Calendar(simpy.Environment):
    """A SimPy environment with `call_at`, and a loop that serves both kinds of entry."""

    def __init__(self, initial_time: float = 0.0, max_events: int = 50_000_000) -> None:
        super().__init__(initial_time)
        self.events = 0
        """Entries served so far."""
        self._max_events = max_events
        self._entries: list[tuple[float, int, int, Any]] = self._queue  # type: ignore[assignment]
        """SimPy's heap, which holds our calls too."""

    def call_at(self, when: float, function: Callable[[Any], None], argument: Any = None) -> Call:
        """Calls `function(argument)` at `when` (seconds, not before now)."""
        call = Call(function, argument)
        heappush(self._entries, (when, CALL_PRIORITY, next(self._eid), call))
        return call

    def step(self) -> None:
        """Serves one entry, of either kind."""
        if self._entries and type(self._entries[0][3]) is Call:
            self._now, _, _, call = heappop(self._entries)
            if call.function is not None:
                call.function(call.argument)
        else:
            super().step()

    def run_until(self, end: float) -> None:
        """Serves all entries before `end` and leaves the clock there.

        Raises:
            TooManyEvents: the bound was reached; the model's state is as of that moment.
        """
        queue = self._entries
        left = self._max_events - self.events
        served = 0
        while queue and queue[0][0] < end:
            served += 1
            if served > left:
                self.events += served
                raise TooManyEvents(self.events, self._now)
            entry = queue[0][3]
            if type(entry) is Call:
                self._now = heappop(queue)[0]
                function = entry.function
                if function is not None:
                    function(entry.argument)
            else:
                super().step()
        self.events += served
        self._now = end
