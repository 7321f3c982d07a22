"""HTTP/1.1, the server's side: a connection turns bytes into `Request`s and answers them in order.

Requests of one connection are handled one at a time, pipelined ones wait; a client that goes away does not cancel the
work it asked for, as with most servers, unless the handler asks to be told. Of the headers only those that callers
propagate are kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import httptools

PROPAGATED = frozenset(
    {
        b"traceparent",
        b"tracestate",
        b"b3",
        b"x-b3-traceid",
        b"x-b3-spanid",
        b"x-b3-parentspanid",
        b"x-b3-sampled",
        b"x-b3-flags",
        b"x-request-id",
    }
)
_MAX_HEAD_BYTES = 64 * 1024
_MAX_BODY_KEPT = 64 * 1024
_MAX_PIPELINED = 8
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Content Too Large",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


class Request:
    """One request. `trace` are its propagated headers, as lines ready to be sent on."""

    __slots__ = ("_connection", "_keep_alive", "body", "gone", "method", "path", "trace")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keep_alive = True
        self.method = ""
        self.path = ""
        self.trace = b""
        self.body = b""
        self.gone: Callable[[], None] | None = None
        """Called where the client leaves before it has its answer."""

    def respond(self, status: int, body: bytes, content_type: bytes = b"application/json") -> None:
        """Answers. Without effect where the client is gone."""
        self._connection.respond(self, status, body, content_type)


Handler = Callable[[Request], None]


class Connection(asyncio.Protocol):
    """One client's connection. `open_connections` is the server's set of them, kept up to date here."""

    def __init__(self, handle: Handler, open_connections: set[Connection], *, keeps_body: bool = False) -> None:
        self._handle = handle
        self._open = open_connections
        self._keeps_body = keeps_body
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request(self)
        self._url = b""
        self._head_bytes = 0
        self._in_head = True
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._current: Request | None = None
        self._waiting: deque[Request] = deque()
        self._closing = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        self._open.discard(self)
        current = self._current
        if current is not None and current.gone is not None:
            self._current = None
            current.gone()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(431)
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # no upgrade is offered: the request was answered as it stands, and the connection ends with it
        except httptools.HttpParserError:
            self._refuse(400)

    # ---- httptools

    def on_message_begin(self) -> None:
        self._request = Request(self)
        self._url = b""
        self._in_head = True
        self._body = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        if lowered in PROPAGATED:
            self._request.trace += lowered + b": " + value + b"\r\n"
        elif lowered == b"expect" and value.lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        if not self._keeps_body:
            return
        self._body_bytes += len(body)
        if self._body_bytes <= _MAX_BODY_KEPT:
            self._body.append(body)

    def on_message_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method().decode("ascii", "replace")
        request.path = _path_of(self._url)
        request.body = b"".join(self._body)
        request._keep_alive = (
            self._parser.should_keep_alive()
            and self._parser.get_http_version() == "1.1"
            and not self._parser.should_upgrade()
        )
        self._in_head = True
        if self._current is not None:
            self._waiting.append(request)
            if len(self._waiting) >= _MAX_PIPELINED and self._transport is not None:
                self._transport.pause_reading()
        elif not self._closing:
            self._begin(request)

    # ---- answering

    def _begin(self, request: Request) -> None:
        self._current = request
        if self._body_bytes > _MAX_BODY_KEPT:
            request.respond(413, b'{"error":"body too large"}')
        else:
            self._handle(request)

    def respond(self, request: Request, status: int, body: bytes, content_type: bytes) -> None:
        self._current = None
        transport = self._transport
        if transport is None:
            return
        keep = request._keep_alive and not self._closing
        head = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n" % (
            status,
            _REASONS.get(status, b"Status"),
            content_type,
            len(body),
            b"" if keep else b"connection: close\r\n",
        )
        transport.write(head if request.method == "HEAD" else head + body)
        if not keep:
            self._closing = True
            transport.close()
        elif self._waiting:
            self._begin(self._waiting.popleft())
            if len(self._waiting) == _MAX_PIPELINED - 1:
                transport.resume_reading()

    def finish(self) -> None:
        """Ends the connection when its request is answered; at once where there is none."""
        self._closing = True
        if self._current is None and self._transport is not None:
            self._transport.close()

    def _refuse(self, status: int) -> None:
        """Answers bytes that are no request, and closes."""
        self._closing = True
        if self._transport is not None:
            reason = _REASONS[status]
            if self._current is None:
                self._transport.write(
                    b"HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % (status, reason)
                )
            self._transport.close()


def _path_of(url: bytes) -> str:
    """The path of a request target, absolute form included, without its query."""
    target: Any = url
    if not target.startswith(b"/"):
        try:
            target = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return ""
    path: str = target.partition(b"?")[0].decode("latin-1")
    return path
