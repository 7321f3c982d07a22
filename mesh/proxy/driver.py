"""The sockets behind a `mesh.behavior.Backend`: connects, sends, and keeps its one timer armed.

The machine must not be called while it calls us, so connecting and refusing happen in the next turn of the loop. The
timer is exact while requests wait; while the machine only holds idle connections it is looked at every
`COARSE_SECONDS` at most, because computing the next deadline for each request would cost as much as balancing it.

The clock is `time.monotonic`, not the loop's: uvloop's counts whole milliseconds, too coarse for a latency estimate.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from mesh.behavior.backend import Backend, EndpointState
from mesh.behavior.outcome import Cause
from mesh.proxy.client import ClientConnection
from mesh.proxy.config import parse_address
from mesh.proxy.request import Request
from mesh.proxy.telemetry import DirectionTelemetry, EndpointSeries
from mesh.proxy.wire.tls import TlsShim, Upper, failure_reason

COARSE_SECONDS = 0.5

Endpoint = EndpointState[Request, ClientConnection]


class Credentials(Protocol):
    """Where the current client context comes from; None while identity is disabled."""

    client_context: ssl.SSLContext | None


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
        self._loop = loop
        self._telemetry = telemetry
        self._credentials = credentials
        self._connect_timeout = connect_timeout
        self._local = (bind_ip, 0) if bind_ip is not None else None
        self._make_series = series
        self._series: dict[str, EndpointSeries] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.backend: Backend[Request, ClientConnection] = None  # type: ignore[assignment]  # set by `attach`
        self.resent_total = telemetry.resent

    def attach(self, backend: Backend[Request, ClientConnection]) -> None:
        self.backend = backend

    # ---- the machine asks

    def connect(self, endpoint: Endpoint) -> None:
        task = self._loop.create_task(self._connect(endpoint))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def send(self, ticket: Request, endpoint: Endpoint, connection: ClientConnection) -> None:
        ticket.transmit(connection)

    def refuse(self, ticket: Request, cause: Cause) -> None:
        self._loop.call_soon(self._refuse, ticket, ticket.attempt, cause)

    def _refuse(self, ticket: Request, attempt: int, cause: Cause) -> None:
        # Its client may have left in the meantime, or its deadline passed and another try begun.
        if ticket.target is not None and ticket.attempt == attempt:
            ticket.refused(cause)

    def close(self, connection: ClientConnection) -> None:
        connection.close()

    # ---- requests and connections report

    def dispatch(self, request: Request) -> None:
        self.backend.dispatch(monotonic(), request)
        if self._timer is None or self.backend.queue:
            self.arm()

    def withdraw(self, request: Request) -> None:
        self.backend.withdraw(request)
        self.arm()

    def finished(self, connection: ClientConnection, reusable: bool, rtt: float | None, failed: bool) -> None:
        backend = self.backend
        backend.finished(monotonic(), connection.endpoint, connection if reusable else None, rtt, failed)
        if self._timer is None or backend.queue:
            self.arm()

    def returned_unsent(self, connection: ClientConnection, request: Request) -> None:
        self.resent_total.value += 1
        self.backend.returned_unsent(monotonic(), connection.endpoint, request)
        self.arm()

    def established(self, connection: ClientConnection) -> None:
        if connection.deadline is not None:
            connection.deadline.cancel()
            connection.deadline = None
        self.backend.connected(monotonic(), connection.endpoint, connection)
        self.arm()

    def not_established(self, connection: ClientConnection, error: Exception | None) -> None:
        """The server looked at our certificate and closed."""
        if connection.deadline is not None:
            connection.deadline.cancel()
            connection.deadline = None
        self.handshake_failed(connection.endpoint, error)

    def rejected(self, error: Exception | None) -> None:
        """The same, from a peer that does not announce its verdict: noticed by the first request."""
        self._telemetry.handshake_failed(failure_reason(error))

    def lost(self, connection: ClientConnection) -> None:
        self.backend.lost(connection.endpoint, connection)

    def shut_down(self) -> None:
        if self.backend is not None:
            self.backend.shut_down()
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- connecting

    async def _connect(self, endpoint: Endpoint) -> None:
        address = parse_address(endpoint.spec.address, "endpoint")
        key = f"{endpoint.spec.address} {endpoint.spec.identity}"
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._make_series(endpoint)
        connection = ClientConnection(self, endpoint, series, self._telemetry.tcp_to(endpoint.spec.identity))
        context = self._credentials.client_context
        if endpoint.spec.identity is None or context is None:
            await self._open(endpoint, lambda: connection, address.host, address.port)
            return
        attempt = _Handshake(self, endpoint, connection)
        shim = TlsShim(context, attempt, server_side=False, server_hostname=endpoint.spec.identity)
        connection.deadline = deadline = self._loop.call_later(self._connect_timeout, attempt.time_out, shim)
        if not await self._open(endpoint, lambda: shim, address.host, address.port):
            deadline.cancel()

    async def _open(self, endpoint: Endpoint, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> bool:
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._loop.create_connection(factory, host, port, local_addr=self._local)
        except TimeoutError:
            self._connect_failed(endpoint, Cause.CONNECT_TIMEOUT)
        except OSError:
            self._connect_failed(endpoint, Cause.CONNECT)
        else:
            return True
        return False

    def _connect_failed(self, endpoint: Endpoint, cause: Cause) -> None:
        self._telemetry.connect_failed(cause)
        self.backend.connect_failed(monotonic(), endpoint, cause, handshake=False)
        self.arm()

    def handshake_failed(self, endpoint: Endpoint, error: BaseException | None) -> None:
        reason = failure_reason(error)
        self._telemetry.handshake_failed(reason)
        cause = Cause.CONNECT_TIMEOUT if reason == "timeout" else Cause.CONNECT
        self.backend.connect_failed(monotonic(), endpoint, cause, handshake=True)
        self.arm()

    def handshake_done(self) -> None:
        self._telemetry.handshakes.value += 1

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
        self._timer = self._loop.call_later(max(0.0, due - monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.backend.on_timer(max(self._timer_at, monotonic()))
        self.arm()


class _Handshake:
    """Listens to one client handshake."""

    def __init__(self, driver: BackendDriver, endpoint: Endpoint, connection: ClientConnection) -> None:
        self._driver = driver
        self._endpoint = endpoint
        self._connection = connection

    def time_out(self, shim: TlsShim) -> None:
        self._connection.deadline = None
        if shim.transport is not None:  # else the TCP connection is what takes so long, and has its own limit
            if self._connection.transport is not None:
                self._connection.abort()
            else:
                shim.abort()
            self._driver.handshake_failed(self._endpoint, TimeoutError())

    def handshake_done(self, shim: TlsShim) -> Upper:
        self._driver.handshake_done()
        return self._connection

    def handshake_failed(self, shim: TlsShim, error: BaseException | None) -> None:
        if self._connection.deadline is not None:
            self._connection.deadline.cancel()
            self._connection.deadline = None
            self._driver.handshake_failed(self._endpoint, error)
