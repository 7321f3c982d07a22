"""One request on its way through the proxy, the ticket that `mesh.behavior.Backend` passes around.

    begin ──► (service: discovery or policy) ──► proceed ──► Exchange ──► Backend ──► transmit ──► response ──► done
                                                    ▲                        │
                                                    └── retry, per Exchange ─┘

What to do next is decided by `mesh.behavior` (the twin runs the same); this class carries bytes and runs the timers. No
task, no future: everything happens in the callbacks of the two connections. It is one file because it is one life: each
method is a moment of it, and all of them change the same few fields.

A request body is kept for replay up to 64 KiB, as Linkerd does, and streamed at the same time. A longer one, or one
that has not fully arrived when the response does, rules out a retry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from mesh.behavior.exchange import Exchange, Step
from mesh.behavior.outcome import Cause
from mesh.behavior.routes import Route
from mesh.proxy.wire.errors import ANSWERS, AnyCause, Refused, answer_bytes
from mesh.proxy.wire.http1 import LAST_CHUNK, RequestHead, ResponseHead, chunk, request_bytes, response_bytes

if TYPE_CHECKING:
    from mesh.proxy.client import ClientConnection
    from mesh.proxy.driver import BackendDriver
    from mesh.proxy.server import ServerConnection
    from mesh.proxy.telemetry import EndpointSeries

REPLAY_LIMIT_BYTES = 64 * 1024
BODY_BUFFER_BYTES = 64 * 1024
"""Of a request body that waits for a connection, before the client is asked to pause."""
MAX_RESENDS = 3
"""Of one request that met connections closed under it; each costs no try, so something must bound them."""
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})


class Target(Protocol):
    """Where requests go: a discovered destination, or the app behind an inbound proxy."""

    driver: BackendDriver
    series: EndpointSeries | None
    """Where tries are counted; None: with the endpoint that serves them."""

    def match(self, method: str, path: bytes) -> Route: ...
    def answered(self, request: Request, status: int, cause: AnyCause | None) -> None:
        """The client was answered (for metrics); once for each request that reached `proceed`."""

    def release(self) -> None:
        """The request needs the target no longer."""


class Owner(Protocol):
    """The side of the proxy that a request came in on."""

    loop: asyncio.AbstractEventLoop
    rng: Random

    def begin(self, request: Request) -> None: ...
    def ended(self, request: Request) -> None: ...
    def refused(self, cause: AnyCause) -> None: ...
    def abandoned(self, request: Request) -> None:
        """The client left while the request was still waiting for its target."""


class Request:
    """One request and its answer."""

    __slots__ = (
        "_body_paused",
        "_chunked_out",
        "_close_after",
        "_due",
        "_head_sent",
        "_kept",
        "_resends",
        "_sent_at",
        "_series",
        "_size",
        "_timer",
        "_unsent",
        "_unsent_bytes",
        "_wire_head",
        "body_done",
        "client",
        "connection",
        "exchange",
        "head",
        "owner",
        "responding",
        "target",
    )

    def __init__(self, owner: Owner, client: ServerConnection, head: RequestHead) -> None:
        self.owner = owner
        self.client = client
        self.head = head
        self.target: Target | None = None
        self.exchange: Exchange | None = None
        self.connection: ClientConnection | None = None
        self.body_done = False
        self._kept: list[bytes] | None = []
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._size = 0
        self._head_sent = False
        self.responding = False
        """Whether the head of an answer is out."""
        self._chunked_out = False
        self._close_after = False
        self._body_paused = False
        self._resends = 0
        self._series: EndpointSeries | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._sent_at = 0.0
        self._wire_head = b""

    @property
    def attempt(self) -> int:
        """The number of the current try."""
        return self.exchange.attempts if self.exchange is not None else 0

    @property
    def idempotent(self) -> bool:
        return self.head.method in IDEMPOTENT

    # ---- from the client's connection

    def begin(self) -> None:
        """It is this request's turn on its connection."""
        self.owner.begin(self)

    def body(self, data: bytes) -> None:
        """A piece of the body arrived (sent on by the next `body_flush`)."""
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        self._size += len(data)
        if self._kept is not None:
            if self._size > REPLAY_LIMIT_BYTES:
                self._kept = None
            else:
                self._kept.append(data)

    def body_end(self) -> None:
        self.body_done = True

    def body_flush(self) -> None:
        """Sends on what arrived, or asks the client to wait where it cannot go yet."""
        connection = self.connection
        if connection is not None and not self._body_paused:
            if self._head_sent and (self._unsent or self.body_done):
                data = self._take_body()
                if data:
                    connection.write(data)
        elif self._unsent_bytes > BODY_BUFFER_BYTES:
            self.client.hold_reading(True)

    def client_gone(self) -> None:
        """Nobody waits for the answer any more."""
        self._stop_timer()
        connection, self.connection = self.connection, None
        target = self.target
        if target is None:
            self.owner.abandoned(self)
        elif connection is not None:
            rtt = connection.rtt
            connection.abort()
            target.driver.finished(connection, False, rtt, connection.failed)
        else:
            target.driver.withdraw(self)
        self._end()

    def client_paused(self, paused: bool) -> None:
        """The client does not keep up: stop reading the response, or go on."""
        if self.connection is not None:
            if paused:
                self.connection.transport.pause_reading()
            else:
                self.connection.transport.resume_reading()

    # ---- the way up

    def proceed(self, target: Target, authority: bytes, extra: bytes = b"") -> None:
        """The target is known: the exchange begins."""
        owner = self.owner
        self.target = target
        head = self.head
        now = monotonic()
        exchange = self.exchange = Exchange(target.match(head.method, head.path), now, owner.rng)
        self._wire_head = request_bytes(head, authority, extra)
        self._act(exchange.begin(now))

    def fail(self, cause: AnyCause) -> None:
        """The proxy answers by itself."""
        self._answer(cause)

    def _act(self, step: Step) -> None:
        exchange, target = self.exchange, self.target
        assert exchange is not None
        assert target is not None
        if step is Step.TRY:
            due = exchange.next_deadline()
            if due is not None:
                self._start_timer(due, self._expire)
            target.driver.dispatch(self)
        elif step is Step.WAIT:
            self._start_timer(exchange.resume_at, self._resume)
        else:
            assert exchange.cause is not None
            self._answer(exchange.cause)

    def _resume(self) -> None:
        assert self.exchange is not None
        self._timer = None
        self._act(self.exchange.resume(monotonic()))

    def _expire(self) -> None:
        self._timer = None
        exchange, target = self.exchange, self.target
        assert exchange is not None
        assert target is not None
        connection, self.connection = self.connection, None
        if connection is not None:
            rtt = connection.rtt
            connection.abort()
            # A timeout is enforced at the endpoint, below the breaker, so the breaker counts it (linkerd2-proxy
            # `outbound/src/http/endpoint.rs`).
            target.driver.finished(connection, False, rtt, True)
        else:
            target.driver.withdraw(self)
        if self.responding:
            # The head is out, so all that can be said is that the rest will not come.
            self.client.break_off()
            self._end()
            return
        exchange.replayable = self._replayable()
        self._act(exchange.expired(max(self._due, monotonic())))

    # ---- from the backend, through its driver

    def transmit(self, connection: ClientConnection) -> None:
        """A connection is ours: sends the head and what there is of the body."""
        self.connection = connection
        self._sent_at = monotonic()
        if self._head_sent:
            # Not the first time: begin the body again.
            assert self._kept is not None
            self._unsent = list(self._kept)
        self._head_sent = True
        data = self._wire_head
        if self.head.chunked or self.head.content_length:
            data += self._take_body()
        target = self.target
        assert target is not None
        series = self._series = target.series or connection.series
        series.requests.value += 1
        connection.start(self, self.head.method, data)
        self.client.hold_reading(False)

    def refused(self, cause: Cause) -> None:
        """The backend will not send this try."""
        exchange = self.exchange
        assert exchange is not None
        self._stop_timer()
        exchange.replayable = self._replayable()
        self._act(exchange.failed(monotonic(), cause))

    # ---- from the server's connection

    def response_head(self, connection: ClientConnection, head: ResponseHead) -> None:
        """The current try is answered; called while the connection parses."""
        exchange = self.exchange
        assert exchange is not None
        now = monotonic()
        connection.rtt = rtt = now - self._sent_at
        status = head.status
        connection.failed = failed = exchange.route.failed(status)
        assert self._series is not None
        self._series.observe(status, failed, rtt)
        exchange.replayable = self._replayable()
        step = exchange.responded(now, status)
        if step is Step.DONE:
            self._respond(head)
            return
        self._stop_timer()
        self.connection = None
        connection.release()
        self._act(step)

    def _respond(self, head: ResponseHead) -> None:
        client = self.client
        request = self.head
        self.responding = True
        exchange = self.exchange
        assert exchange is not None
        if exchange.deadline is None:
            self._stop_timer()
        elif self._timer is not None and exchange.deadline > self._due:
            self._start_timer(exchange.deadline, self._expire)
        framed = head.bodyless or head.content_length is not None
        self._chunked_out = not framed and not request.http_1_0
        self._close_after = (
            not request.keep_alive or client.draining or not self.body_done or (not framed and request.http_1_0)
        )
        chunked = self._chunked_out or (head.chunked and head.bodyless and not request.http_1_0)
        client.write(response_bytes(head, chunked=chunked, close=self._close_after, http_1_0=request.http_1_0))
        if client.write_paused:
            self.client_paused(True)

    def response_body(self, data: bytes) -> None:
        self.client.write(chunk(data) if self._chunked_out else data)

    def response_end(self, connection: ClientConnection, reusable: bool) -> None:
        """The response is complete; called after the connection parsed what it read."""
        if self._chunked_out:
            self.client.write(LAST_CHUNK)
        target, exchange = self.target, self.exchange
        assert target is not None
        assert exchange is not None
        self.connection = None
        self._stop_timer()
        self.client.flush()
        if self.client.write_paused:
            connection.transport.resume_reading()
        target.driver.finished(connection, reusable and self.body_done, connection.rtt, connection.failed)
        if reusable and not self.body_done:
            connection.close()
        target.answered(self, exchange.status, None)
        self._end()
        self.client.finished(self._close_after)

    def try_broken(self, connection: ClientConnection, cause: Cause) -> None:
        """The connection ended in the middle of this exchange."""
        target, exchange = self.target, self.exchange
        assert target is not None
        assert exchange is not None
        self.connection = None
        self._stop_timer()
        target.driver.finished(connection, False, connection.rtt, True)
        if self.responding:
            target.answered(self, exchange.status, Refused.RESPONSE_INVALID)
            self._end()
            self.client.break_off()
            return
        exchange.replayable = self._replayable()
        if self._series is not None:
            self._series.broken()
        self._act(exchange.failed(monotonic(), cause))

    def can_resend(self) -> bool:
        """Whether the body is still held, and there is reason to hope."""
        return self._kept is not None and self._resends < MAX_RESENDS and not self.responding

    def returned_unsent(self, connection: ClientConnection) -> None:
        """The connection was closed before the server read this request: it is dispatched anew."""
        assert self.target is not None
        self._resends += 1
        self.connection = None
        self.target.driver.returned_unsent(connection, self)

    def server_paused(self, paused: bool) -> None:
        """The server does not keep up with the request's body."""
        self._body_paused = paused
        self.client.hold_reading(paused)
        if not paused:
            self.body_flush()

    # ---- inside

    def _replayable(self) -> bool:
        return self.body_done and self._kept is not None

    def _take_body(self) -> bytes:
        """What there is of the body, framed as the request's head said."""
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        if not self.head.chunked:
            return data
        framed = chunk(data) if data else b""
        return framed + LAST_CHUNK if self.body_done else framed

    def _answer(self, cause: AnyCause) -> None:
        self._stop_timer()
        answer = ANSWERS[cause]
        client = self.client
        self.owner.refused(cause)
        if self.target is not None:
            self.target.answered(self, answer.status, cause)
        close = not self.head.keep_alive or client.draining or not self.body_done
        client.write(answer_bytes(answer, informational=client.informational, close=close))
        self._end()
        client.finished(close or answer.close)

    def _end(self) -> None:
        target, self.target = self.target, None
        if target is not None:
            target.release()
        self.owner.ended(self)

    def _start_timer(self, due: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._due = due
        self._timer = self.owner.loop.call_later(max(0.0, due - monotonic()), callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
