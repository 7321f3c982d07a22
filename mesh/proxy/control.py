"""The control plane as a proxy sees it: one POST for certificates, long GETs that stream a JSON object a line.

A watch reconnects for ever with backoff (100 ms to 10 s, jitter 0.1, as Linkerd's control client) and never forgets
what it heard: whoever listens keeps the last snapshot. A stream that says nothing for `SILENCE_SECONDS` is taken for
dead; the server sends a blank line every five seconds.

asyncio streams serve well here: a handful of long connections, none of them on a request's way.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from random import Random

import msgspec

from mesh.api.messages import WatchMessage, decode_line
from mesh.behavior.backoff import Backoff
from mesh.proxy.config import ControlService
from mesh.proxy.metrics import Registry
from mesh.proxy.telemetry import UPDATE_LATENCY_BUCKETS
from mesh.proxy.wire.http1 import ResponseReader
from mesh.proxy.wire.http1_fields import MessageError
from mesh.proxy.wire.message import Headers, ResponseHead
from mesh.proxy.wire.tls import failure_reason

CONNECT_TIMEOUT_SECONDS = 3.0
SILENCE_SECONDS = 15.0
BACKOFF_MIN_SECONDS, BACKOFF_MAX_SECONDS, BACKOFF_JITTER = 0.1, 10.0, 0.1
MAX_LINE_BYTES = 16 * 1024 * 1024

log = logging.getLogger("control")


class ControlError(Exception):
    """The control plane could not be reached, or did not answer as it should; the text says which."""


class ControlClient:
    """Talks to one service of the control plane. `context` is asked for each connection, so renewals take effect."""

    def __init__(
        self,
        service: ControlService,
        context: Callable[[], ssl.SSLContext | None],
        registry: Registry,
        rng: Random,
        bind_ip: str | None = None,
    ) -> None:
        self.service = service
        self._context = context
        self._rng = rng
        self._local = (bind_ip, 0) if bind_ip is not None else None
        self._addr = str(service.address)
        self._requests = registry.counters("control_request_total", "Requests to the control plane.").counter(
            {"addr": self._addr}
        )
        self._responses = registry.counters("control_response_total", "Answers of the control plane.")
        self._handshake_failures = registry.counters(
            "tls_handshake_failures_total", "TLS handshakes that failed, by reason."
        )
        self._latency = registry.histograms(
            "control_update_latency_seconds", "From a change's publication to its application.", UPDATE_LATENCY_BUCKETS
        ).histogram({"addr": self._addr})

    async def post(self, path: str, body: bytes, timeout: float) -> bytes:
        """The body of a 200 answer.

        Raises:
            ControlError: anything else.
        """
        head = f"POST {path} HTTP/1.1\r\nhost: {self.service.name}\r\ncontent-type: application/json\r\n"
        message = f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
        try:
            async with asyncio.timeout(timeout):
                parts = [part async for part in self._exchange(message)]
        except TimeoutError:
            self._count("timeout", failed=True)
            raise ControlError(f"{self._addr}: no answer within {timeout:g} s") from None
        return b"".join(parts)

    async def watch(self, path: str, on_message: Callable[[WatchMessage], None]) -> None:
        """Streams `path` for ever. Cancel the task to stop."""
        backoff = Backoff(BACKOFF_MIN_SECONDS, BACKOFF_MAX_SECONDS, BACKOFF_JITTER)
        versions: dict[str, int] = {}
        while True:
            try:
                await self._stream(path, on_message, versions, backoff)
                log.info("%s%s: the stream ended", self._addr, path)
            except ControlError as error:
                log.warning("%s%s: %s", self._addr, path, error)
            await asyncio.sleep(backoff.next(self._rng))

    async def _stream(
        self, path: str, on_message: Callable[[WatchMessage], None], versions: dict[str, int], backoff: Backoff
    ) -> None:
        buffer = bytearray()
        message = f"GET {path} HTTP/1.1\r\nhost: {self.service.name}\r\n\r\n".encode()
        async with aclosing(self._exchange(message)) as parts:
            async for part in parts:
                backoff.reset()
                *lines, buffer = (buffer + part).split(b"\n")
                if len(buffer) > MAX_LINE_BYTES:
                    raise ControlError("a line without end")
                for line in lines:
                    if line.strip():
                        self._take(bytes(line), on_message, versions)

    def _take(self, line: bytes, on_message: Callable[[WatchMessage], None], versions: dict[str, int]) -> None:
        try:
            message = decode_line(line)
        except msgspec.DecodeError as error:
            raise ControlError(f"a message that makes no sense: {error}") from None
        on_message(message)
        self._observe(message, versions)

    def _observe(self, message: WatchMessage, versions: dict[str, int]) -> None:
        """Measures propagation (M8). The first snapshot of a kind is old news and does not count; one after a
        reconnect does if it is a newer version, for then it was under way all that time."""
        kind = type(message).__name__.removesuffix("Change")
        known = versions.get(kind)
        versions[kind] = message.version
        if known is not None and message.version > known:
            self._latency.observe(max(0.0, time.time() - message.published_at))

    async def _exchange(self, message: bytes) -> AsyncGenerator[bytes, None]:
        """Sends a request, yields the pieces of a 200 answer's body."""
        self._requests.value += 1
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                context = self._context()
                reader, writer = await asyncio.open_connection(
                    self.service.address.host,
                    self.service.address.port,
                    ssl=context,
                    server_hostname=self.service.name if context is not None else None,
                    local_addr=self._local,
                )
            writer.write(message)
            sink = _Sink()
            parser = ResponseReader(sink)
            counted = False
            while not sink.over:
                async with asyncio.timeout(SILENCE_SECONDS):
                    data = await reader.read(65536)
                if not data and not parser.end_of_stream():
                    raise ControlError("the connection closed in the middle of an answer")
                if data:
                    parser.feed(data)
                if sink.head is not None and not counted:
                    counted = True
                    self._count(str(sink.head.status), failed=sink.head.status >= 400)
                if sink.head is None or sink.head.status == 200:
                    for part in sink.take():
                        yield part
            if sink.head is not None and sink.head.status != 200:
                raise ControlError(f"{sink.head.status}: {b''.join(sink.take()).decode(errors='replace')[:300]}")
        except TimeoutError:
            self._count("timeout", failed=True)
            raise ControlError("no answer in time") from None
        except (OSError, ssl.SSLError) as error:
            reason = failure_reason(error)
            self._count(reason, failed=True)
            if isinstance(error, ssl.SSLError):
                self._handshake_failures.counter({"direction": "control", "reason": reason}).value += 1
            raise ControlError(str(error) or type(error).__name__) from None
        except MessageError as error:
            raise ControlError(f"not HTTP: {error}") from None
        finally:
            if writer is not None:
                writer.transport.abort()

    def _count(self, outcome: str, *, failed: bool) -> None:
        labels = {"addr": self._addr, "classification": "failure" if failed else "success"}
        labels["status_code" if outcome.isdigit() else "error"] = outcome
        self._responses.counter(labels).value += 1


class _Sink:
    """Collects one response."""

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.over = False
        self._parts: list[bytes] = []

    def take(self) -> list[bytes]:
        parts, self._parts = self._parts, []
        return parts

    def response_interim(self, head: ResponseHead) -> None:
        """Of no interest."""

    def response_head(self, head: ResponseHead) -> None:
        self.head = head

    def response_body(self, data: bytes) -> None:
        self._parts.append(data)

    def response_end(self, trailers: Headers | None) -> None:
        self.over = True
