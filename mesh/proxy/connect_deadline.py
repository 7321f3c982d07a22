"""The time that another end has to accept a connection, in which a stall of our own event loop does not count.

A loop that did not turn for a while, on a machine with too little CPU, finds its timers due and the other end's answer
there in one turn, and the timers come first. Tokio's timeout, which Linkerd uses, looks at the answer first. So a
deadline that is due lets the loop turn a few times more, which costs a loop at leisure microseconds: what the kernel
held by then has been read when the deadline passes. That alone is not enough after a stall, in which we may have been
late to send what the other end answers: it gets that time back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

STALL_SECONDS = 0.01
"""A timer that fires so late tells of a stall."""
TURNS = 6
"""Of the loop, from an answer in the kernel's hands to a connection that is up: asyncio takes up to four."""


class ConnectDeadline:
    """Calls `callback` after `seconds` and `TURNS` of the loop; where the loop stalled over the seconds, once more as
    long as the stall, and at most `seconds`, later."""

    __slots__ = ("_callback", "_handle", "_loop", "_seconds", "_stalled", "_turns", "_when", "passed")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[..., Any], *arguments: Any):
        self._loop = loop
        self._seconds = seconds
        self._callback: Callable[[], Any] = (lambda: callback(*arguments)) if arguments else callback
        self._stalled = False
        self._turns = TURNS
        self.passed = False
        """The callback was called."""
        timer = loop.call_later(seconds, self._due)
        self._when = timer.when()
        self._handle: asyncio.Handle = timer

    def cancel(self) -> None:
        self._handle.cancel()

    def _due(self) -> None:
        late = self._loop.time() - self._when
        if late > STALL_SECONDS and not self._stalled:
            self._stalled = True
            self._handle = self._loop.call_later(min(late, self._seconds), self._due)
        else:
            self._turn()

    def _turn(self) -> None:
        if self._turns:
            self._turns -= 1
            self._handle = self._loop.call_soon(self._turn)
        else:
            self.passed = True
            self._callback()
