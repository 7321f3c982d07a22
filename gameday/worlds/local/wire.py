"""The wire of one pod that a network-throttle will hit: a relay before its proxy, in the embedded world.

    python -m gameday.worlds.local.wire --listen IP:4143 --to IP:4144 --admin IP:4199

    client proxy ──► relay ──► inbound proxy          at once
    client proxy ◄── relay ◄── inbound proxy          at once, or while throttled through one queue at a rate

Processes of the embedded world share the loopback interface, so that a queueing discipline would hold up everything
and needs root besides. The relay is there from the start of such a run, so that the baseline has its cost too. What it
throttles is what peers get from the pod, TLS handshakes included; calls that the pod makes itself do not pass it. Sizes
and delays are those of `tc tbf` (`scenarios.throttle`).

    GET    /ready
    PUT    /throttle  {"rate": "64kbit"}     the same twice is the same once
    DELETE /throttle                         what waits is sent at once
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import deque

import msgspec
from aiohttp import web

from scenarios.throttle import SEGMENT_BYTES, TokenBucket, bytes_per_second, on_the_wire

MOST_WAITING = 64 * 1024
"""Bytes of one connection; beyond these its server is not read, as a full socket buffer would have it."""


class Throttle(msgspec.Struct, frozen=True):
    """Body of a `PUT /throttle`."""

    rate: str


class Wire:
    """What all connections of the pod share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rate: str | None = None
        self._bucket: TokenBucket | None = None
        self._waiting: deque[tuple[float, Passage, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def throttle(self, rate: str) -> None:
        """Raises KeyError, ValueError: no rate."""
        per_second = bytes_per_second(rate)
        if rate != self._rate:
            self._rate, self._bucket = rate, TokenBucket(self._loop.time(), per_second)

    def free(self) -> None:
        self._rate = self._bucket = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for _, passage, data in waiting:
            passage.out(data)

    def send(self, passage: Passage, data: bytes) -> None:
        """To the client, behind everything that the pod sent before."""
        bucket = self._bucket
        if bucket is None:
            passage.out(data)
            return
        for begin in range(0, len(data), SEGMENT_BYTES):
            segment = data[begin : begin + SEGMENT_BYTES]
            now = self._loop.time()
            # What is due is out, as a kernel's finer clock would have it; the loop's timers are up to a few ms late.
            behind = bool(self._waiting) and self._waiting[-1][0] > now
            at = bucket.leaves_at(now, on_the_wire(len(segment), behind))
            if at <= now and not self._waiting:
                passage.out(segment)
            else:
                self._waiting.append((at, passage, segment))
        if self._waiting and self._timer is None:
            self._timer = self._loop.call_at(self._waiting[0][0], self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _, passage, data = self._waiting.popleft()
            passage.out(data)
        if self._waiting:
            self._timer = self._loop.call_at(self._waiting[0][0], self._due)


class Passage(asyncio.Protocol):
    """One client's connection. Its bytes go through at once; the server's end is a `_Server`."""

    def __init__(self, wire: Wire, to: tuple[str, int]) -> None:
        self.wire = wire
        self.waiting = 0
        """Bytes on their way to the client."""
        self._to = to
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._server_is_done = False
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._client = transport
        peer = str(transport.get_extra_info("peername")[0])
        self._opening = asyncio.get_running_loop().create_task(self._open(peer))

    async def _open(self, peer: str) -> None:
        """The server's proxy sees the client's own address: policies may ask for it."""
        loop = asyncio.get_running_loop()
        try:
            server, _ = await loop.create_connection(lambda: _Server(self), *self._to, local_addr=(peer, 0))
        except OSError:
            self._close_client()
            return
        if self._client is None:
            server.close()
            return
        self._server = server
        for data in self._early:
            server.write(data)

    def data_received(self, data: bytes) -> None:
        if self._server is not None:
            self._server.write(data)
        else:
            self._early.append(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client = None
        if self._server is not None:
            self._server.close()

    # ---- what the server does

    def answered(self, data: bytes) -> None:
        self.waiting += len(data)
        self.wire.send(self, data)
        if self.waiting > MOST_WAITING and self._server is not None:
            self._server.pause_reading()

    def out(self, data: bytes) -> None:
        """A part of the answer has passed the wire."""
        self.waiting -= len(data)
        if self._client is not None:
            self._client.write(data)
        if self._server_is_done:
            if not self.waiting:
                self._close_client()
        elif self._server is not None and self.waiting <= MOST_WAITING // 2:
            self._server.resume_reading()

    def server_closed(self) -> None:
        self._server, self._server_is_done = None, True
        if not self.waiting:
            self._close_client()

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()


class _Server(asyncio.Protocol):
    def __init__(self, passage: Passage) -> None:
        self._passage = passage

    def data_received(self, data: bytes) -> None:
        self._passage.answered(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._passage.server_closed()


def admin(wire: Wire) -> web.Application:
    """The admin server's routes."""

    async def ready(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def throttle(request: web.Request) -> web.Response:
        try:
            wire.throttle(msgspec.json.decode(await request.read(), type=Throttle).rate)
        except (msgspec.DecodeError, KeyError, ValueError) as error:
            raise web.HTTPBadRequest(text=f'{error}; write {{"rate": "64kbit"}}') from None
        return web.json_response({})

    async def free(_: web.Request) -> web.Response:
        wire.free()
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/ready", ready)
    app.router.add_put("/throttle", throttle)
    app.router.add_delete("/throttle", free)
    return app


async def serve(listen: str, to: str, admin_listen: str) -> None:
    """Until told to stop."""
    loop = asyncio.get_running_loop()
    wire = Wire(loop)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: Passage(wire, address(to)), *address(listen), backlog=1024)
    runner = web.AppRunner(admin(wire), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, *address(admin_listen)).start()
    await stop.wait()
    server.close()
    await runner.cleanup()


def address(text: str) -> tuple[str, int]:
    """`ip:port`."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gameday.worlds.local.wire")
    for option in ("--listen", "--to", "--admin"):
        parser.add_argument(option, required=True, metavar="IP:PORT")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.listen, arguments.to, arguments.admin))


if __name__ == "__main__":
    main()
