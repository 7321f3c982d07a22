"""What happens when: the one order of time of a replication, small enough to be compiled.

An `Entry` is an object that knows what to do when its time comes. What happens to every request (an app's work is
done, an answer arrives) is an entry itself, so that it costs no closure, no bound method and no tuple; everything else
is a `Call`. Entries of one time happen in the order in which they were put.

The heap is written out here: compiled, a comparison is two loads and a branch, where `heapq` on tuples goes through
Python's rich comparison. Together with entries this made the compiled engine two and a half times faster and the
interpreted one no slower.

A cancelled `Call` stays on the heap, empty, until its time comes: deadlines of requests that were answered in time
cost one pop and nothing else.

Rejected: two heaps, SimPy's and this one (two clocks to keep in step); `heapq` where it is not compiled (the same
order, but two ways to it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FIRST_OF_ITS_TIME = 1 << 60
"""Taken off the serial number of an entry that goes before all others of its time (SimPy's URGENT)."""


class Entry:
    """Something that happens at a time. It can be put again once it has happened."""

    __slots__ = ("serial", "when")

    def __init__(self) -> None:
        self.when = 0.0
        self.serial = 0

    def happen(self) -> None:
        """Its time has come."""
        raise NotImplementedError


class Call(Entry):
    """A function that will be called once with one argument."""

    __slots__ = ("argument", "function")

    def __init__(self, function: Callable[[Any], None], argument: Any) -> None:
        self.when = 0.0
        self.serial = 0
        self.function: Callable[[Any], None] | None = function
        self.argument = argument

    def happen(self) -> None:
        function = self.function
        if function is not None:
            function(self.argument)

    def cancel(self) -> None:
        """The call will not happen; of no effect when it already did."""
        self.function = None
        self.argument = None


class TooManyEvents(Exception):
    """The model ran away: more events than its bound, and the simulated time at which it was stopped."""

    def __init__(self, events: int, at: float) -> None:
        super().__init__(f"stopped after {events} events at {at:.1f} s")
        self.at = at


class Agenda:
    """The clock and what is to come. `now` is seconds, read by everybody and written here only."""

    __slots__ = ("_heap", "_max_events", "_serial", "events", "now")

    def __init__(self, now: float = 0.0, max_events: int = 50_000_000) -> None:
        self.now = now
        self.events = 0
        """Entries served so far."""
        self._max_events = max_events
        self._serial = 0
        self._heap: list[Entry] = []

    def put(self, when: float, entry: Entry) -> None:
        """`entry` happens at `when` (not before now). It must not be waiting already."""
        self._serial += 1
        self._push(when, self._serial, entry)

    def put_first(self, when: float, entry: Entry) -> None:
        """The same, before all that `put` has for that time."""
        self._serial += 1
        self._push(when, self._serial - FIRST_OF_ITS_TIME, entry)

    def call_at(self, when: float, function: Callable[[Any], None], argument: Any = None) -> Call:
        """Calls `function(argument)` at `when`."""
        call = Call(function, argument)
        self.put(when, call)
        return call

    def next_time(self) -> float:
        """When the next entry is due; infinity where there is none."""
        return self._heap[0].when if self._heap else float("inf")

    def step(self) -> None:
        """Serves one entry.

        Raises:
            IndexError: there is none.
        """
        entry = self._pop()
        self.now = entry.when
        self.events += 1
        entry.happen()

    def run_until(self, end: float) -> None:
        """Serves all entries before `end` and leaves the clock there.

        Raises:
            TooManyEvents: the bound was reached; the model's state is as of that moment.
        """
        heap = self._heap
        left = self._max_events - self.events
        served = 0
        while heap and heap[0].when < end:
            served += 1
            if served > left:
                self.events += served
                raise TooManyEvents(self.events, self.now)
            entry = self._pop()
            self.now = entry.when
            entry.happen()
        self.events += served
        self.now = end

    # ---- a binary heap, as in every textbook

    def _push(self, when: float, serial: int, entry: Entry) -> None:
        entry.when = when
        entry.serial = serial
        heap = self._heap
        place = len(heap)
        heap.append(entry)
        while place > 0:
            above = (place - 1) >> 1
            other = heap[above]
            if other.when < when or (other.when == when and other.serial < serial):
                break
            heap[place] = other
            place = above
        heap[place] = entry

    def _pop(self) -> Entry:
        heap = self._heap
        last = heap.pop()
        size = len(heap)
        if size == 0:
            return last
        first = heap[0]
        when, serial = last.when, last.serial
        place, below = 0, 1
        while below < size:
            other = heap[below]
            beside = below + 1
            if beside < size:
                rival = heap[beside]
                if rival.when < other.when or (rival.when == other.when and rival.serial < other.serial):
                    other = rival
                    below = beside
            if when < other.when or (when == other.when and serial < other.serial):
                break
            heap[place] = other
            place = below
            below = 2 * place + 1
        heap[place] = last
        return first
