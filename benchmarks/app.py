"""`python -m benchmarks.app PORT KIND`: what stands behind the proxies, as fast as Python can; on all of 127.0.0.0/8.

small      128 bytes to each request
mebibyte   1 MiB to each request
echo       what it gets, it sends back (plain epoll: it shares its core with the load)
patient    does as the path says: `/wait/SECONDS` answers late, `/bytes/COUNT` streams so many bytes and waits for a
           slow reader, `/read/SECONDS` reads the request's body only after that time; else 128 bytes
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from typing import cast

import uvloop

SMALL, MEBIBYTE = 128, 1024 * 1024
PIECE = b"x" * 65_536


def reply(size: int) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n"
    return head.encode() + b"x" * size


class Responder(asyncio.Protocol):
    """Counts ends of heads; a head cut in two by TCP (not on loopback, with requests this small) is not looked for."""

    def __init__(self, answer: bytes) -> None:
        self._reply = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._reply * data.count(b"\r\n\r\n"))


async def serve(port: int, size: int) -> None:
    answer = reply(size)
    server = await asyncio.get_running_loop().create_server(lambda: Responder(answer), "0.0.0.0", port, backlog=1024)
    await server.serve_forever()


def echo(port: int) -> None:
    listener = socket.create_server(("0.0.0.0", port), backlog=1024)
    poll, sockets = select.epoll(), {}
    poll.register(listener, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                accepted = listener.accept()[0]
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets[accepted.fileno()] = accepted
                poll.register(accepted, select.EPOLLIN)
                continue
            connection = sockets[number]
            try:
                data = connection.recv(4096)
                if data:
                    connection.sendall(data)
            except ConnectionError:
                data = b""
            if not data:
                poll.unregister(connection)
                del sockets[number]
                connection.close()


async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection; bodies by content-length only."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            _, what, amount, *_ = f"{head.split(b' ')[1].decode()}//".split("/")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            if what in ("wait", "read"):
                await asyncio.sleep(float(amount))
            while length > 0:
                length -= len(await reader.read(min(length, len(PIECE)))) or length
            if what == "bytes":
                size = int(amount)
                writer.write(reply(size)[:-size])
                for offset in range(0, size, len(PIECE)):
                    writer.write(PIECE[: size - offset])
                    await writer.drain()
            else:
                writer.write(reply(SMALL))
    except (asyncio.IncompleteReadError, OSError):
        writer.close()  # the proxy has closed the connection


async def serve_patiently(port: int) -> None:
    server = await asyncio.start_server(patient, "0.0.0.0", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    chosen, kind = int(sys.argv[1]), sys.argv[2]
    if kind == "echo":
        echo(chosen)
    elif kind == "patient":
        uvloop.run(serve_patiently(chosen))
    else:
        uvloop.run(serve(chosen, MEBIBYTE if kind == "mebibyte" else SMALL))
