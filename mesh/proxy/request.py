"""One request on its way through the proxy, the ticket that `mesh.behavior.Backend` passes around.

    begin ──► (service: discovery or policy) ──► proceed ──► Exchange ──► Backend ──► transmit ──► response ──► done
                                                    ▲                        │
                                                    └── retry, per Exchange ─┘

What to do next is decided by `mesh.behavior` (the twin runs the same); this class carries bytes and runs the timers,
between a `Client` and an `Upstream` of any protocol. No task, no future: everything happens in the callbacks of the two
connections. It is one file because it is one life: each method is a moment of it, and all of them change the same few
fields.

A request body is kept for replay up to 64 KiB, as Linkerd does, and streamed at the same time. A longer one, or one
that has not fully arrived when the response does, rules out a retry. A gRPC response whose verdict stands in trailers
right behind its head is held back until they are read, so that it can still be retried.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from time import monotonic, time
from typing import TYPE_CHECKING, Protocol

from mesh.behavior.exchange import Exchange, Step
from mesh.behavior.outcome import Cause, is_rate_limited, pushback_of
from mesh.behavior.routes import Route
from mesh.proxy.deadlines import Bucket, Deadlines
from mesh.proxy.observe import Watched
from mesh.proxy.wire.errors import ANSWERS, AnyCause, Refused
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

if TYPE_CHECKING:
    from mesh.behavior.backend import EndpointState
    from mesh.behavior.filters import Filters
    from mesh.proxy.client import Connection, Upstream
    from mesh.proxy.driver import BackendDriver
    from mesh.proxy.outbound.mirror import Mirror
    from mesh.proxy.series import BackendSeries, EndpointSeries
    from mesh.proxy.server import Client
    from mesh.proxy.session import Session

REPLAY_LIMIT_BYTES = 64 * 1024
BODY_BUFFER_BYTES = 64 * 1024
"""Of a request body that waits for a connection, before the client is asked to pause."""
MAX_RESENDS = 3
"""Of one request that met connections closed under it; each costs no try, so something must bound them."""
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
IDLE_LOOK_SECONDS = 0.1
"""How much earlier than the idle timeout a stream may be looked at again; bounds what watching a busy one costs."""


class Target(Protocol):
    """Where requests go: a discovered destination, or the app behind an inbound proxy."""

    def dispatch(self, request: Request) -> None:
        """Chooses a backend for the next try and dispatches to it."""

    def withdraw(self, request: Request) -> None:
        """Forgets a request that waits for its backend to be discovered."""

    def answered(self, request: Request) -> None:
        """The client was answered (for metrics); once for each request that reached `proceed`."""

    def release(self) -> None:
        """The request needs the target no longer."""


class Owner(Watched, Protocol):
    """The side of the proxy that a request came in on."""

    deadlines: Deadlines
    rng: Random
    draining: bool

    def begin(self, request: Request) -> None: ...
    def ended(self, request: Request) -> None: ...
    def refused(self, cause: AnyCause) -> None: ...
    def failed(self, request: Request) -> None:
        """The request ended badly (for the flight recorder)."""

    def abandoned(self, request: Request) -> None:
        """The client left while the request was still waiting for its target."""


class Request:
    """One request and its answer."""

    __slots__ = (
        "_body_paused",
        "_data_at",
        "_due",
        "_held_head",
        "_kept",
        "_pushback",
        "_resends",
        "_rtt",
        "_sent",
        "_series",
        "_size",
        "_timer",
        "_trailers",
        "_unsent",
        "_unsent_bytes",
        "authority",
        "backend_filters",
        "backend_series",
        "body_done",
        "cause",
        "client",
        "dispatched_at",
        "driver",
        "endpoint",
        "exchange",
        "extra",
        "grpc_status",
        "head",
        "is_grpc",
        "mirrors",
        "owner",
        "responded_at",
        "responding",
        "returned",
        "sent_at",
        "series",
        "started_at",
        "status",
        "target",
        "upstream",
    )

    def __init__(self, owner: Owner, client: Client, head: RequestHead) -> None:
        self.owner = owner
        self.client = client
        self.head = head
        self.target: Target | None = None
        self.exchange: Exchange | None = None
        self.driver: BackendDriver | None = None
        self.upstream: Upstream | None = None
        self.endpoint: EndpointState[Request, Connection] | None = None
        """Where the last try went."""
        self.authority = ""
        """As discovery names it; empty until known."""
        self.extra: Headers = []
        """Headers that are sent on besides the client's."""
        self.body_done = False
        self._trailers: Headers | None = None
        self._kept: list[bytes] | None = []
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._size = 0
        self._sent = False
        self.responding = False
        """Whether the head of an answer is out."""
        self.status = 0
        self.grpc_status: int | None = None
        self.cause: AnyCause | None = None
        self.started_at = 0.0
        self.responded_at = 0.0
        self.returned = 0
        self._held_head: ResponseHead | None = None
        self._body_paused = False
        self._resends = 0
        self._series: EndpointSeries | None = None
        self.series: EndpointSeries | None = None
        """Where tries are counted; None: with the endpoint that serves them."""
        self.backend_series: BackendSeries | None = None
        """Where the current try is counted for its route's backend."""
        self.backend_filters: Filters | None = None
        self.is_grpc = head.http_2 and head.is_grpc
        self.mirrors: tuple[Mirror, ...] = ()
        self._timer: Bucket | None = None
        self._due = 0.0
        self.dispatched_at = 0.0
        self.sent_at = 0.0
        self._rtt: float | None = None
        self._pushback: float | None = None
        """Seconds of quiet that a rate-limited answer asks for."""
        self._data_at = 0.0

    # ---- for observers and metrics

    @property
    def session(self) -> Session:
        return self.client.session

    @property
    def attempts(self) -> int:
        """Tries so far: the number of the current one."""
        return self.exchange.attempts if self.exchange is not None else 0

    @property
    def received(self) -> int:
        """Bytes of the request's body so far."""
        return self._size

    @property
    def route_name(self) -> str:
        return self.exchange.route.name if self.exchange is not None else ""

    @property
    def idempotent(self) -> bool:
        return self.head.method in IDEMPOTENT

    # ---- from the client's connection

    def begin(self) -> None:
        """It is this request's turn on its connection."""
        owner = self.owner
        self.started_at = monotonic()
        for observer in owner.observers:
            observer.began(self)
        owner.begin(self)

    def body(self, data: bytes) -> None:
        """A piece of the body arrived (sent on by the next `body_flush`)."""
        size = len(data)
        self._unsent.append(data)
        self._unsent_bytes += size
        self._size += size
        if self._kept is not None:
            if self._size > REPLAY_LIMIT_BYTES:
                self._kept = None
            else:
                self._kept.append(data)
        for mirror in self.mirrors:
            mirror.body(data)

    def body_end(self, trailers: Headers | None) -> None:
        self.body_done = True
        self._trailers = trailers
        for mirror in self.mirrors:
            mirror.body_end()

    def copy_to(self, mirror: Mirror) -> None:
        """A mirror gets the body, too: what is here already at once. Not after `proceed`."""
        self.mirrors = (*self.mirrors, mirror)
        for data in self._unsent:
            mirror.body(data)
        if self.body_done:
            mirror.body_end()

    def body_flush(self) -> None:
        """Sends on what arrived, or asks the client to wait where it cannot go yet."""
        upstream = self.upstream
        if upstream is not None and not self._body_paused:
            if self._sent and (self._unsent or self.body_done):
                self._send_body(upstream)
        elif self._unsent_bytes > BODY_BUFFER_BYTES:
            self.client.hold_body(True)

    def client_gone(self) -> None:
        """Nobody waits for the answer any more."""
        self._stop_timer()
        if self.target is None:
            self.owner.abandoned(self)
        else:
            self._give_up(None)
        self._end()

    def client_paused(self, paused: bool) -> None:
        """The client does not keep up: stop reading the response, or go on."""
        if self.upstream is not None:
            self.upstream.pause(paused)

    # ---- the way up

    def proceed(self, target: Target, route: Route) -> None:
        """The target is known: the exchange begins."""
        self.target = target
        now = monotonic()
        exchange = self.exchange = Exchange(route, now, self.owner.rng)
        self._act(exchange.begin(now))

    def fail(self, cause: AnyCause) -> None:
        """The proxy answers by itself."""
        self._answer(cause)

    def answer(self, head: ResponseHead, target: Target | None = None) -> None:
        """The proxy answers by itself, with a head that a route's filter made (redirect, injected failure)."""
        self.target = target
        self._send_head(head)
        self._finish(None)

    def _act(self, step: Step) -> None:
        exchange, target = self.exchange, self.target
        assert exchange is not None
        assert target is not None
        if step is Step.TRY:
            due = exchange.next_deadline()
            if due is not None:
                self._start_timer(due, self._expire)
            elif exchange.route.idle_timeout is not None:
                self._data_at = monotonic()
                self._watch_idle(self._data_at)
            self.driver = None
            target.dispatch(self)
        elif step is Step.WAIT:
            self._start_timer(exchange.resume_at, self._resume)
        elif self._held_head is not None:
            self._send_held()
        else:
            assert exchange.cause is not None
            self._answer(exchange.cause)

    def _resume(self) -> None:
        assert self.exchange is not None
        self._timer = None
        self._act(self.exchange.resume(monotonic()))

    def _expire(self) -> None:
        self._timer = None
        exchange = self.exchange
        assert exchange is not None
        # A timeout is enforced at the endpoint, below the breaker, so the breaker counts it (linkerd2-proxy
        # `outbound/src/http/endpoint.rs`).
        self._give_up(True)
        if self.responding:
            # The head is out, so all that can be said is that the rest will not come.
            self._break_off(Cause.REQUEST_TIMEOUT)
            return
        self._held_head = None
        exchange.replayable = self._replayable()
        self._act(exchange.expired(max(self._due, monotonic())))

    def _idle(self) -> None:
        """Looks whether the stream was silent for the route's idle timeout."""
        self._timer = None
        exchange = self.exchange
        assert exchange is not None
        limit = exchange.route.idle_timeout
        assert limit is not None
        now = monotonic()
        if exchange.deadline is not None and now >= exchange.deadline:
            self._expire()
            return
        if now < self._data_at + limit:
            self._watch_idle(now)
            return
        self._give_up(True)
        if self.responding:
            self._break_off(Refused.IDLE_TIMEOUT)
        else:
            self._answer(Refused.IDLE_TIMEOUT)

    def _watch_idle(self, now: float) -> None:
        exchange = self.exchange
        assert exchange is not None
        limit = exchange.route.idle_timeout
        assert limit is not None
        due = max(self._data_at + limit, now + IDLE_LOOK_SECONDS)
        if exchange.deadline is not None:
            due = min(due, exchange.deadline)
        self._start_timer(due, self._idle)

    # ---- from the backend, through its driver

    def transmit(self, connection: Connection) -> None:
        """A connection is ours: sends the head and what there is of the body."""
        self.sent_at = monotonic()
        self._rtt = None
        if self._sent:
            # Not the first time: begin the body again.
            assert self._kept is not None
            self._unsent = list(self._kept)
        self._sent = True
        target = self.target
        assert target is not None
        self.endpoint = connection.endpoint
        series = self._series = self.series or connection.series
        series.requests.value += 1
        if self.backend_series is not None:
            self.backend_series.sent()
        upstream = self.upstream = connection.begin(self)
        body = self._take_body() if self._unsent else b""
        end = self.body_done and self._trailers is None
        upstream.start(self.head, self.wire_authority, self.extra, body, end)
        if self.body_done and not end:
            upstream.send(b"", True, self._trailers)
        self.client.hold_body(False)

    def refused(self, cause: Cause) -> None:
        """The backend will not send this try."""
        exchange = self.exchange
        assert exchange is not None
        self._stop_timer()
        exchange.replayable = self._replayable()
        self._act(exchange.failed(monotonic(), cause))

    # ---- from the server's connection

    def response_head(self, head: ResponseHead, end: bool) -> None:
        """The current try is answered; called while the connection parses. `end`: nothing follows the head."""
        exchange = self.exchange
        assert exchange is not None
        now = self._data_at = monotonic()
        self._rtt = now - self.sent_at
        if self.is_grpc:
            self.grpc_status = _grpc_status(head.headers)
            if not end and self.grpc_status is None and exchange.route.reads_trailers:
                self._held_head = head  # the verdict may stand in trailers
                return
        self._pushback = None
        if is_rate_limited(head.status, self.grpc_status):
            self._pushback = pushback_of(head.status, self.grpc_status, head.headers, time())
        self._settle(head)

    def _settle(self, head: ResponseHead) -> None:
        """Retries, or sends the head on."""
        exchange = self.exchange
        assert exchange is not None
        assert self._rtt is not None
        exchange.replayable = self._replayable()
        status = head.status
        step = exchange.responded(self.sent_at + self._rtt, status, self.grpc_status)
        if step is Step.DONE:
            self._respond(head)
            return
        self._stop_timer()
        failed = exchange.route.failed(status, self.grpc_status)
        self._observe(status, failed)
        upstream, driver = self.upstream, self.driver
        assert upstream is not None
        assert driver is not None
        self.upstream = None
        self._held_head = None
        driver.finished(upstream.endpoint, upstream.release(), self._rtt, failed, self._pushback)
        self.grpc_status = None
        self._act(step)

    def _respond(self, head: ResponseHead) -> None:
        exchange = self.exchange
        assert exchange is not None
        if exchange.route.idle_timeout is not None:
            self._watch_idle(self._data_at)
        elif exchange.deadline is None:
            self._stop_timer()
        elif self._timer is not None and exchange.deadline > self._due:
            self._start_timer(exchange.deadline, self._expire)
        if self.backend_filters is not None:
            head.headers = self.backend_filters.response(head.headers)
        filters = exchange.route.filters
        if filters is not None:
            head.headers = filters.response(head.headers)
        self._send_head(head)
        if self.client.write_paused:
            self.client_paused(True)

    def _send_head(self, head: ResponseHead) -> None:
        self.responding = True
        self.status = head.status
        if self.owner.observers:
            self.responded_at = monotonic()
            for observer in self.owner.observers:
                observer.responded(self, head.status)
        self.client.respond(self, head)

    def _send_held(self) -> None:
        held, self._held_head = self._held_head, None
        assert held is not None
        self._respond(held)

    def response_body(self, data: bytes) -> None:
        if self._held_head is not None:
            held, self._held_head = self._held_head, None
            self._settle(held)
            if not self.responding:
                return  # a retry; the rest of this response is not for us
        self.returned += len(data)
        exchange = self.exchange
        if exchange is not None and exchange.route.idle_timeout is not None:
            self._data_at = monotonic()
        self.client.send(data)

    def response_end(self, trailers: Headers | None, connection: Connection | None) -> None:
        """The response is complete; called after the connection parsed what it read. `connection`: as
        `Backend.finished` is to be given."""
        exchange = self.exchange
        assert exchange is not None
        if trailers is not None and self.is_grpc:
            self.grpc_status = _grpc_status(trailers)
            if is_rate_limited(0, self.grpc_status):
                self._pushback = pushback_of(0, self.grpc_status, trailers, time())
        if self._held_head is not None:
            held, self._held_head = self._held_head, None
            upstream = self.upstream
            self._settle(held)
            if not self.responding:
                return
            self.upstream = upstream
        upstream, driver = self.upstream, self.driver
        assert upstream is not None
        assert driver is not None
        assert self._rtt is not None
        self.upstream = None
        self._stop_timer()
        if self.client.write_paused:
            upstream.pause(False)
        failed = exchange.route.failed(self.status, self.grpc_status)
        self._observe(self.status, failed)
        driver.finished(upstream.endpoint, connection, self._rtt, failed, self._pushback)
        self._finish(trailers)

    def try_broken(self, cause: Cause, connection: Connection | None) -> None:
        """The try ended without a whole response. `connection`: it goes on where the peer reset a stream only."""
        exchange, upstream, driver = self.exchange, self.upstream, self.driver
        assert exchange is not None
        assert upstream is not None
        assert driver is not None
        self.upstream = None
        self._held_head = None
        self._stop_timer()
        driver.finished(upstream.endpoint, connection, self._elapsed(), True)
        self._observe(self.status, True, "i/o")
        if self.responding:
            self._break_off(Refused.RESPONSE_INVALID)
            return
        exchange.replayable = self._replayable()
        self._act(exchange.failed(monotonic(), cause))

    def can_resend(self) -> bool:
        """Whether the body is still held, and there is reason to hope."""
        return self._kept is not None and self._resends < MAX_RESENDS and not self.responding

    def returned_unsent(self, connection: Connection | None) -> None:
        """The server never read this request (its connection closed before, or it refused the stream): it is
        dispatched anew. `connection`: the one that goes on."""
        upstream, driver = self.upstream, self.driver
        assert upstream is not None
        assert driver is not None
        self._resends += 1
        self.upstream = None
        driver.returned_unsent(upstream.endpoint, self, connection)

    def server_paused(self, paused: bool) -> None:
        """The server does not keep up with the request's body."""
        self._body_paused = paused
        self.client.hold_body(paused)
        if not paused:
            self.body_flush()

    # ---- inside

    @property
    def wire_authority(self) -> bytes:
        return self.head.authority or self.authority.encode("ascii", "replace")

    def _replayable(self) -> bool:
        return self.body_done and self._kept is not None

    def _elapsed(self) -> float:
        return self._rtt if self._rtt is not None else monotonic() - self.sent_at

    def _take_body(self) -> bytes:
        unsent = self._unsent
        data = unsent[0] if len(unsent) == 1 else b"".join(unsent)
        unsent.clear()
        self.client.taken(self._unsent_bytes)
        self._unsent_bytes = 0
        return data

    def _send_body(self, upstream: Upstream) -> None:
        self._data_at = monotonic()
        upstream.send(self._take_body() if self._unsent else b"", self.body_done, self._trailers)

    def _observe(self, status: int, failed: bool, error: str = "") -> None:
        """Counts the try that ends here. `status` 0: it had no response."""
        rtt, series, backend = self._rtt, self._series, self.backend_series
        assert series is not None
        if rtt is not None:
            series.head(status, rtt)
        series.ended(status, failed, self.grpc_status, error)
        if backend is not None:
            backend.ended(status, failed, monotonic() - self.sent_at, self.grpc_status, error)

    def _give_up(self, failed: bool | None) -> None:
        """Takes the current try back, wherever it is."""
        upstream, self.upstream = self.upstream, None
        driver = self.driver
        if upstream is not None:
            assert driver is not None
            self._observe(self.status, bool(failed), "response timeout" if failed else "cancelled")
            driver.finished(upstream.endpoint, upstream.cancel(), self._elapsed(), failed)
        elif driver is not None:
            driver.withdraw(self)
        elif self.target is not None:
            self.target.withdraw(self)

    def _answer(self, cause: AnyCause) -> None:
        self._stop_timer()
        answer = ANSWERS[cause]
        self.status = answer.status
        self.cause = cause
        self.owner.refused(cause)
        if self.owner.observers:
            self.responded_at = monotonic()
            for observer in self.owner.observers:
                observer.responded(self, answer.status)
        client = self.client
        self._end()
        client.answer(self, answer)

    def _break_off(self, cause: AnyCause) -> None:
        self.cause = cause
        self._end()
        self.client.break_off()

    def _finish(self, trailers: Headers | None) -> None:
        self._end()
        self.client.end(self, trailers)

    def _end(self) -> None:
        target, self.target = self.target, None
        if target is not None:
            target.answered(self)
            target.release()
        for mirror in self.mirrors:
            mirror.settled(self)
        owner = self.owner
        owner.ended(self)
        if self.cause is not None or self.status >= 500 or self.grpc_status:
            owner.failed(self)
        for observer in owner.observers:
            observer.ended(self)

    def _start_timer(self, due: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._due = due
        self._timer = self.owner.deadlines.start(self, due, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.pop(self, None)
            self._timer = None


def _grpc_status(headers: Headers) -> int | None:
    for name, value in headers:
        if name == b"grpc-status":
            return int(value) if value.isdigit() else 2  # UNKNOWN, as gRPC libraries take what makes no sense
    return None
