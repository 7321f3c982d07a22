"""A connection that the app opened, until it is known where it goes and what it speaks.

    original destination? ── none ─► detect ─► TLS: the SNI's name, port 443; else HTTP, which names its own
            │ (SO_ORIGINAL_DST, or a port forward)
            ▼
        discovery's hint ── opaque ──► TCP, at once: its server may speak first
            │            ── http2  ──► HTTP/2
            ▼ detect, or nothing known of it
        one read ── HTTP/1, HTTP/2 ──► HTTP
            │    ── anything else, TLS ──► TCP to the original destination
            └─ nothing for the detect timeout ──► TCP, too

Only the first read counts, as in linkerd2-proxy: a request line that dribbles in is opaque. Whoever takes over gets
that read as if it had come just then. A connection without a destination that is not TLS can only be HTTP, so it is,
whatever the size of its first read.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from mesh.behavior.outcome import Cause
from mesh.proxy.config import Address, Config
from mesh.proxy.interception import dialled
from mesh.proxy.outbound.tcp import Directory, TcpEntry
from mesh.proxy.session import Session
from mesh.proxy.tcp import reset, tune
from mesh.proxy.telemetry import OutboundTelemetry
from mesh.proxy.wire import detect

TLS_PORT = 443


class OutboundService(Protocol):
    """What accepting needs of the outbound side."""

    loop: asyncio.AbstractEventLoop
    config: Config
    telemetry: OutboundTelemetry

    @property
    def discovery(self) -> Directory: ...
    def http1(self, session: Session) -> asyncio.Protocol: ...
    def http2(self, session: Session) -> asyncio.Protocol: ...
    def tcp(self, session: Session, target: str) -> asyncio.Protocol: ...


class OutboundAccept(asyncio.Protocol):
    """The listener's protocol: waits for hint and first read, and hands over."""

    __slots__ = (
        "_asking",
        "_deadline",
        "_ended",
        "_first",
        "_hinted",
        "_paused",
        "_service",
        "_session",
        "_target",
        "_transport",
    )

    def __init__(self, service: OutboundService, target: str | None = None) -> None:
        """`target`: where a port forward's connections go."""
        self._service = service
        self._target = target
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self._session = Session()
        self._deadline: asyncio.TimerHandle | None = None
        self._first = b""
        self._ended = False
        self._asking = False
        self._hinted = False
        self._paused = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        service = self._service
        config = service.config
        tune(transport, config.outbound_accept_keepalive, config.outbound_accept_user_timeout)
        if self._target is None:
            meant = dialled(transport)
            self._target = str(meant) if meant is not None else None
        peer = _text(transport.get_extra_info("peername"))
        local = self._target or _text(transport.get_extra_info("sockname"))
        self._session = Session(peer, local, target=self._target)
        if self._target is None:
            self._detect()
        else:
            self._asking = True
            service.discovery.look_up(self, self._target)

    def data_received(self, data: bytes) -> None:
        self._first = data
        if self._hinted:
            self._decide()
        else:
            self._paused = True  # one read is all that detection looks at
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        if not self._first:
            self._settle()  # it said nothing, so there is nobody to answer
            return False
        self._ended = True
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._settle()

    # ---- discovery answers

    def found(self, entry: TcpEntry) -> None:
        self._asking = False
        protocol = entry.protocol
        entry.release()
        self._hint(protocol)

    def not_found(self, cause: Cause) -> None:
        self._asking = False
        if cause is Cause.UNKNOWN_DESTINATION:
            assert self._target is not None
            port = int(self._target.rpartition(":")[2])
            self._hint("opaque" if port in self._service.config.opaque_ports else "detect")
        else:
            # linkerd2-proxy fails the connection, too: without policy nobody knows whether it may be carried.
            self._service.telemetry.tcp_failed(cause.value, self._session.local)
            reset(self._transport)

    # ---- inside

    def _hint(self, protocol: str) -> None:
        if self._transport.is_closing():
            return
        if protocol == "opaque":
            self._tcp()
        elif protocol in ("http2", "grpc"):
            self._hand_over(self._service.http2(self._session))
        else:
            self._detect()

    def _detect(self) -> None:
        self._hinted = True
        if self._first:
            self._decide()
        else:
            service = self._service
            self._deadline = service.loop.call_later(service.config.outbound_detect_timeout, self._time_out)

    def _decide(self) -> None:
        kind = detect.detect_first(self._first)
        if kind is detect.Protocol.HTTP2:
            self._hand_over(self._service.http2(self._session))
        elif kind is detect.Protocol.HTTP1:
            self._hand_over(self._service.http1(self._session))
        elif self._target is None and kind is detect.Protocol.TLS:
            name = detect.sni_of(self._first)
            self._target = f"{name}:{TLS_PORT}" if isinstance(name, str) else None
            self._tcp()
        else:
            self._tcp()

    def _time_out(self) -> None:
        self._deadline = None
        self._tcp()

    def _tcp(self) -> None:
        if self._target is None:
            self._hand_over(self._service.http1(self._session))
        else:
            self._hand_over(self._service.tcp(self._session, self._target))

    def _hand_over(self, upper: asyncio.Protocol) -> None:
        self._settle()
        transport = self._transport
        transport.set_protocol(upper)
        upper.connection_made(transport)
        if self._first:
            upper.data_received(self._first)
        if self._ended:
            if not upper.eof_received():
                transport.close()
        elif self._paused:
            transport.resume_reading()

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._asking:
            self._asking = False
            assert self._target is not None
            self._service.discovery.forget(self, self._target)


def _text(name: tuple[str, int] | None) -> str:
    return str(Address(name[0], name[1])) if name else ""
