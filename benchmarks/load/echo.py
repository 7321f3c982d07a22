"""Opaque TCP: small messages that must come back as they went, one in flight on each connection.

`python -m benchmarks.load.echo PORT CONNECTIONS SECONDS`. A plain epoll loop: an event loop's overhead would make the
load core the limit.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from array import array

from benchmarks.load import Load, LoadFailed, quantile, run_generator

MESSAGE = b"\x00\x07echo\xff" * 9 + b"\n"
"""64 bytes that no protocol detection takes for HTTP or TLS."""
SILENCE_SECONDS = 5.0


def echo(port: int, connections: int, seconds: float, cpu: int) -> Load:
    """Raises LoadFailed."""
    argv = [sys.executable, "-m", "benchmarks.load.echo", str(port), str(connections), str(seconds)]
    output, cpu_seconds = run_generator(argv, seconds, cpu)
    messages, took, p50, p99 = json.loads(output)
    return Load(messages, took, p50, p99, cpu_seconds)


def generate(port: int, connections: int, seconds: float) -> tuple[int, float, float, float]:
    """(messages, seconds, p50 µs, p99 µs). Raises LoadFailed, OSError."""
    poll, latencies = select.epoll(), array("d")
    sockets = {}
    for _ in range(connections):
        opened = socket.create_connection(("127.0.0.1", port), SILENCE_SECONDS)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[opened.fileno()] = opened
        poll.register(opened, select.EPOLLIN)
    began, sent, clock = time.perf_counter(), {}, time.perf_counter
    deadline = began + seconds
    for number, opened in sockets.items():
        sent[number] = clock()
        opened.send(MESSAGE)
    open_ones = connections
    while open_ones:
        ready = poll.poll(SILENCE_SECONDS)
        if not ready:
            raise LoadFailed(f"no echo for {SILENCE_SECONDS:.0f} s on {open_ones} connections")
        for number, _ in ready:
            opened = sockets[number]
            received = opened.recv(4096)
            while received and len(received) < len(MESSAGE):
                received += opened.recv(4096) or b"\n" * len(MESSAGE)
            if received != MESSAGE:
                raise LoadFailed(f"sent {MESSAGE[:8]!r}…, got {received[:60]!r}")
            now = clock()
            latencies.append(now - sent[number])
            if now < deadline:
                sent[number] = now
                opened.send(MESSAGE)
            else:
                open_ones -= 1
                poll.unregister(opened)
    took = clock() - began
    for opened in sockets.values():
        opened.close()
    ordered = sorted(latencies)
    return len(ordered), took, quantile(ordered, 0.5) * 1e6, quantile(ordered, 0.99) * 1e6


if __name__ == "__main__":
    try:
        print(json.dumps(generate(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
    except (LoadFailed, OSError) as failure:
        sys.exit(f"benchmarks.load.echo: {failure!r}")
