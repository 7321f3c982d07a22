"""Clients that mean harm, each a function: port → one connection's misbehaviour.

An adversary ends when the proxy closes on it, or when its patience is over; what it gets does not matter here. HTTP/2
is written by hand: no library would send these frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable

from benchmarks.load import AUTHORITY

PATIENCE_SECONDS = 1.0
Adversary = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEAD = f"GET / HTTP/1.1\r\nHost: {AUTHORITY}\r\n".encode()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def fields(method: int = 0x82) -> bytes:
    """GET (0x82) or POST (0x83), http, /, and our authority, in HPACK's static table and one literal."""
    return bytes((method, 0x86, 0x84, 0x41, len(AUTHORITY))) + AUTHORITY.encode()


OPENING = PREFACE + frame(SETTINGS, 0, 0)


async def slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in HEAD[:10]:
        if writer.is_closing():  # uvloop raises RuntimeError where asyncio would drop the byte
            return
        writer.write(bytes((byte,)))
        await asyncio.sleep(PATIENCE_SECONDS / 10)


async def half_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(PATIENCE_SECONDS)


async def reset_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"\r\n")
    await writer.drain()
    _reset(writer)


async def reset_in_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD.replace(b"GET", b"POST") + b"content-length: 1000000\r\n\r\n" + bytes(10_000))
    await writer.drain()
    await asyncio.sleep(0.05)
    _reset(writer)


async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hundreds of pipelined requests, no answer taken."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport's reading half
    writer.write((HEAD + b"\r\n") * 300)
    await asyncio.sleep(PATIENCE_SECONDS)


def sends(data: Callable[[], bytes]) -> Adversary:
    """Sends it all, then reads until closed or out of patience."""

    async def adversary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await writer.drain()
            while await reader.read(65_536):
                pass

    return adversary


def _rapid_resets() -> bytes:
    pairs = (
        frame(HEADERS, END_HEADERS | END_STREAM, n, fields()) + frame(RST_STREAM, 0, n, bytes(4)) for n in _odd(500)
    )
    return OPENING + b"".join(pairs)


def _odd(count: int) -> range:
    return range(1, 2 * count, 2)


def _closed_window() -> bytes:
    """Streams whose answers have no window to go out in."""
    opening = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    return opening + b"".join(frame(HEADERS, END_HEADERS | END_STREAM, n, fields()) for n in _odd(100))


ADVERSARIES: dict[str, Adversary] = {
    "slow head": slow_head,
    "half-open": half_open,
    "reset after the request": reset_after_request,
    "reset in the body": reset_in_body,
    "never reads": never_reads,
    "oversized head": sends(lambda: HEAD + b"x-filler: " + b"a" * 500_000 + b"\r\n\r\n"),
    "endless head lines": sends(lambda: HEAD + b"x-y: z\r\n" * 20_000),
    "bad chunk size": sends(lambda: HEAD + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx"),
    "two lengths": sends(lambda: HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
    "noise": sends(lambda: os.urandom(2_000)),
    "TLS that breaks off": sends(lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(40)),
    "huge frame": sends(lambda: OPENING + b"\xff\xff\xff" + bytes((DATA, 0)) + struct.pack(">I", 1) + bytes(100_000)),
    "rapid resets": sends(_rapid_resets),
    "SETTINGS flood": sends(lambda: OPENING + frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) * 2_000),
    "PING flood": sends(lambda: OPENING + frame(PING, 0, 0, bytes(8)) * 5_000),
    "PRIORITY flood": sends(lambda: OPENING + frame(PRIORITY, 0, 1, bytes(5)) * 5_000),
    "empty DATA flood": sends(
        lambda: OPENING + frame(HEADERS, END_HEADERS, 1, fields(0x83)) + frame(DATA, 0, 1) * 5_000
    ),
    "CONTINUATION flood": sends(
        lambda: OPENING + frame(HEADERS, 0, 1, fields()) + frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y" * 100) * 500
    ),
    "HPACK bomb": sends(
        lambda: (
            OPENING
            + frame(HEADERS, END_HEADERS, 1, fields() + b"\x40\x01x\x7f\x81\x1e" + b"a" * 4_000 + b"\xbe" * 9_000)
        )
    ),
    "window overflow": sends(lambda: OPENING + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)) * 3),
    "closed window": sends(_closed_window),
}


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN, where the proxy has not closed already."""
    if writer.is_closing():
        return
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def attack(port: int, name: str) -> None:
    """One connection. What the proxy does to it is its own business."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await ADVERSARIES[name](reader, writer)
        finally:
            writer.transport.abort()
