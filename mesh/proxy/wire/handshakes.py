"""Turns for TLS handshakes: a millisecond of them in each turn of the event loop, the rest wait in line.

    bytes of a handshake ─► room in this turn? ── yes ─► next step ─► its time is taken off the turn's room
                                    └── no ─► in line, its socket not read ─► next turn of the loop

One end of a handshake signs and verifies for 0.5–0.8 ms, as much as fifteen requests. When a client meets 200 new
endpoints, or an endpoint 200 clients after a roll-out, the answers arrive together, and served together they kept all
requests waiting for tens of milliseconds. In line, a handshake is later by what others take, and requests go on between
two of them. Nothing is lost on the way: a burst takes as long as it took.

Rejected: a thread (the handshake gives up the interpreter's lock for a part of its time only, and waking up to it costs
what it saves), and a bound on handshakes under way (they wait for the network most of the time).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol
from weakref import WeakKeyDictionary

TURN_SECONDS = 0.001
"""Of handshakes in one turn of the loop; the last of them may go over it."""


class Step(Protocol):
    """Somebody in the middle of a handshake."""

    def step(self) -> None:
        """It is your turn; also said to those that are closed by now."""


def _soon(callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(callback)


class Turns:
    """The line of one event loop."""

    def __init__(
        self, soon: Callable[[Callable[[], None]], None] = _soon, clock: Callable[[], float] = perf_counter
    ) -> None:
        """`soon`: calls back in the loop's next turn."""
        self._soon = soon
        self._clock = clock
        self._line: deque[Step] = deque()
        self._spent = 0.0
        self._turning = False
        """A call at the next turn is under way; without one nothing was spent in this turn."""

    def __len__(self) -> int:
        return len(self._line)

    def take(self, who: Step) -> bool:
        """Does a step of `who` at once where there is room; else False, and it is done in a later turn."""
        if self._line or self._spent >= TURN_SECONDS:
            self._line.append(who)
            return False
        self._run(who)
        return True

    def _run(self, who: Step) -> None:
        if not self._turning:
            self._turning = True
            self._soon(self._turn)
        began = self._clock()
        try:
            who.step()
        finally:
            self._spent += self._clock() - began

    def _turn(self) -> None:
        self._turning = False
        self._spent = 0.0
        while self._line and self._spent < TURN_SECONDS:
            self._run(self._line.popleft())
        if self._line and not self._turning:
            self._turning = True
            self._soon(self._turn)


_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns() -> Turns:
    """The line of the running loop."""
    loop = asyncio.get_running_loop()
    found = _TURNS.get(loop)
    if found is None:
        found = _TURNS[loop] = Turns()
    return found
