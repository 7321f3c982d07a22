"""The control plane as a proxy sees it: one POST for certificates, long GETs that stream a JSON object a line.

    watch ─► (its turn to connect) ─► TLS ─► GET ─► lines ─► on_message
      ▲                                                         │
      ├── backoff ◄── the stream ended, or never began          │
      └── look again ── parked ◄── "no such thing", and newer such watches take all the places there are

A watch reconnects for ever with backoff (100 ms to 10 s, jitter 0.1, as Linkerd's control client). It never forgets
what it heard: whoever listens keeps the last snapshot, and the first message after a reconnect is a whole one. A stream
that says nothing for `SILENCE_SECONDS` is taken for dead; the server sends a blank line every five seconds.

A connection that nobody answers is given up after `TRY_SECONDS` and made anew from another port, without backoff. For
a second or so after a control-plane pod died, kube-proxy gives it new connections still, and it decides once for each:
repeated by the kernel, a SYN goes to the dead pod again, for as long as one waits. A single try of
`CONNECT_TIMEOUT_SECONDS` thus cost what was asked for in that second all the time that its requests had. A refusal is
an answer, and has its backoff.

Each watch is an HTTP/1.1 connection of its own, so that one can be looked at with curl (Linkerd: one gRPC stream each,
all on one connection). It is made of our own TLS shim and one reader, 39 KB; uvloop's TLS has a read buffer of 256 KB
for each connection. Names that clients make up cannot hold connections: of the watches whose answer was that nothing is
there, the latest `MAX_ABSENT` stay connected and hear at once when it comes to be; the others are parked, which costs a
timer, and look again every `LOOK_AGAIN_SECONDS`. Watches of what exists are as many as the cluster has services.
`MAX_CONNECTING` bounds those on their way.

One file of more than 400 lines, because client, exchange and lines call each other in a circle.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from random import Random
from typing import cast

import msgspec

from mesh.api.messages import Endpoints, EndpointsChange, NotFound, OutboundPolicy, WatchMessage, decode_line
from mesh.behavior.backoff import Backoff
from mesh.proxy.config import ControlService
from mesh.proxy.metrics import Registry
from mesh.proxy.resolve import Resolver
from mesh.proxy.telemetry import UPDATE_LATENCY_BUCKETS, ControlSeries
from mesh.proxy.wire.http1 import ResponseReader
from mesh.proxy.wire.http1_fields import MessageError
from mesh.proxy.wire.message import Headers, ResponseHead
from mesh.proxy.wire.tls import TlsShim, Upper, failure_reason

CONNECT_TIMEOUT_SECONDS = 3.0
"""Until the request is on its way: all tries to connect, and the handshake."""
TRY_SECONDS = 1.0
"""For one address to take a TCP connection: a third of what a request waits for its destination, and Linkerd's connect
timeout. Without the handshake: a busy machine answers a SYN at once, and a handshake late."""
SILENCE_SECONDS, SILENT_LOOKS = 15.0, 3
BACKOFF_MIN_SECONDS, BACKOFF_MAX_SECONDS, BACKOFF_JITTER = 0.1, 10.0, 0.1
MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_CONNECTING = 32
"""Connections to one service that are being opened at once; more wait for their turn, first come, first served."""
MAX_ABSENT = 16
"""Of one service. Enough for a client that is up before the services that it calls."""
LOOK_AGAIN_SECONDS = 6.0
"""A little longer than an unused destination is remembered, so that a name used once is asked for once."""

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
        self._addr = str(service)
        self._resolver = Resolver(service.address.host, service.address.port, rng)
        self._connecting = asyncio.Semaphore(MAX_CONNECTING)
        self._absent: dict[_Exchange, None] = {}
        """Open watches of what does not exist, longest known first."""
        self._series = ControlSeries(registry, self._addr)
        self._handshake_failures = registry.counters(
            "tls_handshake_failures_total", "TLS handshakes that failed, by reason."
        )
        self._latency = registry.histograms(
            "control_update_latency_seconds", "From a change's publication to its application.", UPDATE_LATENCY_BUCKETS
        ).histogram({"addr": self._addr})
        self._parked = registry.counters(
            "control_watches_parked_total", "Watches of what does not exist that made way for newer ones."
        ).counter({"addr": self._addr})

    async def post(self, path: str, body: bytes, timeout: float) -> bytes:
        """The body of a 200 answer.

        Raises:
            ControlError: anything else.
        """
        head = f"POST {path} HTTP/1.1\r\nhost: {self.service.name}\r\ncontent-type: application/json\r\n"
        message = f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(timeout):
                await self._run(_Exchange(message, parts.append, self._series))
        except TimeoutError:
            self._series.answered("timeout", True)
            raise ControlError(f"{self._addr}: no answer within {timeout:g} s") from None
        return b"".join(parts)

    async def watch(self, path: str, on_message: Callable[[WatchMessage], None]) -> None:
        """Streams `path` for ever. Cancel the task to stop."""
        backoff = Backoff(BACKOFF_MIN_SECONDS, BACKOFF_MAX_SECONDS, BACKOFF_JITTER)
        versions: dict[str, int] = {}
        message = f"GET {path} HTTP/1.1\r\nhost: {self.service.name}\r\n\r\n".encode()
        while True:
            lines = _Lines(self, on_message, versions, backoff)
            exchange = lines.exchange = _Exchange(message, lines.take, self._series)
            try:
                await self._run(exchange)
                if not exchange.parked:
                    log.info("%s%s: the stream ended", self._addr, path)
            except ControlError as error:
                log.warning("%s%s: %s", self._addr, path, error)
            finally:
                self._absent.pop(exchange, None)
            parked = exchange.parked
            del exchange, lines
            if parked:
                await asyncio.sleep(LOOK_AGAIN_SECONDS * (1 + BACKOFF_JITTER * self._rng.random()))
            else:
                await asyncio.sleep(backoff.next(self._rng))

    # ---- for the lines of a watch

    def heard(self, exchange: _Exchange, message: WatchMessage, versions: dict[str, int]) -> None:
        """Keeps account of what is absent, and measures propagation (M8). The first snapshot of a kind is old news and
        does not count; one after a reconnect does if it is a newer version, for then it was under way all that time."""
        if isinstance(message, NotFound) or (
            isinstance(message, OutboundPolicy) and not message.exists and not message.egress
        ):
            self._absent.setdefault(exchange)
            if len(self._absent) > MAX_ABSENT:
                oldest = next(iter(self._absent))
                del self._absent[oldest]
                self._parked.value += 1
                oldest.park()
        elif isinstance(message, Endpoints | EndpointsChange | OutboundPolicy):
            self._absent.pop(exchange, None)
        kind = type(message).__name__.removesuffix("Change")
        known = versions.get(kind)
        versions[kind] = message.version
        if known is not None and message.version > known:
            self._latency.observe(max(0.0, time.time() - message.published_at))

    # ---- inside

    async def _run(self, exchange: _Exchange) -> None:
        """Connects, and waits for the answer's end.

        Raises:
            ControlError: it was not 200, or not there.
        """
        try:
            async with self._connecting:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    await self._connect(exchange)
            await exchange.over
        except TimeoutError:
            self._series.answered("timeout", True)
            raise ControlError("no answer in time") from None
        except (OSError, ssl.SSLError) as error:
            reason = failure_reason(error)
            self._series.answered(reason, True)
            if isinstance(error, ssl.SSLError):
                self._handshake_failures.counter({"direction": "control", "reason": reason}).value += 1
            raise ControlError(str(error) or type(error).__name__) from None
        except MessageError as error:
            raise ControlError(f"not HTTP: {error}") from None
        finally:
            exchange.end()

    async def _connect(self, exchange: _Exchange) -> None:
        context = self._context()
        protocol: asyncio.Protocol = exchange
        if context is not None:
            protocol = exchange.shim = TlsShim(context, exchange, server_side=False, server_hostname=self.service.name)
        self._series.requests.value += 1
        connected = await self._dial()
        await asyncio.get_running_loop().create_connection(lambda: protocol, sock=connected)
        await exchange.up

    async def _dial(self) -> socket.socket:
        """A TCP connection to one of the service's addresses; tries again for ever where one does not answer.

        Raises:
            OSError: each of them refused.
        """
        while True:
            hosts = await self._resolver.addresses()
            try:
                return await self._dial_one_of(hosts, min(TRY_SECONDS, CONNECT_TIMEOUT_SECONDS / len(hosts)))
            except TimeoutError:
                self._resolver.failed()
            except (OSError, asyncio.CancelledError):  # cancelled by the timeout over all of it
                self._resolver.failed()
                raise

    async def _dial_one_of(self, hosts: list[str], seconds: float) -> socket.socket:
        """Raises TimeoutError where one of them did not answer within `seconds`, else the last one's OSError."""
        failure: OSError | None = None
        for host in hosts:
            try:
                async with asyncio.timeout(seconds):
                    return await self._connected(host)
            except OSError as error:  # TimeoutError is one
                if not isinstance(failure, TimeoutError):
                    failure = error
        assert failure is not None, "a resolver has at least one address"
        raise failure

    async def _connected(self, host: str) -> socket.socket:
        """A bare socket: the protocol is to see one transport only, also where a try is given up as it succeeds."""
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            if self._local is not None:
                made.bind(self._local)
            await asyncio.get_running_loop().sock_connect(made, (host, self.service.address.port))
        except OSError as error:
            made.close()
            if error.errno is None:
                raise
            raise OSError(error.errno, os.strerror(error.errno)) from None  # asyncio says "Connect call failed"
        except BaseException:
            made.close()
            raise
        return made


class _Exchange(asyncio.Protocol):
    """One connection, one request, one answer."""

    __slots__ = (
        "_message",
        "_on_part",
        "_reader",
        "_refusal",
        "_sent_at",
        "_series",
        "_silence",
        "_silent_looks",
        "_status",
        "_transport",
        "over",
        "parked",
        "shim",
        "up",
    )

    def __init__(self, message: bytes, on_part: Callable[[bytes], None], series: ControlSeries) -> None:
        """`on_part` gets the pieces of a 200 answer's body; what it raises ends the exchange."""
        loop = asyncio.get_running_loop()
        self.up: asyncio.Future[None] = loop.create_future()
        """The request is on its way."""
        self.over: asyncio.Future[None] = loop.create_future()
        self.parked = False
        self._message = message
        self._on_part = on_part
        self._series = series
        self._reader = ResponseReader(self)
        self.shim: TlsShim | None = None
        self._transport: asyncio.Transport | TlsShim | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._silent_looks = 0
        self._status = 0
        self._refusal = b""
        self._sent_at = 0.0

    def park(self) -> None:
        """Gives the connection up; `over` ends well."""
        self.parked = True
        self.end()

    def end(self) -> None:
        """Lets go of the connection, whatever it is doing."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if self._transport is not None:
            self._transport.abort()
        elif self.shim is not None and self.shim.transport is not None:
            self.shim.abort()  # in the middle of its handshake
        # Cycles would keep the connection's TLS state until the collector finds them, and it counts objects, not bytes.
        self.shim = self._transport = None
        self._reader.release()
        self._settle(None)

    # ---- asyncio.Protocol, or the upper side of a TLS shim

    def connection_made(self, transport: asyncio.BaseTransport | TlsShim) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.over.done():
            self._transport.abort()  # whoever wanted this has left
            return
        self._sent_at = time.monotonic()
        self._watch_silence()
        self._transport.write(self._message)
        if not self.up.done():
            self.up.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._silent_looks = 0
        try:
            self._reader.feed(data)
        except (MessageError, ControlError) as error:
            self._settle(error)

    def eof_received(self) -> None:
        """The transport closes, and `connection_lost` says what that meant."""

    def connection_lost(self, error: Exception | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._transport = None
        if error is None and not self.over.done() and not self._reader.end_of_stream():
            error = ControlError("the connection closed in the middle of an answer")
        self._settle(error)

    # ---- Watcher of the shim

    def handshake_done(self, shim: TlsShim) -> Upper:
        return cast("Upper", self)

    def handshake_failed(self, shim: TlsShim, error: BaseException | None) -> None:
        self._settle(error if error is not None else ConnectionResetError("the connection closed in the handshake"))

    # ---- ResponseSink

    def response_interim(self, head: ResponseHead) -> None:
        """Of no interest."""

    def response_head(self, head: ResponseHead) -> None:
        self._status = head.status
        self._series.answered(str(head.status), head.status >= 400, time.monotonic() - self._sent_at)

    def response_body(self, data: bytes) -> None:
        if self._status == 200:
            self._on_part(data)
        elif len(self._refusal) < 300:
            self._refusal += data

    def response_end(self, trailers: Headers | None) -> None:
        if self._status == 200:
            self._settle(None)
        else:
            self._settle(ControlError(f"{self._status}: {self._refusal[:300].decode(errors='replace')}"))

    # ---- inside

    def _settle(self, error: BaseException | None) -> None:
        for future in (self.up, self.over):
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                future.exception()  # only one of the two is awaited

    def _watch_silence(self) -> None:
        self._silence = asyncio.get_running_loop().call_later(SILENCE_SECONDS / SILENT_LOOKS, self._look)

    def _look(self) -> None:
        """A few looks at whether anything came are cheaper than a timer for each time that something does."""
        self._silent_looks += 1
        if self._silent_looks < SILENT_LOOKS:
            self._watch_silence()
        else:
            self._silence = None
            self._settle(TimeoutError())


class _Lines:
    """Makes messages of a stream's pieces."""

    __slots__ = ("_backoff", "_client", "_on_message", "_rest", "_versions", "exchange")

    def __init__(
        self,
        client: ControlClient,
        on_message: Callable[[WatchMessage], None],
        versions: dict[str, int],
        backoff: Backoff,
    ) -> None:
        self.exchange: _Exchange = None  # type: ignore[assignment]  # set before anything is received
        self._client = client
        self._on_message = on_message
        self._versions = versions
        self._backoff = backoff
        self._rest = bytearray()

    def take(self, part: bytes) -> None:
        self._backoff.reset()
        self._rest += part
        if b"\n" not in part:
            if len(self._rest) > MAX_LINE_BYTES:
                raise ControlError("a line without end")
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            if line.strip():
                self._take_line(bytes(line))

    def _take_line(self, line: bytes) -> None:
        try:
            message = decode_line(line)
        except msgspec.DecodeError as error:
            raise ControlError(f"a message that makes no sense: {error}") from None
        self._on_message(message)
        self._client.heard(self.exchange, message, self._versions)
