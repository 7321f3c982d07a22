"""Opaque bytes for the app behind this proxy.

    transport header (ALPN said so) ─► its port ─┬─► http1, http2: the HTTP server of this side
    opaque, by policy or by detection ─► ours  ──┴─► policy ─► dial the app ─► joined
                                                        └─ refused, unknown port, ourselves: reset

A connection is authorized when it begins and again after each change of the policy; one that is no longer allowed is
ended at once, whatever it is in the middle of. The app is dialled once: a client of TCP hears at once that it is down,
as it would without us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol, cast

from mesh.behavior.outcome import Cause
from mesh.proxy.config import Address, Config
from mesh.proxy.dial import Dialler, Peer, ServerEnd
from mesh.proxy.session import Session
from mesh.proxy.tcp import End, Relays, Transport, join, reset, terminate
from mesh.proxy.telemetry import DirectionTelemetry, TcpSeries
from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.tls import TlsShim
from mesh.proxy.wire.transport_header import InvalidHeader, SessionProtocol, decode_header


class Policy(Protocol):
    """`mesh.proxy.inbound.policy.PortPolicy`, as far as connections go."""

    def check(self, session: Session, head: None, now: float) -> Refused | None: ...
    def on_change(self, callback: Callable[[], None]) -> None: ...


class HttpService(Protocol):
    """Who serves connections whose header says that they speak HTTP."""

    def http1(self, session: Session) -> asyncio.Protocol: ...
    def http2(self, session: Session) -> asyncio.Protocol: ...


class TcpInbound:
    """What all opaque connections of the inbound side share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        telemetry: DirectionTelemetry,
        policy: Policy,
        http: HttpService,
    ) -> None:
        self.loop = loop
        self.telemetry = telemetry
        self.policy = policy
        self.http = http
        self.header_timeout = config.detect_timeout
        self.relays = Relays(loop)
        self.dialler = Dialler(
            loop,
            telemetry,
            connect_timeout=config.inbound_connect_timeout,
            keepalive=config.inbound_connect_keepalive,
            user_timeout=config.inbound_connect_user_timeout,
        )
        self._app = config.app
        self._own = (config.inbound_listen, config.outbound_listen)
        policy.on_change(self._recheck)

    def opaque(self, session: Session) -> asyncio.Protocol:
        """The protocol for a connection whose bytes go to the app as they are."""
        return InboundForward(self, session)

    def transported(self, session: Session) -> asyncio.Protocol:
        """The protocol for one that begins with a transport header."""
        return Transported(self, session)

    def series(self, session: Session) -> TcpSeries:
        return self.telemetry.tcp("src", "true" if session.tls else self.telemetry.tls_label(False))

    def app_at(self, port: int | None) -> Address | None:
        """Where the pod serves `port` (None: the one app that we know); None where that is not for us to reach.

        Policy is known for the app's own port only, so a peer cannot reach another one through us.
        """
        app = self._app
        if app is None or (port is not None and port != app.port):
            return None
        return app

    def is_own(self, address: Address) -> bool:
        """Whether the app's address is one of our listeners, where its bytes would go round for ever."""
        return any(own.port == address.port and own.host in (address.host, "0.0.0.0", "::") for own in self._own)

    def stop(self) -> None:
        self.relays.stop()
        self.dialler.shut_down()

    def _recheck(self) -> None:
        now = monotonic()
        for end in list(self.relays.open):
            assert isinstance(end, InboundForward)
            if not end.closed and self.policy.check(end.session, None, now) is not None:
                terminate(end)


class InboundForward(End):
    """The peer's end of an opaque connection."""

    __slots__ = ("_inbound", "_port", "session")

    def __init__(self, inbound: TcpInbound, session: Session, port: int | None = None) -> None:
        super().__init__(inbound.series(session))
        self._inbound = inbound
        self._port = port
        self.session = session

    def connection_made(self, transport: asyncio.BaseTransport | TlsShim) -> None:
        super().connection_made(transport)
        inbound = self._inbound
        address = inbound.app_at(self._port)
        if inbound.policy.check(self.session, None, monotonic()) is not None:
            self._refuse(Refused.FORBIDDEN)
        elif address is None:
            self._refuse(Refused.NO_APP)
        elif inbound.is_own(address):
            self._refuse(Refused.LOOP)
        else:
            inbound.relays.add(self)
            inbound.dialler.dial(Peer(address), self)

    def over(self) -> None:
        self._inbound.relays.discard(self)

    # ---- Caller of the dialler

    def established(self, end: ServerEnd) -> None:
        join(self, end)

    def failed(self, end: ServerEnd, cause: Cause, *, handshake: bool) -> None:
        self.reset()

    def hung_up(self, end: ServerEnd) -> None:
        """Nothing to settle: nobody balances these."""

    def _refuse(self, cause: Refused) -> None:
        self._inbound.telemetry.tcp_failed(cause.value, self.session.peer)
        self.reset()


class Transported(asyncio.Protocol):
    """Reads the transport header and makes way for the protocol that it calls for."""

    __slots__ = ("_data", "_deadline", "_inbound", "_session", "_transport")

    def __init__(self, inbound: TcpInbound, session: Session) -> None:
        self._inbound = inbound
        self._session = session
        self._data = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._transport: Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport | TlsShim) -> None:
        self._transport = cast("Transport", transport)
        self._deadline = self._inbound.loop.call_later(self._inbound.header_timeout, self._refuse, "transport header")

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            found = decode_header(self._data)
        except InvalidHeader:
            self._refuse("transport header")
            return
        if found is None:
            return
        header, size = found
        if header.name is not None:
            # A name is for a gateway to other clusters, which this proxy is not.
            self._refuse(Refused.GATEWAY_DOMAIN_INVALID.value)
            return
        inbound, session = self._inbound, self._session
        if header.protocol is None:
            following: asyncio.Protocol = InboundForward(inbound, session, header.port)
        elif inbound.app_at(header.port) is None:
            self._refuse(Refused.NO_APP.value)
            return
        elif header.protocol is SessionProtocol.HTTP1:
            following = inbound.http.http1(session)
        else:
            following = inbound.http.http2(session)
        self._settle()
        rest, self._data = self._data[size:], b""
        transport = cast("asyncio.Transport", self._transport)
        transport.set_protocol(following)
        following.connection_made(transport)
        if rest:
            following.data_received(rest)

    def connection_lost(self, error: Exception | None) -> None:
        self._settle()

    def _refuse(self, error: str) -> None:
        self._settle()
        self._inbound.telemetry.tcp_failed(error, self._session.peer)
        assert self._transport is not None
        reset(self._transport)

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
