"""`python -m benchmarks.app PORT`: the app behind every proxy: 128 bytes to each request, as fast as Python can."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 128\r\n\r\n" + b"x" * 128


class Responder(asyncio.Protocol):
    """Counts ends of heads; a head cut in two by TCP (not on loopback, with requests this small) is not looked for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        self._transport.write(REPLY * data.count(b"\r\n\r\n"))


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
