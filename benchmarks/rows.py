"""What is compared: the rows of the table, each a kind of work with its load, its app and its goal."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chain import Wire
from benchmarks.load import Generate, NoGenerator
from benchmarks.load.closed import closed
from benchmarks.load.echo import echo
from benchmarks.load.grpc import METHOD, grpc
from benchmarks.load.steady import RATE, steady
from benchmarks.machine import Command
from benchmarks.peers.peer import find

ENVOY, ENVOY_HTTP2, HAPROXY = "Envoy", "Envoy, HTTP/2 between", "HAProxy"


@dataclass(frozen=True, slots=True)
class Goal:
    """Ours must be at most `factor` times each of `peers` in `figure`."""

    figure: str
    """A field of `measure.Sample`."""
    factor: float
    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    hops: int
    wire: Wire
    app: Callable[[int], Command]
    """Port → the command that listens there. Raises NoGenerator."""
    load: Generate
    connections: int
    goal: Goal | None = None
    fixed_rate: bool = False
    """Load is the same for everyone: latency is taken under it, and nobody is saturated."""
    note: str = ""

    @property
    def policed(self) -> bool:
        """Whether ours is entered by an inbound side, where policy is."""
        return self.hops == 2 or self.wire is Wire.TCP


def _ours(kind: str) -> Callable[[int], Command]:
    return lambda port: Command([sys.executable, "-m", "benchmarks.app", str(port), kind], port)


def _nghttpd(port: int) -> Command:
    """Answers each call with 128 bytes and a `grpc-status` trailer."""
    program = find("nghttpd")
    if program is None:
        raise NoGenerator("nghttpd is not installed: apt-get install nghttp2-server")
    folder = Path(tempfile.gettempdir()) / "gameday-bench-nghttpd"
    folder.mkdir(exist_ok=True)
    (folder / METHOD[1:]).write_bytes(b"x" * 128)
    argv = [program, "--no-tls", "-a", "127.0.0.1", "-d", str(folder), "--trailer", "grpc-status: 0", str(port)]
    return Command(argv, port)


ROWS = {
    "a": Row("One hop, HTTP/1.1, plaintext", 1, Wire.HTTP1, _ours("small"), closed, 32, Goal("cpu_us", 1.0, (ENVOY,))),
    "b": Row(
        "Two hops, HTTP/1.1, mTLS (TLS 1.3) between the two proxies, which share the core",
        2,
        Wire.HTTP1,
        _ours("small"),
        closed,
        32,
        Goal("cpu_us", 0.9, (ENVOY,)),
        note="CPU of both proxies together. Between them: HTTP/2 for ours and where the name says so, else HTTP/1.1.",
    ),
    "c": Row(
        "One hop, HTTP/2 with gRPC's headers and trailers, plaintext",
        1,
        Wire.HTTP2,
        _nghttpd,
        grpc,
        4,
        Goal("cpu_us", 1.3, (ENVOY,)),
        note="8 calls in flight on each connection.",
    ),
    "d": Row(
        "One hop, opaque TCP: 64-byte messages echoed",
        1,
        Wire.TCP,
        _ours("echo"),
        echo,
        64,
        Goal("cpu_us", 1.3, (HAPROXY,)),
        note="A request is one message there and back.",
    ),
    "e": Row(
        "One hop, HTTP/1.1, answers of 1 MiB",
        1,
        Wire.HTTP1,
        _ours("mebibyte"),
        closed,
        8,
        note="Requests a second are MiB a second.",
    ),
    "f": Row(
        f"Two hops, mTLS, {RATE:,} requests a second, open loop",
        2,
        Wire.HTTP1,
        _ours("small"),
        steady,
        0,
        Goal("added_p99_us", 1.0, (ENVOY, ENVOY_HTTP2)),
        fixed_rate=True,
        note="Latency from the moment a request was due, minus the same without proxies; proxies share one core, load"
        " and app the other, so that each hop pays for wake-ups across cores.",
    ),
}
