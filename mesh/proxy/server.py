"""A client's connection: requests in, in order; responses out, in order.

    bytes ──► RequestReader ──► Request (one at a time; pipelined ones wait their turn)
    bytes ◄── one write per read ◄── whatever the request answers

Requests that arrive while one is being served are parsed and queued, and reading stops until their turn comes, so that
a pipelining client is served in order and cannot fill memory. While a request is served alone, reading goes on, because
that is how a client that went away is noticed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from mesh.proxy.request import Request
from mesh.proxy.telemetry import TcpSeries
from mesh.proxy.wire.errors import ANSWERS, AnyCause, answer_bytes
from mesh.proxy.wire.http1 import CONTINUE, MessageError, RequestHead, RequestReader


class Transport(Protocol):
    """What is asked of an asyncio transport or a TLS shim."""

    def write(self, data: bytes, /) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Service(Protocol):
    """Whoever serves the requests of a connection: the outbound or the inbound side."""

    draining: bool

    def request(self, client: ServerConnection, head: RequestHead) -> Request: ...
    def refused(self, cause: AnyCause) -> None: ...
    def connection_opened(self, connection: ServerConnection) -> None: ...
    def connection_closed(self, connection: ServerConnection) -> None: ...


class ServerConnection(asyncio.Protocol):
    """One accepted connection that speaks HTTP/1."""

    __slots__ = (
        "_arriving",
        "_closing",
        "_out",
        "_paused",
        "_reader",
        "_refusal",
        "_service",
        "_waiting",
        "current",
        "informational",
        "peer",
        "peer_identity",
        "tcp",
        "transport",
        "write_paused",
    )

    def __init__(
        self,
        service: Service,
        tcp: TcpSeries,
        strip: frozenset[bytes],
        peer_identity: str | None = None,
        informational: bool = True,
    ) -> None:
        self._service = service
        self.tcp = tcp
        self._reader = RequestReader(self, strip)
        self.peer_identity = peer_identity
        self.peer = ""
        self.informational = informational
        """Whether this client may see the proxy's own headers."""
        self.transport: Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self.current: Request | None = None
        self._arriving: Request | None = None
        self._waiting: deque[Request] = deque()
        self._out: list[bytes] = []
        self._closing = False
        self._paused = False
        self.write_paused = False
        self._refusal: AnyCause | None = None

    @property
    def draining(self) -> bool:
        return self._service.draining

    # ---- asyncio.Protocol, or the upper side of a TLS shim

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # a shim, too
        self.transport = transport
        self.tcp.opened.value += 1
        self._service.connection_opened(self)

    def data_received(self, data: bytes) -> None:
        self.tcp.read.value += len(data)
        if self._closing:
            return
        current = self.current
        try:
            self._reader.feed(data)
        except MessageError as error:
            self._refuse(error.cause)
            return
        if current is not None:
            current.body_flush()
        if self._waiting:
            self._next()

    def eof_received(self) -> None:
        """A client that closes its half is gone, as with hyper's default."""

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self.tcp.closed.value += 1
        self._waiting.clear()
        current, self.current = self.current, None
        if current is not None:
            current.client_gone()
        self._service.connection_closed(self)

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.current is not None:
            self.current.client_paused(True)

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.current is not None:
            self.current.client_paused(False)

    # ---- RequestSink

    def request_head(self, head: RequestHead) -> None:
        self._arriving = self._service.request(self, head)
        self._waiting.append(self._arriving)

    def request_body(self, data: bytes) -> None:
        if self._arriving is not None:
            self._arriving.body(data)

    def request_end(self) -> None:
        if self._arriving is not None:
            self._arriving.body_end()
            if not self._arriving.head.keep_alive:
                self._closing = True  # whatever follows was never promised an answer
            self._arriving = None

    # ---- for the request being served

    def write(self, data: bytes) -> None:
        """Adds to what the next `flush` sends."""
        self._out.append(data)

    def flush(self) -> None:
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self.tcp.written.value += len(data)
            self.transport.write(data)

    def send_continue(self) -> None:
        self.transport.write(CONTINUE)

    def finished(self, close: bool) -> None:
        """The current request is answered."""
        self.flush()
        self.current = None
        if self._refusal is not None and not self._waiting and not close:
            self._answer_refusal(self._refusal)
            return
        if close or (self._service.draining and not self._waiting):
            self._closing = True
            self._waiting.clear()
            self.transport.close()
            return
        if self._waiting:
            self._next()
        elif self._paused:
            self.hold_reading(False)

    def break_off(self) -> None:
        """The response cannot be completed: ends the connection so that the client notices."""
        self.flush()
        self._closing = True
        self.current = None
        self._waiting.clear()
        self.transport.abort()

    def hold_reading(self, hold: bool) -> None:
        if hold != self._paused:
            self._paused = hold
            if hold:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def drain(self) -> None:
        """The proxy is shutting down: goes now if idle, else after the current answer."""
        if self.current is None and not self._waiting:
            self._closing = True
            self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    # ---- inside

    def _next(self) -> None:
        if self.current is not None:
            self.hold_reading(True)
            return
        request = self.current = self._waiting.popleft()
        if self._paused and not self._waiting:
            self.hold_reading(False)
        if request.head.expect_continue and not request.body_done:
            self.send_continue()
        request.begin()

    def _refuse(self, cause: AnyCause) -> None:
        """Answers what could not be read, after the requests before it have had their answers."""
        self._closing = True
        self._service.refused(cause)
        broken, self._arriving = self._arriving, None
        current = self.current
        if broken is not None and broken is current:
            # Its own body makes no sense: whoever serves it must not hear of an end.
            self.current = None
            current.client_gone()
            if current.responding:
                self.break_off()
            else:
                self._answer_refusal(cause)
            return
        if broken is not None:
            self._waiting.pop()
        if current is None and not self._waiting:
            self._answer_refusal(cause)
            return
        self._refusal = cause
        if current is None:
            self._next()

    def _answer_refusal(self, cause: AnyCause) -> None:
        self.write(answer_bytes(ANSWERS[cause], informational=self.informational, close=True))
        self.flush()
        self.transport.close()
