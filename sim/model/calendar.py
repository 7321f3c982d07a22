"""SimPy's environment as a guest on the agenda, for what is slow enough to be a process.

The fault timeline, certificate renewal and restarts are ordinary SimPy processes. Requests are chains of entries on
the agenda. Both are in one order of time because SimPy's events are entries of the agenda, too: this environment hands
over every event that it is asked to schedule. Measured in reference models: a process for each request is five times
slower.

It stays interpreted, since a compiled class cannot inherit from SimPy's; `sim.model.agenda` is what is compiled.

Rejected: our calls on SimPy's heap (a tuple for each, and the hot loop out of reach of the compiler).
"""

from __future__ import annotations

from typing import Any

import simpy
from simpy.core import EmptySchedule
from simpy.events import NORMAL, URGENT

from sim.model.agenda import Agenda, Call


class Calendar(simpy.Environment):
    """A SimPy environment whose clock and heap are those of `agenda`."""

    def __init__(self, initial_time: float = 0.0, max_events: int = 50_000_000) -> None:
        super().__init__(initial_time)
        self.agenda = Agenda(float(initial_time), max_events)

    @property
    def now(self) -> float:
        """Seconds."""
        return self.agenda.now

    def schedule(self, event: simpy.Event, priority: Any = NORMAL, delay: float = 0.0) -> None:
        """Puts an event on the agenda, `delay` seconds from now."""
        agenda = self.agenda
        put = agenda.put_first if priority == URGENT else agenda.put
        put(agenda.now + delay, Call(_serve, event))

    def peek(self) -> float:
        """When the next entry is due, of either kind; infinity where there is none."""
        return self.agenda.next_time()

    def step(self) -> None:
        """Serves one entry, of either kind."""
        try:
            self.agenda.step()
        except IndexError:
            raise EmptySchedule from None


def _serve(event: simpy.Event) -> None:
    """What SimPy's own `step` does with an event."""
    callbacks = event.callbacks
    event.callbacks = None  # type: ignore[assignment]
    for callback in callbacks:
        callback(event)
    if not event._ok and not hasattr(event, "_defused"):
        raise event._value
