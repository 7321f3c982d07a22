"""What a peer may ask of one HTTP/2 connection, and what it may not.

Windows, frame sizes and stream counts are bounds on memory. The allowances are bounds on work: frames that cost the
peer next to nothing and us more. An allowance is a token bucket, refilled by time and, where the frame is normal
company of useful ones (a PING that measures bandwidth comes with DATA), by useful frames in either direction.
The clock is looked at only when something is spent.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.proxy.wire.http2_frames import DEFAULT_MAX_FRAME, DEFAULT_WINDOW

MAX_BLOCK_BYTES = 128 * 1024
"""A header block as sent, HEADERS and CONTINUATION together; ends the connection. Twice the header list that is
accepted, because a list that is a little too long shall be answered with 431 and not with GOAWAY."""
MAX_CONTINUATIONS = 32
"""CONTINUATION frames in one header block. Frames of the least maximum size fill `MAX_BLOCK_BYTES` with seven."""
MAX_DECODED_BYTES = 1024 * 1024
"""A header list decoded (RFC 7541 section 4.1: 32 bytes over each field); ends the connection: a small block that
names large entries of the table again and again is an attack. Between `H2Settings.max_header_list` and this the list
is decoded, which keeps the table right, and its stream alone is refused."""
RAPID_SECONDS = 0.1
"""A stream reset by the client within this time of its head was opened in vain. Older ones were held to
`max_concurrent_streams` while they lived, so nothing was got around; and clients with deadlines reset many of those."""
HIGH_WATER = 64 * 1024
"""A stream is `blocked` with more than this waiting for the peer's window."""
LOW_WATER = 16 * 1024
"""A blocked stream goes on when no more than this is left waiting."""


@dataclass(frozen=True, slots=True)
class H2Settings:
    """What this side announces and holds the peer to."""

    max_concurrent_streams: int = 1_000
    """Requests that a client may have open (server role)."""
    stream_window: int = DEFAULT_WINDOW
    """Bytes of body a peer may send on one stream before we have passed them on. Linkerd's value."""
    connection_window: int = 1024 * 1024
    """The same over all streams of a connection. Linkerd's value."""
    max_frame: int = DEFAULT_MAX_FRAME
    """Largest frame accepted, bytes."""
    max_header_list: int = 64 * 1024
    """Largest header list accepted, bytes with 32 over each field. A larger one is refused (431)."""

    def __post_init__(self) -> None:
        # A peer that has not read our SETTINGS yet may use the defaults: what we announce must not be below them.
        if min(self.stream_window, self.connection_window) < DEFAULT_WINDOW or self.max_frame < DEFAULT_MAX_FRAME:
            raise ValueError("windows below 65,535 bytes and frames below 16,384 cannot be announced in time")


@dataclass(frozen=True, slots=True)
class Limit:
    """One kind of frame that must be paid for."""

    cause: str
    """Goes into GOAWAY and the exception."""
    burst: int
    per_second: float
    per_useful_frame: float
    """Tokens earned by each head and each non-empty DATA frame, either way."""


RAPID_RESET = Limit("streams opened in vain", burst=1_000, per_second=100, per_useful_frame=0)
"""Reset at once, refused for want of room, or malformed (server role). nghttp2's burst; its 33/s would end a mesh
connection on which many clients give up early."""
SETTINGS_FLOOD = Limit("too many SETTINGS or GOAWAY", burst=100, per_second=10, per_useful_frame=0)
PING_FLOOD = Limit("too many PING", burst=1_000, per_second=100, per_useful_frame=1)
"""gRPC implementations measure bandwidth with a PING per DATA frame."""
EMPTY_DATA_FLOOD = Limit("too many empty DATA", burst=100, per_second=10, per_useful_frame=1)
IGNORED_FLOOD = Limit("too many frames without effect", burst=1_000, per_second=100, per_useful_frame=10)
"""PRIORITY, unknown frames, frames on closed streams. Clients sort their streams with several PRIORITY frames."""
WINDOW_UPDATE_FLOOD = Limit("too many WINDOW_UPDATE", burst=1_000, per_second=1_000, per_useful_frame=10)
"""Ten for each frame that we send, as Envoy has it."""
INFORMATIONAL_FLOOD = Limit("too many interim responses", burst=100, per_second=10, per_useful_frame=1)


class Allowance:
    """What is left of one limit on one connection."""

    __slots__ = ("_at", "_limit", "_tokens", "_useful")

    def __init__(self, limit: Limit, now: float, useful: int) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._at = now
        self._useful = useful

    def spend(self, now: float, useful: int) -> bool:
        """Takes one token. False: there is none. `useful`: useful frames seen so far."""
        limit = self._limit
        earned = (now - self._at) * limit.per_second + (useful - self._useful) * limit.per_useful_frame
        self._at, self._useful = now, useful
        self._tokens = min(self._tokens + earned, limit.burst) - 1
        return self._tokens >= 0
