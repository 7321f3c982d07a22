"""The HTTP/1.1 server of the control plane: short answers, and streams of lines that stay open.

One `asyncio.Protocol` a connection, `httptools` for parsing, no task per connection: a mesh of forty pods holds some
hundreds of watches, each silent nearly always. Handlers are plain functions that answer at once, or `Later`.

A stream is bounded. While its reader does not read, lines wait; with more than `MAX_PENDING_LINES` waiting the stream
is cut off and counted (Linkerd: `endpoint_updates_queue_overflow`, 100), and the proxy starts over with a snapshot.
So a stuck proxy costs a fixed amount of memory and never works from a half-applied history.

Rejected: aiohttp (half a second to import, three times the memory), asyncio streams (a task for each connection).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote

import httptools

from mesh.control.metrics import Metrics

MAX_PENDING_LINES = 100
WRITE_BUFFER_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_HEAD_BYTES = 16 * 1024
IDLE_SECONDS = 75.0
"""A connection without request or stream for this long is closed."""
KEEPALIVE_SECONDS = 5.0
HANDSHAKE_SECONDS = 10.0

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    412: "Precondition Failed",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    """Decoded, without the query."""
    body: bytes
    query: str = ""
    """As it was sent."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Watch:
    """A stream is to be opened: `opened` gets it and returns what to do when it ends."""

    opened: Callable[[Stream], Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Later:
    """The answer takes somebody else's word; requests behind it on the connection wait."""

    response: Awaitable[Response]


Handler = Callable[[Request], Response | Watch | Later]


class Stream:
    """One open stream of lines."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, line: bytes) -> None:
        """`line` goes out now, or waits, or the stream is cut off."""
        self._connection.send_line(line)


class HttpServer:
    """Listens on one address. `credentials` None: plain HTTP (admin)."""

    def __init__(
        self,
        name: str,
        handler: Handler,
        metrics: Metrics,
        context: ssl.SSLContext | None = None,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.name = name
        self.max_body_bytes = max_body_bytes
        self.handler = handler
        self.metrics = metrics
        self.connections: set[Connection] = set()
        self._context = context
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None
        metrics.counter("control_server_requests_total", "Requests answered, by server and status")
        metrics.counter("control_stream_overflow_total", "Streams cut off because their reader lagged")

    async def bind(self, host: str, port: int) -> None:
        """Takes the address and accepts nothing yet. Raises OSError when it is taken."""
        loop = asyncio.get_running_loop()
        handshake = HANDSHAKE_SECONDS if self._context is not None else None
        self._server = await loop.create_server(
            lambda: Connection(self),
            host,
            port,
            ssl=self._context,
            ssl_handshake_timeout=handshake,
            start_serving=False,
            backlog=1024,
        )

    async def serve(self) -> None:
        """Accepts from now on."""
        assert self._server is not None, "bind first"
        await self._server.start_serving()
        self._tick()

    @property
    def streams(self) -> int:
        return sum(connection.stream is not None for connection in self.connections)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            connection.tick(loop.time())
        self._ticker = loop.call_later(KEEPALIVE_SECONDS, self._tick)

    async def close(self, timeout: float = 1.0) -> None:
        """Stops accepting, ends every stream properly, and waits a moment for what was written to leave."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.finish()
        deadline = asyncio.get_running_loop().time() + timeout
        while self.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """One client connection: requests one after another, until one of them opens a stream."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._head_bytes = 0
        self._body = bytearray()
        self._complete: deque[tuple[Request, bool]] = deque()
        self._refusal: int | None = None
        self._paused = False
        self._pending: deque[bytes] = deque()
        self._ended: Callable[[], None] | None = None
        self._answering: asyncio.Task[None] | None = None
        self._active_at = 0.0
        self.stream: Stream | None = None

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._active_at = asyncio.get_running_loop().time()
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None
        self._pending.clear()
        if self._answering is not None:
            self._answering.cancel()
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended()

    def data_received(self, data: bytes) -> None:
        if self.stream is not None or self._transport is None:
            return  # nothing is expected after a watch was opened
        self._active_at = asyncio.get_running_loop().time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
            self._refusal = self._refusal or 400
        self._answer_waiting()

    def _answer_waiting(self) -> None:
        while self._complete and self.stream is None and self._answering is None:
            request, keep_alive = self._complete.popleft()
            self._answer(request, keep_alive)
        if self._refusal is not None and self._transport is not None and self._answering is None:
            self._respond(Response(self._refusal, _error(_REASONS[self._refusal])), keep_alive=False)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        while self._pending and not self._paused:
            self._write_chunk(self._pending.popleft())

    # ---- httptools

    def on_message_begin(self) -> None:
        self._url, self._head_bytes, self._body = b"", 0, bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))

    def on_body(self, body: bytes) -> None:
        if len(self._body) + len(body) > self._server.max_body_bytes:
            self._refusal = 413
        else:
            self._body += body

    def on_message_complete(self) -> None:
        if self._refusal is not None:
            return
        url = httptools.parse_url(self._url)
        target, query = url.path or b"/", (url.query or b"").decode("ascii")
        method = self._parser.get_method().decode("ascii")
        request = Request(method, unquote(target.decode("ascii")), bytes(self._body), query)
        self._complete.append((request, self._parser.should_keep_alive()))

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = 431

    # ---- answers

    def _answer(self, request: Request, keep_alive: bool) -> None:
        answer = self._server.handler(request)
        if isinstance(answer, Response):
            self._respond(answer, keep_alive)
            return
        if isinstance(answer, Later):
            loop = asyncio.get_running_loop()
            self._answering = loop.create_task(self._answer_later(answer.response, keep_alive))
            return
        self._count(200)
        self._write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncache-control: no-store\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        self.stream = Stream(self)
        self._complete.clear()
        self._ended = answer.opened(self.stream)

    async def _answer_later(self, awaited: Awaitable[Response], keep_alive: bool) -> None:
        response = await awaited
        self._answering = None
        self._active_at = asyncio.get_running_loop().time()
        self._respond(response, keep_alive)
        self._answer_waiting()

    def _respond(self, response: Response, keep_alive: bool) -> None:
        self._count(response.status)
        head = (
            f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Unknown')}\r\n"
            f"content-type: {response.content_type}\r\ncontent-length: {len(response.body)}\r\n"
        )
        head += "\r\n" if keep_alive else "connection: close\r\n\r\n"
        self._write(head.encode("ascii") + response.body)
        if not keep_alive and self._transport is not None:
            self._transport.close()

    def _count(self, status: int) -> None:
        self._server.metrics.add("control_server_requests_total", server=self._server.name, status=str(status))

    # ---- streams

    def send_line(self, line: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if not self._paused:
            self._write_chunk(line)
            return
        self._pending.append(line)
        if len(self._pending) > MAX_PENDING_LINES:
            self._server.metrics.add("control_stream_overflow_total", server=self._server.name)
            self.abort()

    def tick(self, now: float) -> None:
        """Every few seconds: a blank line where a stream is quiet, the end for a connection that idles."""
        if self.stream is not None:
            if not self._paused:
                self._write_chunk(b"\n")
        elif self._answering is None and now - self._active_at > IDLE_SECONDS and self._transport is not None:
            self._transport.close()

    def finish(self) -> None:
        """Ends the stream as HTTP ends one, and closes."""
        if self._transport is None:
            return
        if self.stream is not None and not self._paused:
            self._write(b"0\r\n\r\n")
        self._transport.close()

    def abort(self) -> None:
        self._pending.clear()
        if self._transport is not None:
            self._transport.abort()

    def _write_chunk(self, line: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(line), line))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _error(text: str) -> bytes:
    return b'{"error":"%b"}' % text.encode("ascii")
