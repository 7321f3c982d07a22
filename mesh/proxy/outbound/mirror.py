"""Copies of requests that a route mirrors: sent to another destination, their answers thrown away.

A mirror must not touch what it copies. It is a request of its own with a client of its own, nobody waits for it, and it
is dropped as soon as it would cost anything: when too many are under way, or when its body has nowhere to go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from mesh.proxy.deadlines import Deadlines
from mesh.proxy.request import BODY_BUFFER_BYTES, Request
from mesh.proxy.session import Session

if TYPE_CHECKING:
    from mesh.proxy.metrics import Counter
    from mesh.proxy.observe import Observer
    from mesh.proxy.recorder import Recorder
    from mesh.proxy.wire.errors import Answer, AnyCause
    from mesh.proxy.wire.message import Headers, ResponseHead

MAX_MIRRORS = 256
"""Under way at a time, in one proxy."""


class Mirrors:
    """All copies of one proxy; their `Owner`. They are in nobody's in-flight count, log or tap."""

    direction = "outbound"
    draining = False
    observers: tuple[Observer, ...] = ()
    recorder: Recorder | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        sent: Counter,
        dropped: Counter,
        abandon: Callable[[Request], None],
    ) -> None:
        """`abandon`: nobody waits any more for a copy's destination to be known."""
        self._abandon = abandon
        self.deadlines = Deadlines(loop)
        self.rng = rng
        self.sent = sent
        self.dropped = dropped
        self.under_way = 0

    def copy(self, request: Request) -> Mirror | None:
        """A mirror of `request`, to be sent on by `Discovery`; None where there are too many already."""
        if self.under_way >= MAX_MIRRORS:
            self.dropped.value += 1
            return None
        self.under_way += 1
        self.sent.value += 1
        return Mirror(self, request)

    # ---- Owner of request.py

    def begin(self, request: Request) -> None:
        """A mirror is routed by who made it."""

    def ended(self, request: Request) -> None:
        self.under_way -= 1

    def refused(self, cause: AnyCause) -> None:
        """Nobody waits for an answer."""

    def failed(self, request: Request) -> None:
        """Nobody looks for the failures of copies."""

    def abandoned(self, request: Request) -> None:
        """It was dropped before its destination was known."""
        self._abandon(request)


class Mirror:
    """One copy, and the `Client` that hears its answer and says nothing."""

    write_paused = False

    def __init__(self, owner: Mirrors, original: Request) -> None:
        self._owner = owner
        head = original.head.copy()
        self.session = Session(identity=original.session.peer_identity)
        self.request = Request(owner, self, head)
        self.request.extra = list(original.extra)
        self._waiting = 0
        self._over = False

    def body(self, data: bytes) -> None:
        if self._over:
            return
        self.request.body(data)
        self._waiting += len(data)
        self.request.body_flush()
        if self._waiting > BODY_BUFFER_BYTES:
            self._drop()

    def body_end(self) -> None:
        if not self._over:
            self.request.body_end(None)
            self.request.body_flush()

    def settled(self, original: Request) -> None:
        """The original has its answer. A copy whose body is not whole by then never will be."""
        if not self._over and not self.request.body_done:
            self._drop()

    def _drop(self) -> None:
        self._over = True
        self._owner.dropped.value += 1
        self.request.client_gone()

    # ---- Client

    def interim(self, head: ResponseHead) -> None: ...

    def respond(self, request: Request, head: ResponseHead) -> None: ...

    def send(self, data: bytes) -> None: ...

    def end(self, request: Request, trailers: Headers | None) -> None:
        self._over = True

    def answer(self, request: Request, answer: Answer) -> None:
        self._over = True

    def break_off(self) -> None:
        self._over = True

    def hold_body(self, hold: bool) -> None:
        """The original's body is never held for a copy; what piles up drops the copy instead."""

    def taken(self, size: int) -> None:
        self._waiting -= size

    def flush(self) -> None: ...
