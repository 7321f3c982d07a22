"""Both ends of the differential test: an origin that notes what it saw, and clients that note what they got.

Everything here is read byte by byte by our own few lines, so that no library's opinion hides a difference; HTTP/2 goes
through `h2`, with its checks of what is sent turned off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from differential_requests import Case, Case2

SILENCE_SECONDS = 2.0
"""A client that has heard nothing for so long has no answer."""
AFTER_SECONDS = 0.1
"""How long it listens for more than it waits for."""
Fields = list[tuple[str, str]]

# What belongs to a hop, or to the proxy itself, and not to the message.
OF_THE_HOP = {
    *("connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "date", "server", "via"),
    *("x-request-id", "x-forwarded-proto", "x-forwarded-for", "trailer"),
}
OF_A_PROXY = ("x-envoy-", "l5d-", "x-b3-")


@dataclass(frozen=True)
class Message:
    """A request as the origin saw it (`start` is method and target) or an answer as the client got it (its status)."""

    start: str
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass
class Outcome:
    """Of one case through one proxy."""

    seen: list[Message] = field(default_factory=list)
    got: list[Message] = field(default_factory=list)

    @property
    def statuses(self) -> tuple[str, ...]:
        return tuple(message.start for message in self.got)


def message(start: str, fields: Fields, body: bytes) -> Message:
    kept = sorted(
        (n.lower(), v) for n, v in fields if n.lower() not in OF_THE_HOP and not n.lower().startswith(OF_A_PROXY)
    )
    return Message(start, tuple(kept), body)


# ---- HTTP/1


@dataclass
class Head:
    line: str
    fields: Fields

    def get(self, name: str) -> str:
        return next((v for n, v in self.fields if n.lower() == name), "")


async def read_head(reader: asyncio.StreamReader) -> Head:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = text.strip("\r\n").split("\r\n")
    pairs = (each.partition(":") for each in rest)
    return Head(line, [(name, value.strip(" \t")) for name, _, value in pairs])


async def read_body(reader: asyncio.StreamReader, head: Head, until_close: bool) -> tuple[bytes, Fields]:
    """Body and trailers."""
    if "chunked" in head.get("transfer-encoding").lower():
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        trailers = []
        while (line := (await reader.readuntil(b"\r\n")).decode("latin-1").strip()) != "":
            name, _, value = line.partition(":")
            trailers.append((name, value.strip()))
        return body, trailers
    if head.get("content-length"):
        return await reader.readexactly(int(head.get("content-length"))), []
    return (await reader.read(-1) if until_close else b""), []


class Origin:
    """Answers as the path says, in the protocol of the first bytes."""

    def __init__(self) -> None:
        self.seen: defaultdict[str, list[Message]] = defaultdict(list)
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A proxy ends a connection whenever it likes, and the test ends all of them.
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            first = await reader.readexactly(4)
            if first == b"PRI ":
                await self._http2(first, reader, writer)
            else:
                await self._http1(first, reader, writer)
        writer.close()

    async def _http1(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            method, _, rest = (first.decode("latin-1") + head.line).partition(" ")
            first = b""
            target = rest.rpartition(" ")[0]
            if head.get("expect").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body, trailers = await read_body(reader, head, until_close=False)
            self.seen[head.get("x-case")].append(message(f"{method} {target}", head.fields + trailers, body))
            writer.write(answer(method, target.partition("?")[0]))
            if target == "/until-close":
                return

    async def _http2(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
        )
        connection.initiate_connection()
        requests: dict[int, tuple[Fields, bytearray]] = {}
        data = first
        while data:
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    requests[event.stream_id] = ([(str(n), str(v)) for n, v in event.headers], bytearray())
                elif isinstance(event, h2.events.TrailersReceived):
                    requests[event.stream_id][0].extend((str(n), str(v)) for n, v in event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    requests[event.stream_id][1].extend(event.data)
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self._answer2(connection, event.stream_id, *requests.pop(event.stream_id))
            writer.write(connection.data_to_send())
            data = await reader.read(65536)

    def _answer2(self, connection: h2.connection.H2Connection, stream: int, fields: Fields, body: bytearray) -> None:
        names = dict(fields)
        method, path = names.get(":method", ""), names.get(":path", "")
        self.seen[names.get("x-case", "")].append(message(f"{method} {path}", fields, bytes(body)))
        status = path.rpartition("/")[2] if path.startswith("/status/") else "200"
        bodiless = method == "HEAD" or status in ("204", "304")
        connection.send_headers(stream, [(":status", status), ("x-origin", "1")], end_stream=bodiless)
        if not bodiless:
            trailers = path == "/trailers" or "grpc" in names.get("content-type", "")
            connection.send_data(stream, b"hello", end_stream=not trailers)
            if trailers:
                connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)


def answer(method: str, path: str) -> bytes:
    start, length = b"HTTP/1.1 200 OK\r\nx-origin: 1\r\n", b"content-length: 5\r\n\r\n"
    tail = b"" if method == "HEAD" else b"hello"
    if path.startswith("/status/"):
        status = path.rpartition("/")[2]
        start = f"HTTP/1.1 {status} Said\r\nx-origin: 1\r\n".encode()
        return start + (b"\r\n" if status in ("204", "304") else length + tail)
    if path == "/chunked":
        return start + b"transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    if path == "/trailers":
        return start + b"transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"
    if path == "/until-close":
        return start + b"connection: close\r\n\r\nhello"
    if path == "/cookies":
        return start + b"set-cookie: a=1\r\nset-cookie: b=2\r\n" + length + tail
    if path == "/early-hints":
        return b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n" + start + length + tail
    return start + length + tail


async def ask(port: int, case: Case) -> list[Message]:
    """What a client gets for the bytes of `case`: its answers, then "closed" or "silence" where one did not come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    got: list[Message] = []
    try:
        writer.write(case.data)
        while True:
            finals = sum(not each.start.startswith("1") for each in got)
            patience = SILENCE_SECONDS if finals < case.answers else AFTER_SECONDS
            try:
                async with asyncio.timeout(patience):
                    head = await read_head(reader)
                    status = head.line.split(" ")[1]
                    bare = case.head or status[0] == "1" or status in ("204", "304")
                    body, trailers = (b"", []) if bare else await read_body(reader, head, until_close=True)
            except TimeoutError:
                return got if finals >= case.answers else [*got, Message("silence")]
            except (asyncio.IncompleteReadError, OSError):
                return got if finals >= case.answers else [*got, Message("closed")]
            got.append(message(status, head.fields + trailers, body))
    finally:
        writer.transport.abort()


# ---- HTTP/2


async def ask2(port: int, case: Case2) -> list[Message]:
    """What a client gets on its stream: an answer, "reset" with the code, or "closed" with the connection."""
    config = h2.config.H2Configuration(
        header_encoding="latin-1",
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection.send_headers(1, case.fields, end_stream=case.body is None)
    if case.body is not None:
        connection.send_data(1, case.body, end_stream=case.trailers is None)
    if case.trailers is not None:
        connection.send_headers(1, case.trailers, end_stream=True)
    fields: Fields = []
    body = bytearray()
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            while True:
                writer.write(connection.data_to_send())
                data = await reader.read(65536)
                if not data:
                    return [Message("closed")]
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        fields.extend((str(n), str(v)) for n, v in event.headers)
                    elif isinstance(event, h2.events.DataReceived):
                        body.extend(event.data)
                    elif isinstance(event, h2.events.StreamReset):
                        return [Message("reset")]
                    elif isinstance(event, h2.events.ConnectionTerminated):
                        return [Message("closed")]
                    elif isinstance(event, h2.events.StreamEnded):
                        status = dict(fields).get(":status", "")
                        return [message(status, [f for f in fields if f[0] != ":status"], bytes(body))]
    except TimeoutError:
        return [Message("silence")]
    except (OSError, h2.exceptions.ProtocolError) as error:
        return [Message(f"closed: {type(error).__name__}")]
    finally:
        writer.transport.abort()


async def run_cases(
    origin: Origin, cases: list[Case] | list[Case2], ask_one: Callable[..., object], port: int
) -> dict[str, Outcome]:
    """All cases through the proxy at `port`, a few at a time."""
    gate = asyncio.Semaphore(8)
    outcomes = {}
    origin.seen.clear()

    async def one(case: Case | Case2) -> None:
        async with gate:
            got = await ask_one(port, case)  # type: ignore[misc]
        outcomes[case.name] = Outcome(origin.seen[case.name], got)  # type: ignore[arg-type]

    await asyncio.gather(*(one(case) for case in cases))
    return outcomes
