"""The listener of tap: mutual TLS, one identity, and no way for others to be in its way.

Connections are asyncio streams, for none of this is on a request's way. They are accepted here and not by a TLS server
of asyncio: such a server keeps the certificate that it began with, and replacing it at each renewal loses connections
that are just being accepted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus

from mesh.proxy.tap import MAX_SESSIONS, Session, Tap
from mesh.proxy.tap_filter import InvalidTap, parse_tap

MAX_CONNECTIONS = 64
"""That have not proved who they are; past it, a newcomer takes the place of one of the address that holds most. As many
again of the identity that may tap."""
ACCEPT_PAUSE_SECONDS = 0.1
MAX_HEAD_BYTES, MAX_BODY_BYTES = 16 * 1024, 64 * 1024
REQUEST_TIMEOUT_SECONDS = 10.0
FORBIDDEN_TIMEOUT_SECONDS = 1.0
"""For the request of an identity that may not tap: it is read, so that 403 arrives, and not waited for."""
WRITE_TIMEOUT_SECONDS = 30.0
"""A reader that takes nothing for so long is taken for dead."""

log = logging.getLogger("tap")


class TapServer:
    """The listener. Without a name that may tap, nobody makes one."""

    def __init__(self, tap: Tap, allowed: str, context: Callable[[], ssl.SSLContext | None]) -> None:
        """`context` is asked for each connection, so renewals take effect."""
        self._tap = tap
        self._allowed = allowed
        self._context = context
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

        self._unknown: dict[asyncio.Task[None], str] = {}
        """Connections that have not proved who they are, in the order of their coming, and their addresses."""

    def start(self, host: str, port: int) -> int:
        """Listens; returns the port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        self._socket.setblocking(False)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(self._socket))
        return int(self._socket.getsockname()[1])

    async def stop(self) -> None:
        tasks = [*self._serving, *([self._accepting] if self._accepting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("tap: %s", error)  # no descriptors left; the client waits in the backlog
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            context = self._context()
            if context is None or len(self._serving) - len(self._unknown) >= MAX_CONNECTIONS:
                connection.close()
                continue
            if len(self._unknown) >= MAX_CONNECTIONS:
                self._make_room()
            task = loop.create_task(self._handle(connection, context))
            self._serving.add(task)
            self._unknown[task] = str(peer[0])
            task.add_done_callback(self._over)

    def _make_room(self) -> None:
        """Ends the longest silence of the address that holds most connections: whoever may tap says so in
        milliseconds, and a pod that only connects must not keep them out."""
        (most, _), *_ = Counter(self._unknown.values()).most_common(1)
        task = next(task for task, peer in self._unknown.items() if peer == most)
        del self._unknown[task]
        task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._unknown.pop(task, None)

    async def _handle(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(MAX_HEAD_BYTES, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)  # uvloop returns another one than it was given
        transport: asyncio.Transport | None = None
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=REQUEST_TIMEOUT_SECONDS,
            )
            await self._serve(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        except (OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError) as error:
            log.info("tap: %s", error or type(error).__name__)
        finally:
            if transport is not None:
                transport.abort()
            else:
                connection.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        allowed = self._allowed in _names(writer.get_extra_info("peercert"))
        task = asyncio.current_task()
        if allowed and task is not None:
            self._unknown.pop(task, None)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS if allowed else FORBIDDEN_TIMEOUT_SECONDS):
                method, path, body = await _read_request(reader)
        except _BadRequest as error:
            await _answer(writer, error.status, str(error))
            return
        if not allowed:
            await _answer(writer, 403, "this identity may not tap")
        elif path.partition("?")[0] != "/v1/tap":
            await _answer(writer, 404, "there is only /v1/tap")
        elif method != "POST":
            await _answer(writer, 405, "only POST", "allow: POST\r\n")
        else:
            try:
                wanted = parse_tap(body)
            except InvalidTap as error:
                await _answer(writer, 400, str(error))
                return
            session = self._tap.open(wanted)
            if session is None:
                await _answer(writer, 503, f"{MAX_SESSIONS} taps are open already")
                return
            try:
                await _stream(session, reader, writer)
            finally:
                self._tap.close(session)


async def _stream(session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n")
    gone = asyncio.get_running_loop().create_task(_until_closed(reader))
    gone.add_done_callback(lambda _: session.filled.set())
    try:
        while not gone.done():
            session.filled.clear()
            data = b"".join(session.events)
            session.events.clear()
            over = session.over
            if data:
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            if over:
                writer.write(b"0\r\n\r\n")
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                await writer.drain()
            if over:
                await _finish(writer)
                return
            await session.filled.wait()
    finally:
        gone.cancel()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with suppress(OSError, ssl.SSLError):  # any end of the client ends the stream
        while await reader.read(4096):
            pass


class _BadRequest(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _BadRequest(431, "the head is too large") from None
    line, *rest = head[:-4].decode("latin-1").split("\r\n")
    parts = line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise _BadRequest(400, "no HTTP/1 request")
    headers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in rest)}
    if "transfer-encoding" in headers:
        raise _BadRequest(411, "content-length is needed")
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise _BadRequest(400, "content-length is no number")
    if int(length) > MAX_BODY_BYTES:
        raise _BadRequest(413, "the body is too large")
    return parts[0], parts[1], await reader.readexactly(int(length))


async def _answer(writer: asyncio.StreamWriter, status: int, text: str, extra: str = "") -> None:
    body = text.encode() + b"\n"
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: text/plain\r\n{extra}"
    writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
    async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
        await writer.drain()
        await _finish(writer)


async def _finish(writer: asyncio.StreamWriter) -> None:
    """Closes in order, so that the client has all of the answer."""
    writer.close()
    with suppress(OSError, ssl.SSLError, TimeoutError):  # the client was faster
        async with asyncio.timeout(1.0):
            await writer.wait_closed()


def _names(certificate: dict[str, Iterable[tuple[str, str]]] | None) -> set[str]:
    entries = (certificate or {}).get("subjectAltName", ())
    return {value for kind, value in entries if kind == "DNS"}
