"""A new inbound connection, until it is known what it speaks.

    port (original destination, or the app's) ─► its policy is known, or was waited for
    ClientHello with our name ─► handshake with a client certificate ─► ALPN h2, l5d-h1 or opaque transport
            │                                                      └─► none: first bytes
            └─ another name, or no identity of ours ─► opaque: the app's own TLS
    else ─► first bytes: HTTP/2 preface, HTTP/1 request line, or opaque

Ports that are opaque, by configuration or by a Server, skip the look at first bytes; TLS between proxies is found on
them all the same. A connection that says nothing within the detect timeout is opaque (its server may speak first);
one whose ClientHello or handshake does not end is closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from mesh.proxy.interception import dialled
from mesh.proxy.session import Session
from mesh.proxy.tcp import tune
from mesh.proxy.wire.contexts import ALPN_ACCEPTED, ALPN_HTTP2, ALPN_OPAQUE
from mesh.proxy.wire.detect import NeedMore, Protocol, detect_first, sni_of
from mesh.proxy.wire.tls import ACCEPTED, TlsShim, Upper, failure_reason

if TYPE_CHECKING:
    from mesh.proxy.inbound.service import InboundService
    from mesh.proxy.server import Transport

HANDSHAKE_RECORD = 0x16


class Detect(asyncio.Protocol):
    """Waits for the first bytes and hands over."""

    def __init__(self, service: InboundService) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._shim: TlsShim | None = None
        self._peeked = b""
        self._session = Session()
        self._waits = False
        """For the port's policy."""
        self._paused = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        config = self._service.config
        tune(transport, config.inbound_accept_keepalive, config.inbound_accept_user_timeout)
        peer, local = _text(transport.get_extra_info("peername")), _text(transport.get_extra_info("sockname"))
        meant = dialled(transport) if config.app is None else None
        session = self._session = Session(peer, str(meant) if meant is not None else local, informational=False)
        port = session.port = self._service.ports.at(meant)
        if port is None:
            self._begin()
            return
        self._waits = True
        port.when_known(self._begin)

    def data_received(self, data: bytes) -> None:
        service = self._service
        self._peeked = data = self._peeked + data if self._peeked else data
        if self._waits:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()  # not before the first read: uvloop begins to read whatever we said
            return
        if data[0] == HANDSHAKE_RECORD and service.credentials.contexts is not None:
            name = sni_of(data)
            if name is NeedMore:
                return
            if name == service.identity_name:
                self._begin_tls(data)
                return
            self._hand_over(service.opaque(self._session), data)
            return
        self._hand_over(self._speaks(data), data)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._done()

    # ---- Watcher of the shim

    def handshake_done(self, shim: TlsShim) -> Upper:
        self._done()
        service = self._service
        service.telemetry.handshakes.value += 1
        local = self._session
        session = Session(local.peer, local.local, identity=shim.peer_name(), tls=True)
        session.port = local.port
        alpn = shim.alpn
        if alpn == ALPN_HTTP2:
            return service.http2(session)
        if alpn == ALPN_OPAQUE:
            return cast("Upper", service.transported(session))
        if alpn == ALPN_ACCEPTED:
            shim.write(ACCEPTED)
            return service.http1(session)
        return Decrypted(service, session)

    def handshake_failed(self, shim: TlsShim, error: BaseException | None) -> None:
        if self._deadline is not None:
            self._done()
            self._service.telemetry.handshake_failed(failure_reason(error), self._session.peer)

    # ---- inside

    def _begin(self) -> None:
        """The connection is looked at from now on."""
        self._waits = False
        if self._transport is None or self._transport.is_closing():
            return
        service = self._service
        self._deadline = service.loop.call_later(service.detect_timeout(self._session), self._time_out)
        if self._paused:
            self._transport.resume_reading()
            data, self._peeked = self._peeked, b""
            self.data_received(data)

    def _begin_tls(self, data: bytes) -> None:
        contexts, transport = self._service.credentials.contexts, self._transport
        assert contexts is not None
        assert transport is not None
        shim = self._shim = TlsShim(contexts.server, self, server_side=True)
        self._peeked = b""
        transport.set_protocol(shim)
        shim.connection_made(transport)
        shim.data_received(data)

    def _speaks(self, data: bytes) -> asyncio.Protocol:
        return _protocol_for(self._service, self._session, data)

    def _hand_over(self, protocol: asyncio.Protocol, data: bytes) -> None:
        self._done()
        transport = self._transport
        assert transport is not None
        self._peeked = b""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if data:
            protocol.data_received(data)

    def _time_out(self) -> None:
        self._deadline = None
        assert self._transport is not None
        if self._shim is not None:
            self._service.telemetry.handshake_failed("timeout", self._session.peer)
            self._shim.abort()
        elif self._peeked:
            self._service.telemetry.tcp_failed("tls detection timeout", self._session.peer)
            self._transport.abort()
        else:
            self._hand_over(self._service.opaque(self._session), b"")

    def _done(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Decrypted(asyncio.Protocol):
    """A meshed connection of a peer that agreed on no protocol: its first bytes tell."""

    def __init__(self, service: InboundService, session: Session) -> None:
        self._service = service
        self._session = session
        self._transport: Transport | None = None
        self._next: asyncio.Protocol | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # a shim
        self._transport = transport
        self._deadline = self._service.loop.call_later(
            self._service.detect_timeout(self._session), self._become, self._service.opaque(self._session), b""
        )

    def data_received(self, data: bytes) -> None:
        if self._next is None:
            self._become(_protocol_for(self._service, self._session, data), data)
        else:
            self._next.data_received(data)

    def eof_received(self) -> bool | None:
        return self._next.eof_received() if self._next is not None else None

    def connection_lost(self, error: Exception | None) -> None:
        self._stop()
        if self._next is not None:
            self._next.connection_lost(error)

    def pause_writing(self) -> None:
        if self._next is not None:
            self._next.pause_writing()

    def resume_writing(self) -> None:
        if self._next is not None:
            self._next.resume_writing()

    def _become(self, protocol: asyncio.Protocol, data: bytes) -> None:
        self._stop()
        self._next = protocol
        protocol.connection_made(cast("asyncio.BaseTransport", self._transport))
        if data:
            protocol.data_received(data)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _protocol_for(service: InboundService, session: Session, data: bytes) -> asyncio.Protocol:
    """Whoever serves a connection that begins with `data`."""
    told = service.protocol(session)
    if told == "opaque" or told == "tls":
        return service.opaque(session)
    if told == "http1":
        return service.http1(session)
    if told == "http2" or told == "grpc":
        return service.http2(session)
    found = detect_first(data)
    if found is Protocol.HTTP2:
        return service.http2(session)
    if found is Protocol.HTTP1:
        return service.http1(session)
    return service.opaque(session)


def _text(address: tuple[str, int] | None) -> str:
    if not address:
        return ""
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
