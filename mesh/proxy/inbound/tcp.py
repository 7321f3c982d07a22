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
from functools import partial
from time import monotonic
from typing import Protocol, cast

from mesh.behavior.outcome import Cause
from mesh.proxy.config import Address, Config
from mesh.proxy.dial import Dialler, Peer, ServerEnd
from mesh.proxy.inbound.ports import Port, Ports
from mesh.proxy.session import Session
from mesh.proxy.tcp import End, Relays, Transport, join, reset, terminate
from mesh.proxy.telemetry import DirectionTelemetry, TcpSeries
from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.tls import TlsShim
from mesh.proxy.wire.transport_header import InvalidHeader, SessionProtocol, TransportHeader, decode_header


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
        ports: Ports,
        http: HttpService,
    ) -> None:
        self.loop = loop
        self.telemetry = telemetry
        self.ports = ports
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
        self._own = (config.inbound_listen, config.outbound_listen)
        ports.on_new = self._heed
        if ports.app is not None:
            self._heed(ports.app)

    def opaque(self, session: Session) -> asyncio.Protocol:
        """The protocol for a connection whose bytes go to the app as they are."""
        return InboundForward(self, session)

    def transported(self, session: Session) -> asyncio.Protocol:
        """The protocol for one that begins with a transport header."""
        return Transported(self, session)

    def series(self, session: Session) -> TcpSeries:
        return self.telemetry.tcp("src", "true" if session.tls else self.telemetry.tls_label(False))

    def is_own(self, address: Address) -> bool:
        """Whether the app's address is one of our listeners, where its bytes would go round for ever."""
        return any(own.port == address.port and own.host in (address.host, "0.0.0.0", "::") for own in self._own)

    def stop(self) -> None:
        self.relays.stop()
        self.dialler.shut_down()

    def _heed(self, port: Port) -> None:
        port.policy.on_change(partial(self._recheck, port))

    def _recheck(self, port: Port) -> None:
        now = monotonic()
        for end in list(self.relays.open):
            assert isinstance(end, InboundForward)
            if end.session.port is port and not end.closed and port.policy.check(end.session, None, now) is not None:
                terminate(end)


class InboundForward(End):
    """The peer's end of an opaque connection."""

    __slots__ = ("_inbound", "_used", "session")

    def __init__(self, inbound: TcpInbound, session: Session) -> None:
        super().__init__(inbound.series(session))
        self._inbound = inbound
        self._used = False
        self.session = session

    def connection_made(self, transport: asyncio.BaseTransport | TlsShim) -> None:
        super().connection_made(transport)
        inbound = self._inbound
        port: Port | None = self.session.port
        if port is None:
            self._refuse(Refused.NO_APP)
        elif port.policy.check(self.session, None, monotonic()) is not None:
            self._refuse(Refused.FORBIDDEN)
        elif inbound.is_own(port.address):
            self._refuse(Refused.LOOP)
        else:
            inbound.relays.add(self)
            self._used = True
            port.used()
            inbound.dialler.dial(Peer(port.address), self)

    def over(self) -> None:
        self._inbound.relays.discard(self)
        if self._used:
            self._used = False
            self.session.port.unused()

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

    __slots__ = ("_data", "_deadline", "_header", "_inbound", "_paused", "_session", "_transport")

    def __init__(self, inbound: TcpInbound, session: Session) -> None:
        self._inbound = inbound
        self._session = session
        self._data = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._header: TransportHeader | None = None
        """Read, and waiting for its port's policy to be known."""
        self._paused = False
        self._transport: Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport | TlsShim) -> None:
        self._transport = cast("Transport", transport)
        self._deadline = self._inbound.loop.call_later(self._inbound.header_timeout, self._refuse, "transport header")

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._header is not None:
            return
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
        self._data = self._data[size:]
        session = self._session
        port = session.port = self._inbound.ports.named(header.port, session.local_ip)
        if port is None:
            self._refuse(Refused.NO_APP.value)
            return
        self._header = header
        port.when_known(self._follow)
        if self._header is not None and self._deadline is not None:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()  # until the port's policy is known

    def _follow(self) -> None:
        header, self._header = self._header, None
        if header is None or self._deadline is None:
            return  # the peer left meanwhile, or was too slow
        inbound, session = self._inbound, self._session
        following: asyncio.Protocol
        if header.protocol is None:
            following = InboundForward(inbound, session)
        elif header.protocol is SessionProtocol.HTTP1:
            following = inbound.http.http1(session)
        else:
            following = inbound.http.http2(session)
        self._settle()
        transport = cast("asyncio.Transport", self._transport)
        if self._paused and not transport.is_closing():
            transport.resume_reading()
        rest, self._data = self._data, b""
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
