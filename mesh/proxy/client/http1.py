"""An HTTP/1 connection to an endpoint: one request at a time, kept alive between them.

    connecting ──► (TLS handshake ──► accepted?) ──► idle ⇄ serving ──► closed

Over TLS (only upgrades go to a meshed endpoint this way) the connection counts as open only when the server has said
that it accepted our certificate (`contexts.ALPN_ACCEPTED`): until then nothing is written, and a refusal is a failed
handshake that costs no request.

When a connection breaks before the first byte of a response, the request may be sent again iff the connection had
served before (a keep-alive connection that the server closed while the request was on its way), its method is
idempotent (RFC 9110 section 9.2.2) and its body is still held. Anything else might be done twice, and gets 502.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from mesh.behavior.outcome import Cause
from mesh.proxy.connect_deadline import ConnectDeadline
from mesh.proxy.telemetry import EndpointSeries, TcpSeries
from mesh.proxy.wire.contexts import ALPN_ACCEPTED
from mesh.proxy.wire.http1 import LAST_CHUNK, ResponseReader, chunk, last_chunk, request_bytes
from mesh.proxy.wire.http1_fields import MessageError
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead
from mesh.proxy.wire.tls import ACCEPTED, TlsShim

if TYPE_CHECKING:
    from mesh.behavior.backend import EndpointState
    from mesh.proxy.client import Connection
    from mesh.proxy.driver import BackendDriver
    from mesh.proxy.request import Request
    from mesh.proxy.server import Transport

DRAIN_LIMIT_BYTES = 64 * 1024
"""Of a response that nobody wants any more, before the connection is dropped instead of read to its end."""


class ClientConnection(asyncio.Protocol):
    """One connection of one endpoint; the `Upstream` of the request it serves."""

    __slots__ = (
        "_account",
        "_chunked",
        "_closed",
        "_drained",
        "_driver",
        "_greeting",
        "_head",
        "_over",
        "_reader",
        "_served",
        "_tcp",
        "_trailers",
        "_tunnel",
        "deadline",
        "endpoint",
        "gone",
        "private",
        "request",
        "series",
        "transport",
    )

    def __init__(
        self,
        driver: BackendDriver,
        endpoint: EndpointState[Request, Connection],
        series: EndpointSeries,
        tcp: TcpSeries,
        private: Request | None = None,
        account: Connection | None = None,
    ) -> None:
        """`private`: the one request that the connection is opened for, outside the backend's pool; `account`: the
        shared connection that the backend believes it to be on."""
        self._driver = driver
        self.endpoint = endpoint
        self.series = series
        self._tcp = tcp
        self.private = private
        self.gone = False
        self._account = account
        self._reader = ResponseReader(self)
        self.transport: Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self.request: Request | None = None
        self._head: ResponseHead | None = None
        self._trailers: Headers | None = None
        self._over = False
        self._chunked = False
        self._tunnel = False
        self._served = 0
        self._drained = 0
        self._closed = False
        self._greeting: bytes | None = None
        self.deadline: ConnectDeadline | None = None
        """For the handshake, up to and including the server's word that it accepted us."""

    @property
    def serving(self) -> bool:
        """Whether a response is awaited or being read, wanted or not."""
        return self.request is not None or self._head is not None

    # ---- asyncio.Protocol, or the upper side of a TLS shim

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # a shim, too
        self.transport = transport
        self._tcp.opened.value += 1
        if self.gone:
            self._closed = True
            transport.abort()  # TCP came up after its deadline, and that is told already
            return
        if isinstance(transport, TlsShim) and transport.alpn == ALPN_ACCEPTED:
            self._greeting = b""
        else:
            self._driver.established(self)

    def data_received(self, data: bytes) -> None:
        self._tcp.read.value += len(data)
        if self._greeting is not None:
            self._greeting += data
            if self._greeting == ACCEPTED:
                self._greeting = None
                self._driver.established(self)
            elif not ACCEPTED.startswith(self._greeting):
                self.transport.abort()
            return
        if not self.serving:
            # Bytes that no request asked for: whatever they are, this connection cannot be trusted with one.
            self.transport.abort()
            return
        try:
            self._reader.feed(data)
        except MessageError as error:
            self._broken(error)
            self.transport.abort()
            return
        if self._drained > DRAIN_LIMIT_BYTES and not self._over:
            self._broken(None)
            self.transport.abort()
        elif self._over:
            self._finish(reusable=self._head is not None and self._head.keep_alive and not self._head.until_close)
        elif self.request is not None:
            self.request.client.flush()

    def eof_received(self) -> None:
        """The transport closes, and `connection_lost` says what that meant."""

    def connection_lost(self, error: Exception | None) -> None:
        self._tcp.closed.value += 1
        self._lost(error)
        self._reader.release()

    def _lost(self, error: Exception | None) -> None:
        if self._greeting is not None:
            self._driver.not_established(self, error)
            return
        if self._closed:
            return
        self._closed = True
        if not self.serving:
            if self.private is None:
                self._driver.lost(self)
        elif self._reader.end_of_stream():
            self._finish(reusable=False)
        else:
            self._broken(error)

    def pause_writing(self) -> None:
        if self.request is not None:
            self.request.server_paused(True)

    def resume_writing(self) -> None:
        if self.request is not None:
            self.request.server_paused(False)

    # ---- Connection

    def begin(self, request: Request) -> ClientConnection:
        self.request = request
        self._over = False
        self._drained = 0
        self._head = None
        self._trailers = None
        return self

    def close(self) -> None:
        """Ends the connection; nobody is to hear of it."""
        self._closed = True
        self._greeting = None
        self.transport.close()

    def abort(self) -> None:
        self._closed = True
        self._greeting = None
        self.request = None
        self._head = None
        self.transport.abort()

    # ---- Upstream

    def start(self, head: RequestHead, authority: bytes, extra: Headers, body: bytes, end: bool) -> None:
        self._reader.expect(head)
        self._tunnel = head.tunnel
        self._chunked = chunked = head.chunked and not head.tunnel
        data = request_bytes(head, head.path, authority, head.headers, extra)
        if chunked:
            data += chunk(body) + LAST_CHUNK if body and end else LAST_CHUNK if end else chunk(body) if body else b""
        else:
            data += body
        self._tcp.written.value += len(data)
        self.transport.write(data)

    def send(self, data: bytes, end: bool, trailers: Headers | None) -> None:
        if self._chunked:
            framed = chunk(data) if data else b""
            if end:
                framed += last_chunk(trailers) if trailers else LAST_CHUNK
            data = framed
        if data:
            self._tcp.written.value += len(data)
            self.transport.write(data)
        if end and self._tunnel:
            self.transport.write_eof()

    def release(self) -> Connection | None:
        """What is left of the response is read and thrown away; the connection is given back only then."""
        self.request = None
        return self._account

    def cancel(self) -> Connection | None:
        self.abort()
        return self._account

    def pause(self, paused: bool) -> None:
        if paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # ---- ResponseSink

    def response_interim(self, head: ResponseHead) -> None:
        if self.request is not None:
            self.request.client.interim(head)

    def response_head(self, head: ResponseHead) -> None:
        if self.serving and self._head is None and self.request is not None:
            self._head = head
            self.request.response_head(head, False)
        else:
            self._over = True
            self._head = None  # a second response to one request: not reusable

    def response_body(self, data: bytes) -> None:
        if self._over:
            return  # of a response that nobody asked for
        if self.request is not None:
            self.request.response_body(data)
        else:
            self._drained += len(data)

    def response_end(self, trailers: Headers | None) -> None:
        self._over = True
        self._trailers = trailers

    # ---- inside

    def _finish(self, reusable: bool) -> None:
        self._over = False
        self._head = None
        self._served += 1
        request, self.request = self.request, None
        reusable = reusable and self.private is None
        if request is not None:
            reusable = reusable and request.body_done
            kept: Connection | None = self if reusable else self._account
            request.response_end(self._trailers, kept)
        else:
            self._driver.drained(self, reusable)
        if not reusable:
            self.close()

    def _broken(self, error: Exception | None) -> None:
        """The connection ended, or made no sense, in the middle of an exchange."""
        self._closed = True
        request, self.request = self.request, None
        begun = self._reader.started
        self._head = None
        if request is None:
            self._driver.drained(self, False)
            return
        rejected = not self._served and isinstance(error, ssl.SSLError)
        if rejected:
            self._driver.rejected(error)
        stale = self._served > 0 and request.idempotent
        if not begun and (rejected or stale) and request.can_resend():
            request.returned_unsent(self._account)
        else:
            request.try_broken(Cause.CONNECT, self._account)
