"""The server's wire behaviour over real sockets of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mesh.control.http import MAX_BODY_BYTES, HttpServer, Request, Response, Stream, Watch
from mesh.control.metrics import Metrics

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Fixture:
    """A server whose `/watch` opens a stream and whose other paths echo."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.streams: list[Stream] = []
        self.ended = 0
        self.server = HttpServer("test", self.handle, self.metrics)
        self.port = 0

    def handle(self, request: Request) -> Response | Watch:
        if request.path == "/watch":
            return Watch(self.open)
        return Response(200, f"{request.method} {request.path} {len(request.body)}".encode())

    def open(self, stream: Stream) -> Callable[[], None]:
        self.streams.append(stream)
        return self.close

    def close(self) -> None:
        self.ended += 1

    async def connect(self) -> Client:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def watch(self) -> Client:
        opened = len(self.streams)
        reader, writer = await self.connect()
        writer.write(b"GET /watch HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert len(self.streams) == opened + 1
        return reader, writer


def _run(scenario: Callable[[Fixture], Awaitable[None]]) -> None:
    async def body() -> None:
        fixture = Fixture()
        await fixture.server.bind("127.0.0.1", 0)
        await fixture.server.serve()
        server = fixture.server._server
        assert server is not None
        fixture.port = server.sockets[0].getsockname()[1]
        try:
            await asyncio.wait_for(scenario(fixture), 15)
        finally:
            await fixture.server.close()

    asyncio.run(body())


async def _exchange(fixture: Fixture, data: bytes, pieces: int | None = None) -> bytes:
    reader, writer = await fixture.connect()
    for start in range(0, len(data), pieces or len(data)):
        writer.write(data[start : start + (pieces or len(data))])
        await writer.drain()
        await asyncio.sleep(0)
    return await reader.read()


@pytest.mark.parametrize("pieces", [None, 1, 7])
def test_a_request_is_answered_however_it_is_cut(pieces: int | None) -> None:
    async def scenario(fixture: Fixture) -> None:
        data = b"POST /a%2Fb?q=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc"
        answer = await _exchange(fixture, data, pieces)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nPOST /a/b 3")

    _run(scenario)


def test_requests_on_one_connection_are_answered_in_order() -> None:
    async def scenario(fixture: Fixture) -> None:
        data = b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        answer = await _exchange(fixture, data)
        assert answer.index(b"GET /1 0") < answer.index(b"GET /2 0")

    _run(scenario)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nbig: " + b"x" * 70_000 + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1) + b"x" * (MAX_BODY_BYTES + 1), b"413"),
    ],
    ids=["not HTTP", "no header", "head too large", "body too large"],
)
def test_what_cannot_be_served_is_refused_and_the_connection_closed(data: bytes, status: bytes) -> None:
    async def scenario(fixture: Fixture) -> None:
        try:
            answer = await _exchange(fixture, data)
        except ConnectionError:
            return  # the rest of an oversized request met a closed socket
        assert answer.split(b" ")[1] == status

    _run(scenario)


def test_lines_of_a_stream_come_as_they_are_sent_and_its_end_is_noticed() -> None:
    async def scenario(fixture: Fixture) -> None:
        reader, writer = await fixture.watch()
        fixture.streams[0].send(b'{"a":1}\n')
        assert await reader.readuntil(b"\n\r\n") == b'8\r\n{"a":1}\n\r\n'
        writer.close()
        while not fixture.ended:
            await asyncio.sleep(0.001)

    _run(scenario)


def test_a_reader_that_lags_is_cut_off_and_counted_and_others_are_not() -> None:
    async def scenario(fixture: Fixture) -> None:
        stuck = await fixture.watch()  # kept: a StreamWriter closes its connection when it is collected
        reading = await fixture.watch()
        reader = reading[0]
        line = b"x" * 200_000 + b"\n"
        for _ in range(400):
            for stream in fixture.streams:
                stream.send(line)
            await reader.readexactly(len(line) + 9)
            if fixture.ended:
                break
        assert fixture.ended == 1
        assert fixture.metrics.value("control_stream_overflow_total", server="test") == 1
        fixture.streams[1].send(b"still here\n")
        assert b"still here" in await reader.readuntil(b"\n\r\n")
        assert not stuck[0].at_eof()

    _run(scenario)


def test_closing_the_server_ends_streams_with_the_last_chunk() -> None:
    async def scenario(fixture: Fixture) -> None:
        client = await fixture.watch()
        await fixture.server.close()
        assert await client[0].read() == b"0\r\n\r\n"

    _run(scenario)
