"""The admin port, plain HTTP as Linkerd's 4191.

    GET  /live /ready         for the kubelet
    GET  /metrics             in slices: the loop serves requests between two of them
    GET  /env.json            our own variables, without secrets; ?name= picks
    GET  /failures.json       the flight recorder, newest first; ?limit=
    GET  /proxy-log-level     the filter in force       loopback only
    PUT  /proxy-log-level     another filter            loopback only
    POST /shutdown            drains and exits          loopback only, and only where config allows it

Built on the same reader as the data path, so there is one HTTP parser in the process. All answers but the metrics are
made at once. A client that does not read its metrics holds one slice of them and no more, and is cut off in the end.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qs

import msgspec

from mesh.proxy.config import PREFIX
from mesh.proxy.log import InvalidFilter, LogControl, parse_filter
from mesh.proxy.metrics import Registry
from mesh.proxy.recorder import Recorder
from mesh.proxy.wire.http1 import RequestReader
from mesh.proxy.wire.http1_fields import MessageError
from mesh.proxy.wire.message import Headers, RequestHead

SECRET_MARKS = ("TOKEN", "KEY")
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
MAX_BODY_BYTES = 64 * 1024
MAX_PIPELINED = 32
IDLE_SECONDS = 120.0
"""Longer than scrape intervals are, so that Prometheus can keep its connection."""

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


class Admin:
    """Answers admin requests."""

    def __init__(
        self,
        registry: Registry,
        ready: Callable[[], bool],
        environment: Mapping[str, str],
        *,
        recorder: Recorder | None = None,
        log: LogControl | None = None,
        shutdown: Callable[[], None] | None = None,
    ) -> None:
        """`shutdown`: begins to drain; None: the endpoint is disabled."""
        self._registry = registry
        self._ready = ready
        self._recorder = recorder
        self._log = log if log is not None else LogControl()
        self._shutdown = shutdown
        self._environment = {
            name: value
            for name, value in environment.items()
            if name.startswith(PREFIX) and not name.endswith(SECRET_MARKS)
        }

    def accept(self) -> AdminConnection:
        return AdminConnection(self)

    def metrics(self) -> Iterator[bytes]:
        """The exposition, slice by slice."""
        return self._registry.pieces()

    def answer(self, method: str, path: str, body: bytes, loopback: bool) -> Answer:
        """The answer to anything (to /metrics: the whole exposition at once)."""
        route, _, query = path.partition("?")
        if route == "/proxy-log-level":
            return self._log_level(method, body, loopback)
        if route == "/shutdown":
            return self._shut_down(method, loopback)
        read = self._reads.get(route)
        if read is None:
            return 404, "text/plain", b"not found\n"
        if method not in ("GET", "HEAD"):
            return 405, "text/plain", b"only GET\n"
        return read(self, parse_qs(query))

    def _live(self, query: dict[str, list[str]]) -> Answer:
        return 200, "text/plain", b"live\n"

    def _readiness(self, query: dict[str, list[str]]) -> Answer:
        return (200, "text/plain", b"ready\n") if self._ready() else (503, "text/plain", b"not ready\n")

    def _exposition(self, query: dict[str, list[str]]) -> Answer:
        return 200, EXPOSITION, b"".join(self.metrics())

    def _env(self, query: dict[str, list[str]]) -> Answer:
        wanted = query.get("name")
        shown = {n: v for n, v in self._environment.items() if not wanted or n in wanted}
        return 200, "application/json", json.dumps(shown, indent=2).encode()

    def _failures(self, query: dict[str, list[str]]) -> Answer:
        if self._recorder is None:
            return 404, "text/plain", b"not found\n"
        text = query.get("limit", [""])[0]
        if text and not text.isdecimal():
            return 400, "text/plain", b"limit: a whole number\n"
        failures = self._recorder.failures(int(text) if text else None)
        document = {"total": self._recorder.total, "failures": failures}
        return 200, "application/json", msgspec.json.format(msgspec.json.encode(document)) + b"\n"

    _reads: Mapping[str, Callable[[Admin, dict[str, list[str]]], Answer]] = {
        "/live": _live,
        "/ready": _readiness,
        "/metrics": _exposition,
        "/env.json": _env,
        "/failures.json": _failures,
    }

    def _log_level(self, method: str, body: bytes, loopback: bool) -> Answer:
        if not loopback:
            return 403, "text/plain", b"loopback only\n"
        if method in ("GET", "HEAD"):
            return 200, "text/plain", f"{self._log.text}\n".encode()
        if method != "PUT":
            return 405, "text/plain", b"GET or PUT\n"
        try:
            self._log.apply(parse_filter(body.decode("latin-1")))
        except InvalidFilter as error:
            return 400, "text/plain", f"{error}\n".encode()
        return 204, "text/plain", b""

    def _shut_down(self, method: str, loopback: bool) -> Answer:
        if self._shutdown is None:
            return 404, "text/plain", b"the shutdown endpoint is not enabled\n"
        if not loopback:
            return 403, "text/plain", b"loopback only\n"
        if method != "POST":
            return 405, "text/plain", b"only POST\n"
        self._shutdown()
        return 200, "text/plain", b"shutdown\n"


class AdminConnection(asyncio.Protocol):
    """One client of the admin port."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._reader = RequestReader(self)
        self._head: RequestHead | None = None
        self._body = b""
        self._waiting: deque[tuple[RequestHead, bytes]] = deque()
        self._out: list[bytes] = []
        self._closing = False
        self._pieces: Iterator[bytes] | None = None
        self._chunked = False
        self._scheduled = False
        self._paused = False
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self._loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # likewise
        self._idle: asyncio.TimerHandle | None = None
        self._loopback = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._loop = asyncio.get_running_loop()
        peer = self._transport.get_extra_info("peername")
        host = str(peer[0]).removeprefix("::ffff:") if peer else ""
        self._loopback = host.startswith("127.") or host == "::1"
        self._active()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._active()
        refused = False
        try:
            self._reader.feed(data)
        except MessageError:
            refused = True
        self._serve()
        if refused and not self._closing:
            self._closing = True
            if self._pieces is None:
                self._out.append(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                self._flush()
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._pieces = None
        self._waiting.clear()
        self._reader.release()
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._active()
        if self._pieces is not None:
            self._schedule()

    # ---- RequestSink

    def request_head(self, head: RequestHead) -> None:
        self._head = head
        self._body = b""

    def request_body(self, data: bytes) -> None:
        self._body = (self._body + data)[:MAX_BODY_BYTES]

    def request_end(self, trailers: Headers | None = None) -> None:
        assert self._head is not None
        if len(self._waiting) < MAX_PIPELINED:
            self._waiting.append((self._head, self._body))
        else:
            self._transport.abort()

    # ---- answering

    def _serve(self) -> None:
        """Answers in order what has arrived; a streamed answer is waited for."""
        while self._waiting and self._pieces is None and not self._closing:
            head, body = self._waiting.popleft()
            path = head.path.decode("latin-1")
            keep = head.keep_alive
            if head.method == "GET" and path.partition("?")[0] == "/metrics":
                self._begin_stream(head)
                break
            status, kind, content = self._admin.answer(head.method, path, body, self._loopback)
            length = f"content-length: {len(content)}\r\n" if status != 204 else ""
            self._head_out(status, kind, length, keep)
            if head.method != "HEAD":
                self._out.append(content)
            self._closing = not keep
        self._flush()
        if self._closing and self._pieces is None:
            self._transport.close()

    def _begin_stream(self, head: RequestHead) -> None:
        self._chunked = not head.http_1_0
        keep = head.keep_alive and self._chunked
        self._closing = not keep
        self._head_out(200, EXPOSITION, "transfer-encoding: chunked\r\n" if self._chunked else "", keep)
        self._flush()
        self._pieces = self._admin.metrics()
        self._transport.pause_reading()
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """One slice in each turn of the loop, as long as the client reads."""
        self._scheduled = False
        pieces = self._pieces
        if pieces is None or self._paused:
            return
        piece = next(pieces, None)
        if piece is not None:
            if piece:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)
            self._schedule()
            return
        self._pieces = None
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        if self._closing:
            self._transport.close()
        else:
            self._transport.resume_reading()
            self._serve()

    def _head_out(self, status: int, kind: str, framing: str, keep: bool) -> None:
        connection = "" if keep else "connection: close\r\n"
        phrase = HTTPStatus(status).phrase
        self._out.append(f"HTTP/1.1 {status} {phrase}\r\ncontent-type: {kind}\r\n{framing}{connection}\r\n".encode())

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def _active(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._loop.call_later(IDLE_SECONDS, self._transport.abort)
