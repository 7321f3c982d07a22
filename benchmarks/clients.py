"""Clients of the memory harness: many, slow, or inventive; all in HTTP/1.1 over asyncio streams."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator

from benchmarks.load import AUTHORITY

PATIENCE_SECONDS = 60.0
PIECE = 65_536


class NoAnswer(Exception):
    """What must be answered was not; the text says how."""


async def open_connections(port: int, count: int, expected: int | None = 200) -> list[asyncio.StreamWriter]:
    """Each has carried one request and stays open. Raises NoAnswer where the answer is not `expected`."""
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status = await _ask(reader, writer, "/", {})
        if expected is not None and status != expected:
            raise NoAnswer(f"the only request of a connection got {status}, not {expected}")
        writers.append(writer)
    return writers


async def fetch(
    port: int, asks: Iterable[tuple[str, dict[str, str]]], *, connections: int, expected: int | None
) -> Counter[int]:
    """Answers by status. 0: the connection was closed. Raises NoAnswer where one is not `expected`."""
    statuses: Counter[int] = Counter()
    left: Iterator[tuple[str, dict[str, str]]] = iter(asks)

    async def one_client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for path, headers in left:
            try:
                status = await asyncio.wait_for(_ask(reader, writer, path, headers), PATIENCE_SECONDS)
            except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                status = 0
            statuses[status] += 1
            if expected is not None and status != expected:
                raise NoAnswer(f"{path} with {headers}: {status} instead of {expected}")
            if status == 0:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(one_client() for _ in range(connections)))
    return statuses


async def read_slowly(port: int, size: int, pause: float) -> None:
    """Asks for `size` bytes, waits, then reads them all. Raises NoAnswer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_request("GET", f"/bytes/{size}", {}))
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise NoAnswer(f"GET /bytes/{size}: {head[:60]!r}")
    await asyncio.sleep(pause)
    left = size
    while left > 0:
        data = await asyncio.wait_for(reader.read(PIECE), PATIENCE_SECONDS)
        if not data:
            raise NoAnswer(f"{left} of {size} bytes did not come")
        left -= len(data)
    writer.close()


async def send_slowly_read(port: int, size: int, pause: float) -> None:
    """Uploads `size` bytes to an app that reads them only after `pause`. Raises NoAnswer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_request("POST", f"/read/{pause}", {"content-length": str(size)}))
    try:
        for offset in range(0, size, PIECE):
            writer.write(bytes(min(PIECE, size - offset)))
            await asyncio.wait_for(writer.drain(), PATIENCE_SECONDS)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError) as error:
        raise NoAnswer(f"upload of {size} bytes: {error!r}") from None
    if not head.startswith(b"HTTP/1.1 200"):
        raise NoAnswer(f"upload of {size} bytes: {head[:60]!r}")
    writer.close()


def _request(method: str, path: str, headers: dict[str, str]) -> bytes:
    fields = {"host": AUTHORITY, **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, headers: dict[str, str]) -> int:
    writer.write(_request("GET", path, headers))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
    await reader.readexactly(length)
    return int(head[9:12])
