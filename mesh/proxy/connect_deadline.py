"""The time that another end has to accept a connection, in which a stall of our own event loop does not count.

A loop that did not turn for a while, on a machine with too little CPU, finds its timers due and the other end's answer
there in one turn, and the timers come first. Tokio's timeout, which Linkerd uses, looks at the answer first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

STALL_SECONDS = 0.01
"""A timer that fires so late tells of a stall."""


class ConnectDeadline:
    """Calls `callback` after `seconds`; where the loop stalled over them, once more as long as the stall, and at most
    `seconds`, later."""

    __slots__ = ("_callback", "_handle", "_loop", "_seconds", "_stalled", "passed")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[..., Any], *arguments: Any):
        self._loop = loop
        self._seconds = seconds
        self._callback: Callable[[], Any] = (lambda: callback(*arguments)) if arguments else callback
        self._stalled = False
        self.passed = False
        """The callback was called."""
        self._handle = loop.call_later(seconds, self._due)

    def cancel(self) -> None:
        self._handle.cancel()

    def _due(self) -> None:
        late = self._loop.time() - self._handle.when()
        if late > STALL_SECONDS and not self._stalled:
            self._stalled = True
            self._handle = self._loop.call_later(min(late, self._seconds), self._due)
        else:
            self.passed = True
            self._callback()
