"""A client's HTTP/2 connection: each stream is a request, all share one flow of frames.

Flow control is the back-pressure both ways: a request's body is credited when it was passed on, and a response waits in
its stream while the client's window is shut, which stops the reading of its source.

Frames are written once for each turn of the loop. Shutting down says GOAWAY, lets the streams under way finish, and
closes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mesh.proxy.server import HEAD_TIMEOUT_SECONDS, Service, Transport
from mesh.proxy.session import Session
from mesh.proxy.telemetry import TcpSeries
from mesh.proxy.wire.errors import ANSWERS, Answer, AnyCause, Refused, answer_head, grpc_answer_head
from mesh.proxy.wire.http2 import H2Connection
from mesh.proxy.wire.http2_frames import ENHANCE_YOUR_CALM, INTERNAL_ERROR, NO_ERROR, H2ConnectionError
from mesh.proxy.wire.http2_limits import H2Settings
from mesh.proxy.wire.http2_stream import Stream
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

if TYPE_CHECKING:
    from mesh.proxy.request import Request

SETTINGS = H2Settings()


class ServerStream(Stream):
    """One request of a client, and where its answer goes."""

    __slots__ = ("_head", "_out", "owner", "request", "session")

    def __init__(self, owner: ServerConnection) -> None:
        super().__init__()
        self.owner = owner
        self.session = owner.session
        self.request: Request | None = None
        self._head: ResponseHead | None = None
        self._out: list[bytes] = []

    # ---- the machine's callbacks

    def head_received(self, head: RequestHead | ResponseHead, end: bool) -> None:
        assert isinstance(head, RequestHead)
        owner = self.owner
        strip = owner.strip
        for name, _ in head.headers:
            if name in strip:
                head.headers = [entry for entry in head.headers if entry[0] not in strip]
                break
        request = self.request = owner.service.request(self, head)
        if end:
            request.body_end(None)
        request.begin()

    def data_received(self, data: bytes, end: bool) -> None:
        request = self.request
        if request is None:
            self.consumed(len(data))
            return
        if data:
            request.body(data)
        if end:
            request.body_end(None)
        request.body_flush()

    def trailers_received(self, trailers: Headers) -> None:
        request = self.request
        if request is not None:
            request.body_end(trailers)
            request.body_flush()

    def reset_received(self, code: int) -> None:
        request, self.request = self.request, None
        if request is not None:
            request.client_gone()

    def refused(self, cause: AnyCause) -> None:
        """The head cannot be served."""
        self.owner.service.refused(cause)
        self.send_response(answer_head(ANSWERS[cause], informational=self.session.informational), [], True)

    def window_opened(self) -> None:
        if self.request is not None and not self.owner.write_paused:
            self.request.client_paused(False)

    # ---- Client

    @property
    def write_paused(self) -> bool:
        return self.blocked or self.owner.write_paused

    def interim(self, head: ResponseHead) -> None:
        self.send_response(head, [], False)
        self.owner.touch()

    def respond(self, request: Request, head: ResponseHead) -> None:
        self._head = head

    def send(self, data: bytes) -> None:
        self._out.append(data)

    def end(self, request: Request, trailers: Headers | None) -> None:
        self.request = None
        head, self._head = self._head, None
        out = self._out
        if head is not None:
            self.send_response(head, [], not out and not trailers)
        if trailers:
            if out:
                self.send_data(b"".join(out), False)
            self.send_trailers(trailers)
        elif out or head is None:
            self.send_data(out[0] if len(out) == 1 else b"".join(out), True)
        out.clear()
        if not request.body_done:
            self.reset(NO_ERROR)  # RFC 9113 section 8.1: the answer is complete and the rest of the body not wanted
        self.owner.touch()

    def answer(self, request: Request, answer: Answer) -> None:
        self.request = None
        make = grpc_answer_head if request.head.is_grpc else answer_head
        self.send_response(make(answer, informational=self.session.informational), [], True)
        if not request.body_done:
            self.reset(NO_ERROR)
        self.owner.touch()

    def break_off(self) -> None:
        self.flush()
        self.request = None
        self.reset(INTERNAL_ERROR)
        self.owner.touch()

    def hold_body(self, hold: bool) -> None:
        """Credit that is not given back holds it."""

    def taken(self, size: int) -> None:
        self.consumed(size)
        self.owner.touch()

    def flush(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            self.send_response(head, [], False)
        out = self._out
        if out:
            self.send_data(out[0] if len(out) == 1 else b"".join(out), False)
            out.clear()
            if self.blocked and self.request is not None:
                self.request.client_paused(True)
        self.owner.touch()


class ServerConnection(asyncio.Protocol):
    """One accepted connection that speaks HTTP/2."""

    __slots__ = (
        "_closing",
        "_dirty",
        "_drained",
        "_draining",
        "_feeding",
        "_h2",
        "_head_deadline",
        "_tcp",
        "service",
        "session",
        "strip",
        "transport",
        "write_paused",
    )

    def __init__(self, service: Service, session: Session, tcp: TcpSeries, strip: frozenset[bytes]) -> None:
        self.service = service
        self.session = session
        self.strip = strip
        self._tcp = tcp
        self._h2 = H2Connection(self, SETTINGS, client=False)
        self.transport: Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self.write_paused = False
        self._head_deadline: asyncio.TimerHandle | None = None
        self._closing = False
        self._draining = False
        self._drained = False
        """The final GOAWAY is out: no stream will come any more."""
        self._dirty = False
        self._feeding = False

    # ---- asyncio.Protocol, or the upper side of a TLS shim

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # a shim, too
        self.transport = transport
        self._tcp.opened.value += 1
        self.service.connection_opened(self)
        self._h2.start()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._tcp.read.value += len(data)
        if self._closing:
            return
        self._feeding = True
        try:
            self._h2.feed(data)
        except H2ConnectionError:
            self._closing = True
        finally:
            self._feeding = False
        self._flush()
        if self._closing:
            self.transport.close()
        elif self._h2.in_head is not (self._head_deadline is not None):
            self._watch_head(self._h2.in_head)

    def eof_received(self) -> None:
        """A client that closes its half is gone."""

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._tcp.closed.value += 1
        self._watch_head(False)
        self._h2.lost()
        self.service.connection_closed(self)

    def pause_writing(self) -> None:
        self.write_paused = True
        self._pause_all(True)

    def resume_writing(self) -> None:
        self.write_paused = False
        self._pause_all(False)

    # ---- H2Sink

    def accept_stream(self) -> Stream | None:
        return ServerStream(self)

    def settings_received(self, max_concurrent: int) -> None:
        """How many streams the client takes is of no concern: none are pushed."""

    def goaway_received(self, last_stream_id: int, code: int) -> None:
        self._draining = self._drained = True  # the client opens no more

    def pong_received(self, opaque: bytes) -> None:
        """The round trip after the first GOAWAY: whatever the client had sent by then is here."""
        if self._draining and not self._closing:
            self._h2.goaway_final()
            self._drained = True

    # ---- for the service

    def drain(self) -> None:
        if self._draining or self._closing:
            return
        self._draining = True
        self._h2.goaway()
        self._h2.ping(b"draining")
        self._flush()

    def abort(self) -> None:
        self.transport.abort()

    # ---- inside

    def touch(self) -> None:
        """Something is to be written: see to it at the end of this turn of the loop."""
        if not self._dirty and not self._feeding:
            self._dirty = True
            self.service.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._dirty = False
        data = self._h2.output()
        if data:
            self._tcp.written.value += len(data)
            self.transport.write(data)
        if self._drained and not self._closing and not self._h2.streams:
            self._closing = True
            self.transport.close()

    def _watch_head(self, arriving: bool) -> None:
        """A preface or header block that has begun must end."""
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None
        if arriving:
            self._head_deadline = self.service.loop.call_later(HEAD_TIMEOUT_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_deadline = None
        self._closing = True
        self.service.refused(Refused.HEAD_TIMEOUT)
        self._h2.goaway(ENHANCE_YOUR_CALM)
        self._flush()
        self.transport.close()

    def _pause_all(self, paused: bool) -> None:
        for stream in list(self._h2.streams.values()):
            assert isinstance(stream, ServerStream)
            if stream.request is not None and not (stream.blocked and not paused):
                stream.request.client_paused(paused)
