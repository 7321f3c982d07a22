"""The admin port: /live, /ready, /metrics, /env.json, /proxy-log-level. Plain HTTP, as Linkerd's 4191.

Built on the same reader as the data path, so there is one HTTP parser in the process. Answers are made at once and held
in memory; nothing here waits.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qs

from mesh.proxy.config import LOG_LEVELS, PREFIX
from mesh.proxy.metrics import Registry
from mesh.proxy.wire.http1 import RequestReader
from mesh.proxy.wire.http1_fields import MessageError
from mesh.proxy.wire.message import Headers, RequestHead

LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
SECRET_MARKS = ("TOKEN", "KEY")
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
MAX_BODY_BYTES = 64 * 1024


class Admin:
    """Answers admin requests."""

    def __init__(self, registry: Registry, ready: Callable[[], bool], environment: Mapping[str, str]) -> None:
        self._registry = registry
        self._ready = ready
        self._environment = {
            name: value
            for name, value in environment.items()
            if name.startswith(PREFIX) and not name.endswith(SECRET_MARKS)
        }

    def accept(self) -> AdminConnection:
        return AdminConnection(self)

    def answer(self, method: str, path: str, body: bytes, loopback: bool) -> tuple[int, str, bytes]:
        """Status, content type, body."""
        route, _, query = path.partition("?")
        if route == "/proxy-log-level":
            return self._log_level(method, body, loopback)
        if method not in ("GET", "HEAD"):
            return 405, "text/plain", b"only GET\n"
        if route == "/live":
            return 200, "text/plain", b"live\n"
        if route == "/ready":
            return (200, "text/plain", b"ready\n") if self._ready() else (503, "text/plain", b"not ready\n")
        if route == "/metrics":
            return 200, EXPOSITION, self._registry.render()
        if route == "/env.json":
            wanted = parse_qs(query).get("name")
            shown = {n: v for n, v in self._environment.items() if not wanted or n in wanted}
            return 200, "application/json", json.dumps(shown, indent=2).encode()
        return 404, "text/plain", b"not found\n"

    def _log_level(self, method: str, body: bytes, loopback: bool) -> tuple[int, str, bytes]:
        if not loopback:
            return 403, "text/plain", b"loopback only\n"
        root = logging.getLogger()
        if method == "GET":
            name = next(name for name, level in LEVELS.items() if level == root.level)
            return 200, "text/plain", f"{name}\n".encode()
        if method != "PUT":
            return 405, "text/plain", b"GET or PUT\n"
        name = body.decode("latin-1").strip().lower()
        if name not in LEVELS:
            return 400, "text/plain", f"known levels: {', '.join(LOG_LEVELS)}\n".encode()
        root.setLevel(LEVELS[name])
        return 204, "text/plain", b""


class AdminConnection(asyncio.Protocol):
    """One client of the admin port."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._reader = RequestReader(self)
        self._head: RequestHead | None = None
        self._body = b""
        self._out: list[bytes] = []
        self._close = False
        self._transport: asyncio.Transport | None = None
        self._loopback = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        peer = self._transport.get_extra_info("peername")
        self._loopback = bool(peer) and (str(peer[0]).startswith("127.") or peer[0] == "::1")

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._close:
            return
        try:
            self._reader.feed(data)
        except MessageError:
            self._out.append(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self._close = True
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
        if self._close:
            self._transport.close()

    # ---- RequestSink

    def request_head(self, head: RequestHead) -> None:
        self._head = head
        self._body = b""

    def request_body(self, data: bytes) -> None:
        self._body = (self._body + data)[:MAX_BODY_BYTES]

    def request_end(self, trailers: Headers | None) -> None:
        head = self._head
        assert head is not None
        status, kind, body = self._admin.answer(head.method, head.path.decode("latin-1"), self._body, self._loopback)
        self._close = self._close or not head.keep_alive
        length = f"content-length: {len(body)}\r\n" if status != 204 else ""
        connection = "connection: close\r\n" if self._close else ""
        phrase = HTTPStatus(status).phrase
        self._out.append(f"HTTP/1.1 {status} {phrase}\r\ncontent-type: {kind}\r\n{length}{connection}\r\n".encode())
        if head.method != "HEAD":
            self._out.append(body)
