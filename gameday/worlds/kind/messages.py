"""What agent and runner say to each other.

The spool is a text of lines, each one JSON array whose first element says what it is. The runner asks for it from a
byte offset; the file only grows, so what it has is always a prefix of what the agent has. A series is named once and
numbered after that; samples are only sent when their value changed, as the run store keeps them.
"""

from __future__ import annotations

from typing import Any

import msgspec


class _Line(msgspec.Struct, frozen=True, array_like=True):
    """Base of all lines."""


class Begun(_Line, frozen=True, array_like=True, tag="b"):
    """The agent started (again): series are numbered anew from here."""

    at: float
    run: str


class Result(_Line, frozen=True, array_like=True, tag="r"):
    """One request at the client, see `loadtests.results`."""

    route: str
    journey: str
    intended_at: float
    sent_at: float | None
    finished_at: float | None
    status: int | None
    error: str | None
    trace_id: str | None


class NewSeries(_Line, frozen=True, array_like=True, tag="n"):
    number: int
    process: str
    name: str
    labels: str


class Samples(_Line, frozen=True, array_like=True, tag="s"):
    """Values of one process at one moment."""

    at: float
    process: str
    values: list[tuple[int, float]]


class ProcessUsage(_Line, frozen=True, array_like=True, tag="u"):
    at: float
    process: str
    cpu_seconds: float
    rss_bytes: int


class Happened(_Line, frozen=True, array_like=True, tag="e"):
    """Something happened to a pod. Kinds are those of the embedded world's supervisor."""

    at: float
    kind: str
    text: str
    data: dict[str, Any]


class PodRow(msgspec.Struct, frozen=True, array_like=True):
    """One pod of the application or of the load."""

    name: str
    """Service and number: `cart-0`."""
    service: str
    namespace: str
    pod: str
    ip: str
    ready: bool


class Pods(_Line, frozen=True, array_like=True, tag="p"):
    """All pods, whenever one came, went, or changed."""

    at: float
    rows: list[PodRow]


class LoadEnded(_Line, frozen=True, array_like=True, tag="l"):
    exit_code: int


Line = Begun | Result | NewSeries | Samples | ProcessUsage | Happened | Pods | LoadEnded

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def encode(line: Line) -> bytes:
    return _encoder.encode(line) + b"\n"


def decode(line: bytes) -> Line:
    """Raises msgspec.DecodeError for a line that no agent wrote."""
    return _decoder.decode(line)


class Clock(msgspec.Struct, frozen=True):
    """Answer of /clock: the agent's Unix seconds."""

    now: float


class LoadStopped(msgspec.Struct, frozen=True):
    """Answer of /load/stop: how the driver ended, and where in the spool its last result ends."""

    exit_code: int
    offset: int
