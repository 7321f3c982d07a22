"""The sockets behind a `mesh.behavior.Backend`: connects, sends, and keeps its one timer armed.

    endpoint            connection
    meshed              HTTP/2 over TLS, shared (whatever the app speaks)
    un-meshed, HTTP/2   HTTP/2 with prior knowledge, shared
    un-meshed, HTTP/1   HTTP/1, one request at a time
    meshed, upgrade     HTTP/1 over TLS, opened for the one request and outside the machine's pool: a shared connection
                        cannot become a pipe

The machine must not be called while it calls us, so connecting and refusing happen in the next turn of the loop. The
timer is exact while requests wait; while the machine only holds idle connections it is looked at every
`COARSE_SECONDS` at most, because computing the next deadline for each request would cost as much as balancing it.

The clock is `time.monotonic`, not the loop's: uvloop's counts whole milliseconds, too coarse for a latency estimate.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Protocol

from mesh.behavior.backend import UNLIMITED, Backend, EndpointState
from mesh.behavior.outcome import Cause
from mesh.proxy.client import Connection, http1, http2
from mesh.proxy.config import parse_address
from mesh.proxy.connect_deadline import ConnectDeadline
from mesh.proxy.request import Request
from mesh.proxy.telemetry import BalancerSeries, DirectionTelemetry, EndpointSeries
from mesh.proxy.wire.contexts import Contexts
from mesh.proxy.wire.tls import TlsShim, Upper, failure_reason

COARSE_SECONDS = 0.5

Endpoint = EndpointState[Request, Connection]
AnyConnection = http1.ClientConnection | http2.ClientConnection


class Credentials(Protocol):
    """Where the current contexts come from; None while identity is disabled."""

    contexts: Contexts | None


class BackendDriver:
    """Implements `mesh.behavior.backend.Driver` for one destination (or for the app behind an inbound proxy)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        telemetry: DirectionTelemetry,
        credentials: Credentials,
        *,
        connect_timeout: float,
        bind_ip: str | None,
        series: Callable[[Endpoint], EndpointSeries],
    ) -> None:
        self.loop = loop
        self._telemetry = telemetry
        self._credentials = credentials
        self._connect_timeout = connect_timeout
        self._local = (bind_ip, 0) if bind_ip is not None else None
        self._make_series = series
        self._series: dict[str, EndpointSeries] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._private: dict[Request, tuple[Endpoint, Connection]] = {}
        """Upgrades whose own connection is being opened, and the shared one on whose account they go."""
        self.backend: Backend[Request, Connection] = None  # type: ignore[assignment]  # set by `attach`
        self.attached = False
        """Compiled code must not look at a backend that is not there yet, not even to see that."""
        self.balancer: BalancerSeries | None = None
        self.resent_total = telemetry.resent

    def attach(self, backend: Backend[Request, Connection]) -> None:
        self.backend = backend
        self.attached = True

    # ---- the machine asks

    def connect(self, endpoint: Endpoint) -> None:
        self._start(self._connect(endpoint))

    def send(self, ticket: Request, endpoint: Endpoint, connection: Connection) -> None:
        if endpoint.multiplexed and ticket.head.tunnel:
            self._private[ticket] = (endpoint, connection)
            self._start(self._connect_privately(endpoint, connection, ticket))
        else:
            ticket.transmit(connection)
            if self.balancer is not None:
                self.balancer.left(ticket.sent_at - ticket.dispatched_at)

    def refuse(self, ticket: Request, cause: Cause) -> None:
        self.loop.call_soon(self._refuse, ticket, ticket.attempts, cause)

    def _refuse(self, ticket: Request, attempt: int, cause: Cause) -> None:
        # Its client may have left in the meantime, or its deadline passed and another try begun.
        if ticket.target is not None and ticket.attempts == attempt:
            ticket.refused(cause)

    def close(self, connection: Connection) -> None:
        connection.close()

    # ---- requests and connections report

    def dispatch(self, request: Request) -> None:
        now = request.dispatched_at = monotonic()
        if self.balancer is not None:
            self.balancer.queued()
        self.backend.dispatch(now, request)
        if self._timer is None or self.backend.queue:
            self.arm()

    def withdraw(self, request: Request) -> None:
        private = self._private.pop(request, None)
        if private is None:
            self.backend.withdraw(request)
        else:
            self.backend.finished(monotonic(), *private, 0.0, None)
        self.arm()

    def finished(
        self,
        endpoint: Endpoint,
        connection: Connection | None,
        rtt: float,
        failed: bool | None,
        pushback: float | None = None,
    ) -> None:
        """As `Backend.finished`."""
        backend = self.backend
        backend.finished(monotonic(), endpoint, connection, rtt, failed, pushback)
        if self._timer is None or backend.queue:
            self.arm()

    def drained(self, connection: http1.ClientConnection, reusable: bool) -> None:
        """What nobody wanted of a response has been read."""
        if reusable:
            self.backend.regained(monotonic(), connection.endpoint, connection)
            self.arm()

    def returned_unsent(self, endpoint: Endpoint, request: Request, connection: Connection | None) -> None:
        self.resent_total.value += 1
        self.backend.returned_unsent(monotonic(), endpoint, request, connection)
        self.arm()

    def established(self, connection: AnyConnection, capacity: int = UNLIMITED) -> None:
        self._stop_deadline(connection)
        if connection.private is not None:
            if self._private.pop(connection.private, None) is None:
                connection.abort()  # its client left meanwhile, or its deadline passed
            else:
                connection.private.transmit(connection)
            return
        self.backend.connected(monotonic(), connection.endpoint, connection, capacity)
        self.arm()

    def not_established(self, connection: AnyConnection, error: BaseException | None) -> None:
        """The server looked at our certificate and closed, or closed before it said anything."""
        self._stop_deadline(connection)
        if connection.endpoint.spec.identity is None:
            self._connect_failed(connection, Cause.CONNECT, handshake=False)
        else:
            self.handshake_failed(connection, error)

    def rejected(self, error: Exception | None) -> None:
        """The same, from a peer that does not announce its verdict: noticed by the first request."""
        self._telemetry.handshake_failed(failure_reason(error))

    def resized(self, connection: Connection, capacity: int) -> None:
        self.backend.resized(monotonic(), connection.endpoint, connection, capacity)
        self.arm()

    def lost(self, connection: Connection) -> None:
        self.backend.lost(monotonic(), connection.endpoint, connection)

    def shut_down(self) -> None:
        if self.attached:
            self.backend.shut_down()
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- connecting

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, endpoint: Endpoint) -> None:
        meshed = endpoint.spec.identity is not None and self._credentials.contexts is not None
        series, tcp = self._series_of(endpoint), self._telemetry.tcp_to(endpoint.spec.identity)
        connection: AnyConnection
        if endpoint.multiplexed:
            connection = http2.ClientConnection(self, endpoint, series, tcp)
            context = self._credentials.contexts.http2 if self._credentials.contexts is not None else None
        else:
            connection = http1.ClientConnection(self, endpoint, series, tcp)
            context = self._credentials.contexts.http1 if self._credentials.contexts is not None else None
        await self._open(connection, context if meshed else None)

    async def _connect_privately(self, endpoint: Endpoint, shared: Connection, ticket: Request) -> None:
        series, tcp = self._series_of(endpoint), self._telemetry.tcp_to(endpoint.spec.identity)
        connection = http1.ClientConnection(self, endpoint, series, tcp, private=ticket, account=shared)
        contexts = self._credentials.contexts
        meshed = endpoint.spec.identity is not None and contexts is not None
        await self._open(connection, contexts.http1 if meshed and contexts is not None else None)

    async def _open(self, connection: AnyConnection, context: ssl.SSLContext | None) -> None:
        endpoint = connection.endpoint
        address = parse_address(endpoint.spec.address, "endpoint")
        protocol: asyncio.Protocol = connection
        shim = None
        if context is not None:
            protocol = shim = TlsShim(
                context, _Handshake(self, connection), server_side=False, server_hostname=endpoint.spec.identity
            )
        opening = asyncio.current_task()
        connection.deadline = timer = ConnectDeadline(
            self.loop, self._connect_timeout, self._late, connection, shim, opening
        )
        try:
            # Without asyncio.timeout: after a stall it would cancel a connect that `connection_made` has told of
            # already, and the pool would be left with a connection that is closed, and counted twice.
            await self.loop.create_connection(lambda: protocol, address.host, address.port, local_addr=self._local)
        except asyncio.CancelledError:
            if not connection.gone:
                raise
            self._connect_failed(connection, Cause.CONNECT_TIMEOUT, handshake=False)
        except OSError:
            timer.cancel()
            self._connect_failed(connection, Cause.CONNECT, handshake=False)

    def _late(self, connection: AnyConnection, shim: TlsShim | None, opening: asyncio.Task[Any] | None) -> None:
        """TCP is not up, or the other end does not shake hands, or does not say that it accepts us."""
        connection.deadline = None
        if connection.transport is not None:
            connection.gone = True
            connection.abort()
        elif shim is not None and shim.transport is not None:
            shim.abort()
        else:
            connection.gone = True
            if opening is not None:
                opening.cancel()
            return
        self.handshake_failed(connection, TimeoutError())

    def _series_of(self, endpoint: Endpoint) -> EndpointSeries:
        key = f"{endpoint.spec.address} {endpoint.spec.identity}"
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._make_series(endpoint)
        return series

    def _connect_failed(self, connection: AnyConnection, cause: Cause, *, handshake: bool) -> None:
        self._telemetry.connect_failed(cause, connection.endpoint.spec.address)
        self._report_failure(connection, cause, handshake)

    def handshake_failed(self, connection: AnyConnection, error: BaseException | None) -> None:
        self._stop_deadline(connection)
        reason = failure_reason(error)
        self._telemetry.handshake_failed(reason, connection.endpoint.spec.address)
        self._report_failure(connection, Cause.CONNECT_TIMEOUT if reason == "timeout" else Cause.CONNECT, True)

    def _report_failure(self, connection: AnyConnection, cause: Cause, handshake: bool) -> None:
        private = connection.private
        if private is None:
            self.backend.connect_failed(monotonic(), connection.endpoint, cause, handshake=handshake)
        elif (account := self._private.pop(private, None)) is not None:
            self.backend.finished(monotonic(), *account, 0.0, True)
            private.refused(cause)
        self.arm()

    def handshake_done(self) -> None:
        self._telemetry.handshakes.value += 1

    def _stop_deadline(self, connection: AnyConnection) -> None:
        if connection.deadline is not None:
            connection.deadline.cancel()
            connection.deadline = None

    # ---- the timer

    def arm(self) -> None:
        """Sets the timer to the machine's next deadline."""
        due = self.backend.next_timer()
        if due is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        if not self.backend.queue:
            due = max(due, min(due, monotonic() + COARSE_SECONDS))
        if self._timer is not None:
            if self._timer_at == due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = self.loop.call_later(max(0.0, due - monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.backend.on_timer(max(self._timer_at, monotonic()))
        self.arm()


class _Handshake:
    """Listens to one client handshake."""

    def __init__(self, driver: BackendDriver, connection: AnyConnection) -> None:
        self._driver = driver
        self._connection = connection

    def handshake_done(self, shim: TlsShim) -> Upper:
        self._driver.handshake_done()
        return self._connection

    def handshake_failed(self, shim: TlsShim, error: BaseException | None) -> None:
        if self._connection.deadline is not None:
            self._driver.handshake_failed(self._connection, error)
