"""HTTP/1.1, closed loop: wrk where it is installed, else `python -m benchmarks.load.closed`, a generator of ours."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import time
from array import array
from functools import partial
from typing import cast

import uvloop

from benchmarks.load import AUTHORITY, Load, LoadFailed, quantile, run_generator

MAX_REQUESTS = 5_000_000
_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}


def generator() -> str:
    return "wrk" if shutil.which("wrk") else "benchmarks.load.closed"


def closed(port: int, connections: int, seconds: float, cpu: int) -> Load:
    """Raises LoadFailed."""
    if wrk := shutil.which("wrk"):
        # wrk knows whole seconds only.
        argv = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
        argv += ["-H", f"Host: {AUTHORITY}", f"http://127.0.0.1:{port}/"]
    else:
        argv = [sys.executable, "-m", "benchmarks.load.closed", str(port), str(connections), str(seconds)]
    output, cpu_seconds = run_generator(argv, seconds, cpu)
    requests, took, p50, p99 = parse_wrk(output) if wrk else json.loads(output)
    return Load(requests, took, p50, p99, cpu_seconds)


def parse_wrk(text: str) -> tuple[int, float, float, float]:
    """(requests, seconds, p50 µs, p99 µs) of `wrk --latency`. Raises LoadFailed on any error that it counted."""
    if error := re.search(r"(Socket errors|Non-2xx).*", text):
        raise LoadFailed(error.group())
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s)", text)
    marks = {name: float(value) * _UNITS[unit] for name, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", text)}
    if total is None or int(total.group(1)) == 0 or not {"50", "99"} <= marks.keys():
        raise LoadFailed(f"nothing answered: {text.strip()[-200:]}")
    return int(total.group(1)), float(total.group(2)) * _UNITS[total.group(3)] / 1e6, marks["50"], marks["99"]


class Client(asyncio.Protocol):
    """One connection with one request in flight."""

    request = f"GET / HTTP/1.1\r\nHost: {AUTHORITY}\r\n\r\n".encode()

    def __init__(self, latencies: array[float], deadline: float, done: asyncio.Future[None]) -> None:
        self._latencies, self._deadline, self._done = latencies, deadline, done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self._send()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data
        head, end, body = buffer.partition(b"\r\n\r\n")
        if not end:
            return
        if buffer[9:10] != b"2":
            self._finish(LoadFailed(head.split(b"\r\n")[0].decode("latin-1")))
            return
        if len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent)
        if now < self._deadline and len(self._latencies) < MAX_REQUESTS:
            self._send()
        else:
            self._finish(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._finish(LoadFailed(f"connection lost: {error}"))

    def _send(self) -> None:
        self._buffer = b""
        self._sent = time.perf_counter()
        self._transport.write(self.request)

    def _finish(self, error: LoadFailed | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


async def _generate(port: int, connections: int, seconds: float) -> tuple[int, float, float, float]:
    loop = asyncio.get_running_loop()
    latencies: array[float] = array("d")
    began = time.perf_counter()
    finished = [loop.create_future() for _ in range(connections)]
    for future in finished:
        await loop.create_connection(partial(Client, latencies, began + seconds, future), "127.0.0.1", port)
    async with asyncio.timeout(seconds + 10):
        await asyncio.gather(*finished)
    ordered = sorted(latencies)
    p50, p99 = (quantile(ordered, share) * 1e6 for share in (0.5, 0.99))
    return len(ordered), time.perf_counter() - began, p50, p99


if __name__ == "__main__":
    try:
        print(json.dumps(uvloop.run(_generate(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))))
    except (LoadFailed, OSError) as failure:
        sys.exit(f"benchmarks.load.closed: {failure!r}")
