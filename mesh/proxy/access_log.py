"""The access log: one line on stderr for each request that a peer sent to this workload.

    ended ──► line ──► buffer ──► every 100 ms, or at 64 KiB: write what the pipe takes now

Formats are linkerd2-proxy's (`config.linkerd.io/access-log: apache|json`). Three fields say more than there: the byte
counts are what was carried, not what `content-length` announced; `total_ns` reaches to the end of the answer;
`processing_ns` to its head.

Nothing blocks: stderr may be a pipe whose reader sleeps. It is not made non-blocking, because that would be done to
everyone who shares it; instead `poll` is asked before each piece, and a pipe that polls writable takes `PIPE_BUF`
bytes. What it does not take waits; beyond `MAX_PENDING_BYTES` whole lines are dropped and counted.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from time import gmtime, monotonic, strftime, time

import msgspec

from mesh.proxy.metrics import Registry
from mesh.proxy.observe import Observed
from mesh.proxy.trace import trace_id_of

FLUSH_SECONDS = 0.1
FLUSH_BYTES = 64 * 1024
MAX_PENDING_BYTES = 1024 * 1024
PIECE_BYTES = 4096
"""PIPE_BUF of Linux: what a writable pipe takes without blocking."""
MAX_TEXT = 2048
"""Of a field that comes off the wire."""


class _Line(
    msgspec.Struct,
    frozen=True,
    rename={"client_addr": "client.addr", "client_id": "client.id"},
):
    client_addr: str
    client_id: str
    host: str
    method: str
    processing_ns: int
    request_bytes: int
    response_bytes: int
    status: int
    timestamp: str
    total_ns: int
    trace_id: str
    uri: str
    user_agent: str
    version: str


class AccessLog:
    """An observer of inbound requests."""

    def __init__(
        self,
        form: str,
        registry: Registry,
        loop: asyncio.AbstractEventLoop,
        *,
        descriptor: int = 2,
        clock: Callable[[], float] = time,
    ) -> None:
        """`form`: apache or json."""
        self._format = _json if form == "json" else _apache
        self._loop = loop
        self._descriptor = descriptor
        self._clock = clock
        self._lines: list[bytes] = []
        self._bytes = 0
        self._pending = b""
        self._timer: asyncio.TimerHandle | None = None
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._dropped = registry.counters(
            "access_log_lines_dropped_total", "Lines lost because nobody reads stderr."
        ).counter()

    # ---- observer

    def began(self, request: Observed) -> None:
        """Only the end is logged."""

    def responded(self, request: Observed, status: int) -> None:
        """Only the end is logged."""

    def ended(self, request: Observed) -> None:
        if self._bytes + len(self._pending) > MAX_PENDING_BYTES:
            self._dropped.value += 1
            return
        line = self._format(request, monotonic(), self._clock())
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= FLUSH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._due)

    # ---- writing

    def flush(self) -> None:
        """Writes as much as goes without waiting; a line begun is finished later, never broken off."""
        data = memoryview(self._pending + b"".join(self._lines))
        self._lines.clear()
        self._bytes = 0
        done = 0
        while done < len(data) and self._writable():
            try:
                done += os.write(self._descriptor, data[done : done + PIECE_BYTES])
            except BlockingIOError:
                break  # somebody else made it non-blocking
            except OSError:
                self._dropped.value += bytes(data[done:]).count(b"\n")  # the reader is gone for good
                done = len(data)
        self._pending = bytes(data[done:])

    def close(self) -> None:
        """Writes what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()

    def _due(self) -> None:
        self._timer = None
        self.flush()
        if self._pending:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._due)

    def _writable(self) -> bool:
        return bool(self._poll.poll(0))


_encode = msgspec.json.Encoder().encode


def _json(request: Observed, now: float, wall: float) -> bytes:
    head, session = request.head, request.session
    total = max(0.0, now - request.started_at)
    first = request.responded_at - request.started_at if request.responded_at else total
    line = _Line(
        client_addr=session.peer,
        client_id=session.peer_identity or "-",
        host=head.authority.decode("latin-1")[:MAX_TEXT],
        method=head.method,
        processing_ns=int(first * 1e9),
        request_bytes=request.received,
        response_bytes=request.returned,
        status=request.status,
        timestamp=_timestamp(wall - total),
        total_ns=int(total * 1e9),
        trace_id=trace_id_of(head.headers),
        uri=head.path.decode("latin-1")[:MAX_TEXT],
        user_agent=(head.get(b"user-agent") or b"").decode("latin-1")[:MAX_TEXT],
        version=_version(request),
    )
    return _encode(line) + b"\n"


def _apache(request: Observed, now: float, wall: float) -> bytes:
    """The common log format."""
    head, session = request.head, request.session
    began = strftime("%d/%b/%Y:%H:%M:%S +0000", gmtime(wall - max(0.0, now - request.started_at)))
    target = _quoted(head.path if head.method != "CONNECT" else head.authority)
    first = f"{session.peer} {session.peer_identity or '-'} - [{began}]"
    return f'{first} "{head.method} {target} {_version(request)}" {request.status} {request.returned}\n'.encode()


def _quoted(value: bytes) -> str:
    """Nothing off the wire may end the quotes or the line."""
    text = value[:MAX_TEXT].decode("latin-1")
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c not in '"\\' else f"\\x{ord(c):02x}" for c in text)


def _version(request: Observed) -> str:
    head = request.head
    return "HTTP/2.0" if head.http_2 else "HTTP/1.0" if head.http_1_0 else "HTTP/1.1"


def _timestamp(seconds: float) -> str:
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{int(seconds % 1 * 1e6):06d}Z"
