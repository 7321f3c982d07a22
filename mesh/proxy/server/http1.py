"""A client's HTTP/1 connection: requests in, in order; responses out, in order.

    bytes ──► RequestReader ──► Request (one at a time; pipelined ones wait their turn)
    bytes ◄── one write per read ◄── whatever the request answers

Requests that arrive while one is being served are parsed and queued, and reading stops until their turn comes, so that
a pipelining client is served in order and cannot fill memory. While a request is served alone, reading goes on, because
that is how a client that went away is noticed.

After a positive answer to an upgrade or a CONNECT the connection is a pipe: bytes are the request's body and the
response's body, and each side may close its half.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from mesh.behavior.outcome import Cause
from mesh.proxy.server import HEAD_TIMEOUT_SECONDS, Service, Transport
from mesh.proxy.session import Session
from mesh.proxy.telemetry import TcpSeries
from mesh.proxy.wire.errors import ANSWERS, Answer, AnyCause, Refused, answer_bytes
from mesh.proxy.wire.http1 import (
    CONTINUE,
    LAST_CHUNK,
    RequestReader,
    chunk,
    interim_bytes,
    last_chunk,
    response_bytes,
)
from mesh.proxy.wire.http1_fields import MessageError
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

if TYPE_CHECKING:
    from mesh.proxy.request import Request


class ServerConnection(asyncio.Protocol):
    """One accepted connection that speaks HTTP/1."""

    __slots__ = (
        "_arriving",
        "_chunked_out",
        "_close_after",
        "_closing",
        "_head_deadline",
        "_out",
        "_paused",
        "_reader",
        "_refusal",
        "_service",
        "_tcp",
        "_tunnel",
        "_waiting",
        "current",
        "session",
        "transport",
        "write_paused",
    )

    def __init__(self, service: Service, session: Session, tcp: TcpSeries, strip: frozenset[bytes]) -> None:
        self._service = service
        self._tcp = tcp
        self._reader = RequestReader(self, strip)
        self.session = session
        self.transport: Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self.current: Request | None = None
        self._arriving: Request | None = None
        self._waiting: deque[Request] = deque()
        self._out: list[bytes] = []
        self._closing = False
        self._paused = False
        self._chunked_out = False
        self._close_after = False
        self._tunnel = False
        self.write_paused = False
        self._refusal: AnyCause | None = None
        self._head_deadline: asyncio.TimerHandle | None = None

    # ---- asyncio.Protocol, or the upper side of a TLS shim

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # a shim, too
        self.transport = transport
        self._tcp.opened.value += 1
        self._service.connection_opened(self)

    def data_received(self, data: bytes) -> None:
        self._tcp.read.value += len(data)
        if self._closing:
            return
        current = self.current
        reader = self._reader
        try:
            reader.feed(data)
        except MessageError as error:
            self._refuse(error.cause)
            return
        if current is not None:
            current.body_flush()
        if self._waiting:
            self._next()
        if reader.in_head is not (self._head_deadline is not None):
            self._watch_head(reader.in_head)

    def eof_received(self) -> bool:
        """A client that closes its half is gone, as with hyper's default; but a pipe has two halves."""
        if self._tunnel and self.current is not None:
            self.current.body_end(None)
            self.current.body_flush()
            return True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._tcp.closed.value += 1
        self._watch_head(False)
        self._waiting.clear()
        current, self.current = self.current, None
        if current is not None:
            current.client_gone()
        self._reader.release()
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

    def request_end(self, trailers: Headers | None) -> None:
        arriving = self._arriving
        if arriving is not None and not arriving.head.tunnel:
            arriving.body_end(trailers)
            if not arriving.head.keep_alive:
                self._closing = True  # whatever follows was never promised an answer
            self._arriving = None

    # ---- Client, for the request being served

    def interim(self, head: ResponseHead) -> None:
        if not self.current or not self.current.head.http_1_0:
            self.transport.write(interim_bytes(head))

    def respond(self, request: Request, head: ResponseHead) -> None:
        ask = request.head
        if ask.tunnel:
            if head.status == 101 or (ask.method == "CONNECT" and head.status < 300):
                self._open_tunnel(request, head)
                return
            self._arriving = None
        framed = head.bodyless or head.content_length is not None
        self._chunked_out = not framed and not ask.http_1_0
        self._close_after = (
            not ask.keep_alive
            or self._service.draining
            or not request.body_done
            or ask.tunnel
            or (not framed and ask.http_1_0)
        )
        chunked = self._chunked_out or (head.chunked and head.bodyless and not ask.http_1_0)
        self._out.append(response_bytes(head, chunked=chunked, close=self._close_after, http_1_0=ask.http_1_0))

    def send(self, data: bytes) -> None:
        self._out.append(chunk(data) if self._chunked_out else data)

    def end(self, request: Request, trailers: Headers | None) -> None:
        if self._chunked_out:
            self._out.append(last_chunk(trailers) if trailers and request.head.te_trailers else LAST_CHUNK)
            self._chunked_out = False
        self.flush()
        self._finished(self._close_after or self._tunnel)

    def answer(self, request: Request, answer: Answer) -> None:
        ask = request.head
        close = answer.close or not ask.keep_alive or self._service.draining or not request.body_done or ask.tunnel
        self._out.append(answer_bytes(answer, informational=self.session.informational, close=close))
        self.flush()
        self._finished(close)

    def break_off(self) -> None:
        self.flush()
        self._closing = True
        self.current = None
        self._waiting.clear()
        self.transport.abort()

    def hold_body(self, hold: bool) -> None:
        if hold != self._paused:
            self._paused = hold
            if hold:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def taken(self, size: int) -> None:
        """Reading is paused and resumed as a whole; pieces are not counted."""

    def flush(self) -> None:
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._tcp.written.value += len(data)
            self.transport.write(data)

    def hand_over(self, make: Callable[[Callable[[Cause], None]], asyncio.Protocol]) -> None:
        """The current request was a CONNECT: whoever `make` makes has the connection from now on. It is given a way
        to have us answer instead, as long as it has sent nothing."""
        self._closing = True
        self.current = self._arriving = None
        self._watch_head(False)
        self._service.connection_closed(self)
        transport = cast("asyncio.Transport", self.transport)
        upper = make(self._answer_tunnel)
        transport.set_protocol(upper)
        upper.connection_made(transport)
        held = self._reader.take_held()
        if held:
            upper.data_received(held)

    def _answer_tunnel(self, cause: Cause) -> None:
        self._service.refused(cause)
        self._answer_refusal(cause)

    # ---- for the service

    def drain(self) -> None:
        if self.current is None and not self._waiting:
            self._closing = True
            self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    # ---- inside

    def _next(self) -> None:
        if self.current is not None:
            self.hold_body(True)
            return
        request = self.current = self._waiting.popleft()
        if self._paused and not self._waiting:
            self.hold_body(False)
        if request.head.expect_continue and not request.body_done:
            self.transport.write(CONTINUE)
        request.begin()

    def _finished(self, close: bool) -> None:
        """The current request is answered."""
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
            self.hold_body(False)

    def _open_tunnel(self, request: Request, head: ResponseHead) -> None:
        self._tunnel = True
        self._chunked_out = False
        self._out.append(response_bytes(head, chunked=False, close=False, http_1_0=False))
        self.flush()
        self._reader.switch_to_raw()
        request.body_flush()

    def _watch_head(self, arriving: bool) -> None:
        """A head that has begun must end."""
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None
        if arriving:
            self._head_deadline = self._service.loop.call_later(HEAD_TIMEOUT_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_deadline = None
        if not self._closing:
            self._refuse(Refused.HEAD_TIMEOUT)

    def _refuse(self, cause: AnyCause) -> None:
        """Answers what could not be read, after the requests before it have had their answers."""
        self._closing = True
        self._watch_head(False)
        self._service.refused(cause)
        broken, self._arriving = self._arriving, None
        current = self.current
        if broken is not None and broken is current:
            # Its own body makes no sense: whoever serves it must not hear of an end.
            self.current = None
            responding = current.responding
            current.client_gone()
            if responding:
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
        self._out.append(answer_bytes(ANSWERS[cause], informational=self.session.informational, close=True))
        self.flush()
        self.transport.close()
