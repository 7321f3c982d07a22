"""Opaque TCP from the app: one connection in, one out, to an endpoint that the balancer chose.

    TcpForward ──► directory: who is that? ──► known    ──► TcpDriver ──► Backend ──► dial ──► joined
                                           ├─► unknown  ──► the address that the app dialled, as it is (egress)
                                           └─► denied, or nobody answers ──► reset

The ticket that waits in the balancer is the client's connection. An endpoint's load is its open connections times what
it takes to connect; there is no breaker, because bytes have no status. Endpoints that are removed get no new connection
and keep those they have. A meshed endpoint is reached over mutual TLS, with a transport header that names the app's
port; TLS of the app's own goes through as the bytes it is.

A connection that cannot be served is reset, and so is not taken for one that ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from mesh.behavior.backend import Backend, BackendSettings, EndpointState, Multiplex
from mesh.behavior.outcome import Cause
from mesh.proxy.config import Address, Config, parse_address
from mesh.proxy.dial import Dialler, Peer, ServerEnd
from mesh.proxy.session import Session
from mesh.proxy.tcp import End, Relays, join, terminate
from mesh.proxy.telemetry import OutboundTelemetry, TcpSeries
from mesh.proxy.wire.contexts import Contexts
from mesh.proxy.wire.tls import TlsShim
from mesh.proxy.wire.transport_header import TransportHeader, encode_header

TCP_SETTINGS = BackendSettings(multiplex=Multiplex.NEVER, pool_max_idle=0)
"""No pool: a connection that is not joined at once is of no use, since a server may have begun to speak to it."""


class Credentials(Protocol):
    contexts: Contexts | None
    """None while identity is disabled."""


class TcpEntry(Protocol):
    """What discovery knows of a destination."""

    @property
    def protocol(self) -> str:
        """`detect`, `http1`, `http2` or `opaque`."""

    @property
    def egress(self) -> str:
        """`allow` or `deny` for an address that an EgressNetwork covers, else empty."""

    @property
    def tcp(self) -> TcpDriver: ...
    def release(self) -> None:
        """It is needed no longer."""


class Waiter(Protocol):
    """Who asks for a destination."""

    def found(self, entry: TcpEntry) -> None:
        """`entry` is held for the waiter, which releases it."""

    def not_found(self, cause: Cause) -> None:
        """UNKNOWN_DESTINATION or DISCOVERY_TIMEOUT."""


class Directory(Protocol):
    """Discovery, for connections."""

    def look_up(self, waiter: Waiter, authority: str) -> None:
        """Answers the waiter, now or later, exactly once."""

    def forget(self, waiter: Waiter, authority: str) -> None:
        """The waiter left before it was answered."""


class TcpDriver:
    """Implements `mesh.behavior.backend.Driver` for the opaque connections of one destination."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, dialler: Dialler, credentials: Credentials, authority: str
    ) -> None:
        self._loop = loop
        self._dialler = dialler
        self._credentials = credentials
        self._port = int(authority.rpartition(":")[2])
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.backend: Backend[TcpForward, ServerEnd] = None  # type: ignore[assignment]  # set by `attach`
        self.attached = False

    def attach(self, backend: Backend[TcpForward, ServerEnd]) -> None:
        self.backend = backend
        self.attached = True

    # ---- the machine asks

    def connect(self, endpoint: EndpointState[TcpForward, ServerEnd]) -> None:
        spec = endpoint.spec
        address = parse_address(spec.address, "endpoint")
        contexts = self._credentials.contexts
        if spec.identity is None or contexts is None:
            peer = Peer(address)
        else:
            header = encode_header(TransportHeader(spec.port or self._port))
            peer = Peer(address, contexts.opaque, spec.identity, header)
        self._dialler.dial(peer, self, endpoint)

    def send(self, ticket: TcpForward, endpoint: EndpointState[TcpForward, ServerEnd], connection: ServerEnd) -> None:
        ticket.connected(connection)

    def refuse(self, ticket: TcpForward, cause: Cause) -> None:
        self._loop.call_soon(ticket.refused, cause)

    def close(self, connection: ServerEnd) -> None:
        connection.close()

    # ---- clients and connections report

    def dispatch(self, ticket: TcpForward) -> None:
        self.backend.dispatch(monotonic(), ticket)
        self.arm()

    def withdraw(self, ticket: TcpForward) -> None:
        self.backend.withdraw(ticket)
        self.arm()

    def established(self, end: ServerEnd) -> None:
        self.backend.connected(monotonic(), end.endpoint, end)
        self.arm()

    def failed(self, end: ServerEnd, cause: Cause, *, handshake: bool) -> None:
        self.backend.connect_failed(monotonic(), end.endpoint, cause, handshake=handshake)
        self.arm()

    def hung_up(self, end: ServerEnd) -> None:
        if end.used:
            self.backend.finished(monotonic(), end.endpoint, None, end.connect_seconds, None)
            self.arm()

    def forgive(self) -> None:
        """Our certificate is new: endpoints that refused the old one get another try at once."""
        self.backend.forgive(monotonic())
        self.arm()

    def shut_down(self) -> None:
        if self.attached:
            self.backend.shut_down()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- the timer

    def arm(self) -> None:
        """Sets the timer to the machine's next deadline."""
        due = self.backend.next_timer()
        if self._timer is not None:
            if due == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_at = due
            self._timer = self._loop.call_later(max(0.0, due - monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.backend.on_timer(max(self._timer_at, monotonic()))
        self.arm()


class TcpOutbound:
    """What all opaque connections of the outbound side share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        telemetry: OutboundTelemetry,
        credentials: Credentials,
        directory: Directory,
    ) -> None:
        self.loop = loop
        self.telemetry = telemetry
        self.directory = directory
        self.relays = Relays(loop)
        self.series = telemetry.tcp("src", "disabled")
        self.dialler = Dialler(
            loop,
            telemetry,
            connect_timeout=config.outbound_connect_timeout,
            bind_ip=config.bind_ip,
            keepalive=config.outbound_connect_keepalive,
            user_timeout=config.outbound_connect_user_timeout,
        )
        self._credentials = credentials
        self._own = (config.outbound_listen, config.inbound_listen)

    def driver(self, authority: str) -> TcpDriver:
        """For a destination's `Backend`, whose settings are `TCP_SETTINGS`."""
        return TcpDriver(self.loop, self.dialler, self._credentials, authority)

    def forward(self, session: Session, target: str) -> TcpForward:
        """The protocol for an accepted connection whose bytes go to `target` (`host:port`)."""
        return TcpForward(self, session, target, self.series)

    def tunnel(self, session: Session, target: str, greeting: bytes, on_refusal: Callable[[Cause], None]) -> TcpForward:
        """The same for a connection that an HTTP server gives up (CONNECT). `greeting` is what the client is told once
        there is a server; `on_refusal` answers where there is none, and has the transport's protocol set back."""
        return TcpForward(self, session, target, self.series, new=False, greeting=greeting, on_refusal=on_refusal)

    def is_own(self, address: Address) -> bool:
        """Whether it is one of our own listeners: dialling it would go round for ever."""
        return address in self._own

    def stop(self) -> None:
        self.relays.stop()
        self.dialler.shut_down()


class TcpForward(End):
    """The client's end of an opaque connection: `Backend`'s ticket, and then half of the relay."""

    __slots__ = ("_driver", "_entry", "_greeting", "_looking", "_on_refusal", "_outbound", "session", "target")

    def __init__(
        self,
        outbound: TcpOutbound,
        session: Session,
        target: str,
        series: TcpSeries,
        *,
        new: bool = True,
        greeting: bytes = b"",
        on_refusal: Callable[[Cause], None] | None = None,
    ) -> None:
        """`new`: the connection is not counted as open yet. `greeting` and `on_refusal`: see `TcpOutbound.tunnel`;
        without them the client hears nothing, and is reset where there is no server."""
        super().__init__(series, new=new)
        self._outbound = outbound
        self.session = session
        self.target = target
        self._greeting = greeting
        self._on_refusal = on_refusal
        self._looking = False
        self._entry: TcpEntry | None = None
        self._driver: TcpDriver | None = None

    def connection_made(self, transport: asyncio.BaseTransport | TlsShim) -> None:
        super().connection_made(transport)
        self._outbound.relays.add(self)
        self._looking = True
        self._outbound.directory.look_up(self, self.target)

    def over(self) -> None:
        self._outbound.relays.discard(self)
        if self._looking:
            self._outbound.directory.forget(self, self.target)
        if self.other is None and self._driver is not None:
            self._driver.withdraw(self)
        self._driver = None
        if self._entry is not None:
            self._entry.release()
            self._entry = None

    # ---- the directory answers

    def found(self, entry: TcpEntry) -> None:
        self._looking = False
        self._entry = entry
        if entry.egress == "deny":
            self.refused(Cause.EGRESS_DENIED)
        elif entry.egress == "allow":
            self._dial_target()
        else:
            self._driver = entry.tcp
            self._driver.dispatch(self)

    def not_found(self, cause: Cause) -> None:
        self._looking = False
        if cause is Cause.UNKNOWN_DESTINATION:
            self._dial_target()
        else:
            self.refused(cause)

    # ---- the balancer answers

    def connected(self, end: ServerEnd) -> None:
        """A server's connection is this client's."""
        end.used = True
        if self._greeting and not self.closed:
            self.write_first(self._greeting)
        join(self, end)

    def refused(self, cause: Cause) -> None:
        """There will be none."""
        if self.closed:
            return  # its client left in the meantime
        if cause not in (Cause.CONNECT, Cause.CONNECT_TIMEOUT):  # those were counted when they were seen
            self._outbound.telemetry.tcp_failed(cause.value, self.target)
        if self._on_refusal is not None:
            self.closed = True
            self._on_refusal(cause)
            self.over()
        else:
            terminate(self)

    # ---- to the address itself (Caller of the dialler)

    def _dial_target(self) -> None:
        host, _, port = self.target.rpartition(":")
        address = Address(host.strip("[]"), int(port))
        if self._outbound.is_own(address):
            self.refused(Cause.UNKNOWN_DESTINATION)
        else:
            self._outbound.dialler.dial(Peer(address), self)

    def established(self, end: ServerEnd) -> None:
        self.connected(end)

    def failed(self, end: ServerEnd, cause: Cause, *, handshake: bool) -> None:
        self.refused(cause)

    def hung_up(self, end: ServerEnd) -> None:
        """Nothing to settle: nobody balances these."""
