"""Distributed tracing: context in, span out, context on.

    head ──► find_context ──► sampled? ──► Span, its id becomes the parent in the forwarded header
                                              │ ended
                                              ▼
                              queue (bounded) ──► POST /v1/traces, OTLP as JSON, in batches

A proxy starts no trace: without an incoming context nothing happens, as in Linkerd. The first form that is found and
well-formed counts, in Linkerd's order: W3C `traceparent`, `grpc-trace-bin`, `x-b3-*`. What is not sampled is passed on
untouched, and so is `tracestate`. A span reaches to the end of the answer (Linkerd's: to its head), so that streams
show how long they were.

Export never waits on the data path: spans past the queue's bound are dropped and counted, a collector that is away is
tried again with backoff while the queue fills, a batch that it refuses is dropped. The client is a few lines on asyncio
streams because an OTLP library would be most of the proxy's memory.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
import ssl
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from time import monotonic, time_ns
from typing import NamedTuple

import msgspec

from mesh.behavior.backoff import Backoff
from mesh.proxy.metrics import Registry
from mesh.proxy.observe import Observed
from mesh.proxy.wire.message import Headers

QUEUE_SPANS = 2048
BATCH_SPANS = 512
BATCH_SECONDS = 1.0
"""A span waits at most this long for company."""
EXPORT_TIMEOUT_SECONDS = 5.0
BACKOFF_MIN_SECONDS, BACKOFF_MAX_SECONDS, BACKOFF_JITTER = 0.5, 30.0, 0.1
MAX_ANSWER_BYTES = 16 * 1024
MAX_TEXT = 1024
"""Of an attribute that comes off the wire."""
SERVER, CLIENT = 2, 3
"""SpanKind of OTLP: inbound and outbound."""

CONTEXT_HEADERS = frozenset(
    {b"traceparent", b"grpc-trace-bin", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags"}
)

log = logging.getLogger("trace")


class Context(NamedTuple):
    """What a request says of the trace that it belongs to. Ids are lower-case hex."""

    form: bytes
    """The header that carries the parent's id."""
    trace_id: str
    parent_id: str
    sampled: bool
    flags: int


def find_context(headers: Headers) -> Context | None:
    """The trace context in a request's headers, of the first form that makes sense."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in CONTEXT_HEADERS:
            found[name] = value if name not in found else b""  # a repeated one says nothing reliable
    if not found:
        return None
    return _w3c(found.get(b"traceparent", b"")) or _grpc(found.get(b"grpc-trace-bin", b"")) or _b3(found)


def trace_id_of(headers: Headers) -> str:
    """The id under which to look for this request elsewhere; empty where it carries none.

    Beyond a trace's context, the headers that linkerd2-proxy's access log accepts.
    """
    context = find_context(headers)
    if context is not None:
        return context.trace_id
    for wanted in (b"x-b3-traceid", b"x-request-id", b"x-amzn-trace-id"):
        for name, value in headers:
            if name == wanted:
                return value.decode("latin-1")[:128]
    return ""


def forward(headers: Headers, context: Context, span_id: str) -> None:
    """Makes `span_id` the parent in the headers that go on, in the form in which the context came."""
    for index, (name, _) in enumerate(headers):
        if name == context.form:
            headers[index] = (name, _written(context, span_id))
        elif name == b"x-b3-parentspanid" and context.form == b"x-b3-spanid":
            headers[index] = (name, context.parent_id.encode())


def _written(context: Context, span_id: str) -> bytes:
    if context.form == b"traceparent":
        return f"00-{context.trace_id}-{span_id}-{context.flags:02x}".encode()
    if context.form == b"x-b3-spanid":
        return span_id.encode()
    binary = b"\0\0%b\1%b\2%c" % (bytes.fromhex(context.trace_id), bytes.fromhex(span_id), context.flags)
    return b64encode(binary).rstrip(b"=")  # gRPC asks for it without padding


def _w3c(value: bytes) -> Context | None:
    parts = value.split(b"-")
    if len(parts) < 4 or (parts[0] == b"00" and len(parts) != 4) or parts[0] == b"ff":
        return None
    version, trace_id, parent_id, flags = (_hex(part, size) for part, size in zip(parts, (2, 32, 16, 2), strict=False))
    if not version or not flags or not _meant(trace_id) or not _meant(parent_id):
        return None
    bits = int(flags, 16)
    return Context(b"traceparent", trace_id, parent_id, bool(bits & 1), bits & 3)


def _grpc(value: bytes) -> Context | None:
    if not value:
        return None
    try:
        data = b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return None
    trace_id = parent_id = b""
    options, at = 0, 1
    while at < len(data):
        field, at = data[at], at + 1
        if field == 0:
            trace_id, at = data[at : at + 16], at + 16
        elif field == 1:
            parent_id, at = data[at : at + 8], at + 8
        elif field == 2 and at < len(data):
            options, at = data[at], at + 1
        else:
            break  # a field that later versions may know
    if data[:1] != b"\0" or len(trace_id) != 16 or len(parent_id) != 8 or not any(trace_id) or not any(parent_id):
        return None
    return Context(b"grpc-trace-bin", trace_id.hex(), parent_id.hex(), bool(options & 1), options)


def _b3(found: Mapping[bytes, bytes]) -> Context | None:
    trace, parent = found.get(b"x-b3-traceid", b"").lower(), found.get(b"x-b3-spanid", b"").lower()
    trace_id, parent_id = _hex(trace, 32) or _hex(trace, 16).rjust(32, "0"), _hex(parent, 16)
    if not _meant(trace_id) or not _meant(parent_id):
        return None
    sampled = found.get(b"x-b3-sampled") in (b"1", b"true") or found.get(b"x-b3-flags") == b"1"
    return Context(b"x-b3-spanid", trace_id, parent_id, sampled, int(sampled))


def _hex(value: bytes, size: int) -> str:
    return value.decode() if len(value) == size and not value.strip(b"0123456789abcdef") else ""


def _meant(identifier: str) -> bool:
    return bool(identifier.strip("0"))


@dataclass(slots=True)
class Span:
    """One request while it is under way."""

    context: Context
    span_id: str
    started_at: float
    started_ns: int


class Tracer:
    """An observer: makes spans of sampled requests."""

    def __init__(self, exporter: Exporter, rng: Random) -> None:
        self._exporter = exporter
        self._rng = rng
        self._open: dict[Observed, Span] = {}

    def began(self, request: Observed) -> None:
        headers = request.head.headers
        context = find_context(headers)
        if context is None or not context.sampled:
            return
        span_id = f"{self._rng.getrandbits(64) or 1:016x}"
        self._open[request] = Span(context, span_id, monotonic(), time_ns())
        forward(headers, context, span_id)

    def responded(self, request: Observed, status: int) -> None:
        """The span goes on to the end of the answer."""

    def ended(self, request: Observed) -> None:
        span = self._open.pop(request, None)
        if span is not None:
            self._exporter.add(_encode(request, span, monotonic()))


class Exporter:
    """Sends spans to a collector. `run` is its task."""

    def __init__(
        self,
        host: str,
        port: int,
        service_name: str,
        registry: Registry,
        rng: Random,
        *,
        attributes: Mapping[str, str] | None = None,
        context: Callable[[], ssl.SSLContext | None] = lambda: None,
        tls_name: str = "",
        bind_ip: str | None = None,
    ) -> None:
        """`tls_name`: the collector's identity; without it the connection is plaintext."""
        self._host, self._port = host, port
        self._context = context
        self._tls_name = tls_name
        self._local = (bind_ip, 0) if bind_ip is not None else None
        self._rng = rng
        self._resource = {
            "attributes": [_attribute(k, v) for k, v in {"service.name": service_name, **(attributes or {})}.items()]
        }
        self._queue: deque[dict[str, object]] = deque()
        self._filled = asyncio.Event()
        self._full = asyncio.Event()
        self._sent = registry.counters("trace_spans_exported_total", "Spans that the collector took.").counter()
        dropped = registry.counters("trace_spans_dropped_total", "Spans lost, by reason.")
        self._overflow = dropped.counter({"reason": "queue_full"})
        self._rejected = dropped.counter({"reason": "rejected"})
        self._failures = registry.counters("trace_export_failures_total", "Batches that could not be sent.").counter()

    def add(self, span: dict[str, object]) -> None:
        """Queues an encoded span, or drops it."""
        queue = self._queue
        if len(queue) >= QUEUE_SPANS:
            self._overflow.value += 1
            return
        queue.append(span)
        self._filled.set()
        if len(queue) >= BATCH_SPANS:
            self._full.set()

    async def run(self) -> None:
        """Exports for ever. Cancel the task to stop."""
        backoff = Backoff(BACKOFF_MIN_SECONDS, BACKOFF_MAX_SECONDS, BACKOFF_JITTER)
        while True:
            await self._filled.wait()
            try:
                async with asyncio.timeout(BATCH_SECONDS):
                    await self._full.wait()
            except TimeoutError:
                pass  # whatever came in that time is the batch
            batch = [self._queue.popleft() for _ in range(min(BATCH_SPANS, len(self._queue)))]
            if not self._queue:
                self._filled.clear()
            if len(self._queue) < BATCH_SPANS:
                self._full.clear()
            await self._deliver(batch, backoff)

    async def _deliver(self, batch: list[dict[str, object]], backoff: Backoff) -> None:
        scope = {"scope": {"name": "gameday-proxy"}, "spans": batch}
        body = msgspec.json.encode({"resourceSpans": [{"resource": self._resource, "scopeSpans": [scope]}]})
        while True:
            try:
                async with asyncio.timeout(EXPORT_TIMEOUT_SECONDS):
                    status = await self._post(body)
            except (OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                status = 0
                log.info("collector %s:%d: %s", self._host, self._port, error or type(error).__name__)
            if 200 <= status < 300:
                self._sent.value += len(batch)
                backoff.reset()
                return
            self._failures.value += 1
            if 300 <= status < 500 and status != 429:
                self._rejected.value += len(batch)
                log.warning("collector %s:%d refused %d spans: %d", self._host, self._port, len(batch), status)
                return
            await asyncio.sleep(backoff.next(self._rng))

    async def _post(self, body: bytes) -> int:
        context = self._context() if self._tls_name else None
        if self._tls_name and context is None:
            raise ConnectionError("no certificate yet")
        reader, writer = await asyncio.open_connection(
            self._host,
            self._port,
            limit=MAX_ANSWER_BYTES,
            ssl=context,
            server_hostname=self._tls_name or None,
            local_addr=self._local,
        )
        try:
            head = f"POST /v1/traces HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
            await writer.drain()
            line = await reader.readuntil(b"\n")
            version, status, *_ = line.split()
            if not version.startswith(b"HTTP/1."):
                raise ValueError(f"not HTTP: {line[:40]!r}")
            return int(status)
        except asyncio.LimitOverrunError:
            raise ValueError("not HTTP: a line without end") from None
        finally:
            writer.transport.abort()


def _encode(request: Observed, span: Span, now: float) -> dict[str, object]:
    """A span as OTLP's JSON wants it: ids in hex, nanoseconds as text."""
    head, context = request.head, span.context
    inbound = request.owner.direction == "inbound"
    path, _, query = head.path.decode("latin-1").partition("?")
    address, _, port = (request.authority or head.authority.decode("latin-1")).rpartition(":")
    attributes = {
        "http.request.method": head.method,
        "url.scheme": head.scheme.decode("latin-1"),
        "url.path": path[:MAX_TEXT],
        "url.query": query[:MAX_TEXT],
        "server.address": (address or port)[:MAX_TEXT],
        "server.port": port if address else "",
        "network.peer.address": request.session.peer,
        "direction": request.owner.direction,
        "http.response.status_code": request.status,
        "rpc.grpc.status_code": request.grpc_status,
        "error.type": request.cause.value if request.cause is not None else "",
    }
    failed = request.cause is not None or request.status >= 500 or request.grpc_status not in (None, 0)
    return {
        "traceId": context.trace_id,
        "spanId": span.span_id,
        "parentSpanId": context.parent_id,
        "name": path[:MAX_TEXT] or head.method,
        "kind": SERVER if inbound else CLIENT,
        "startTimeUnixNano": str(span.started_ns),
        "endTimeUnixNano": str(span.started_ns + int((now - span.started_at) * 1e9)),
        "attributes": [_attribute(name, value) for name, value in attributes.items() if value not in ("", None)],
        "status": {"code": 2} if failed else {},
    }


def _attribute(name: str, value: str | int | None) -> dict[str, object]:
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    return {"key": name, "value": {"stringValue": value}}
