"""Opaque bytes between two connections: what one end receives is written to the other, and nothing is looked at.

    client ──► End ──► End ──► server        each direction ends by itself:
           ◄── End ◄── End ◄──

    END OF STREAM from one end    FIN to the other (TLS: close_notify, then FIN); the other direction goes on
    … from both                   both connections are closed when what was written is out
    reset, or truncated TLS       the other end is reset, so that nobody takes half a stream for a whole one
    writes pile up at one end     reading stops at the other: a slow reader costs one buffer and one read of memory

An end may be joined later than it is connected (its peer is still being dialled). Until then it holds what it receives,
up to `HOLD_BYTES`, and stops reading beyond; an end of stream is held as well. A transport is asyncio's or a `TlsShim`.

Connections may be silent for as long as they like, as in linkerd2-proxy: databases' pools are. Peers that are gone are
found by keepalives and TCP_USER_TIMEOUT (`tune`). An owner that wants an idle limit sets `Relays.idle_seconds`.

Rejected: streams with one task for each direction (half again the CPU), and `BufferedProtocol` (uvloop's plain reads
cost no measurable copy). linkerd2-proxy closes with a FIN where a peer was reset; we hand on the reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

from mesh.proxy.telemetry import TcpSeries
from mesh.proxy.wire.tls import TlsShim

HOLD_BYTES = 64 * 1024
"""What an end that is not joined yet takes in before it stops reading."""

KEEPALIVE_PROBES = 3
"""Unanswered probes, each a keepalive time apart, after which a peer counts as gone."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Transport = asyncio.Transport | TlsShim


def tune(transport: asyncio.BaseTransport, keepalive_seconds: float | None, user_timeout_seconds: float | None) -> None:
    """Makes the kernel find a peer that is gone: keepalives on a silent connection, a limit for unacknowledged bytes.

    None leaves the system's default. Where the system has no such option, it is left out.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if keepalive_seconds is not None:
        seconds = max(1, round(keepalive_seconds))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", seconds),
            ("TCP_KEEPINTVL", seconds),
            ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if user_timeout_seconds is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(user_timeout_seconds * 1000)))


def reset(transport: Transport) -> None:
    """Ends a connection at once and lets its peer know that this was no orderly end (RST)."""
    raw = transport.transport if isinstance(transport, TlsShim) else transport
    sock = raw.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


class End(asyncio.Protocol):
    """One of the two connections of a relay."""

    __slots__ = (
        "_held",
        "_hold_paused",
        "_new",
        "_read",
        "_write",
        "_written",
        "closed",
        "ended",
        "error",
        "lost",
        "other",
        "received",
        "series",
        "transport",
        "write_paused",
    )

    def __init__(self, series: TcpSeries, *, new: bool = True) -> None:
        """`new`: the connection has not been counted as open by whoever had it before."""
        self.series = series
        self._new = new
        self._read = series.read
        self._written = series.written
        self.other: End | None = None
        self.received = 0
        """Bytes."""
        self.ended = False
        """The peer sent its end of stream."""
        self.closed = False
        """We closed or reset the connection, or it was lost: nothing may be asked of the transport any more."""
        self.lost = False
        """The transport is gone."""
        self.error: Exception | None = None
        """What it was lost to."""
        self.write_paused = False
        self._held: list[bytes] = []
        self._hold_paused = False
        self.transport: Transport = None  # type: ignore[assignment]  # set by connection_made, before any use

    def over(self) -> None:
        """Both connections are gone, or this one before it was joined. Called once; subclasses settle accounts."""

    # ---- asyncio.Protocol, or the upper side of a TLS shim

    def connection_made(self, transport: asyncio.BaseTransport | TlsShim) -> None:
        self.transport = cast("Transport", transport)  # uvloop's is asyncio's in all but its base class
        self._write = self.transport.write
        if self._new:
            self.series.opened.value += 1

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self._read.value += size
        self.received += size
        other = self.other
        if other is None:
            self._hold(data)
        else:
            other._written.value += size
            other._write(data)

    def eof_received(self) -> bool:
        if self.closed:
            return False
        self.ended = True
        other = self.other
        if other is None:
            return True
        if other.ended:
            other.close()
            self.close()
            return True  # closed already, once what was written is out
        other.transport.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.error = error
        self.series.ended(error)
        unexpected, self.closed = not self.closed, True
        other = self.other
        if other is None:
            self.over()
            return
        if unexpected:
            other.reset()
        if other.lost:
            self.over()
            other.over()

    def pause_writing(self) -> None:
        self.write_paused = True
        other = self.other
        if other is not None and not other.ended and not other.closed:
            other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        other = self.other
        if other is not None and not other.ended and not other.closed:
            other.transport.resume_reading()

    # ---- for the owner

    def write_first(self, data: bytes) -> None:
        """Writes bytes of our own, before the end is joined."""
        self._written.value += len(data)
        self.transport.write(data)

    def take_held(self) -> bytes:
        """What came in so far, taken out of the relay's hands: the owner reads it (a header of its own protocol)."""
        data = b"".join(self._held)
        self._held.clear()
        return data

    def put_back(self, data: bytes) -> None:
        """The opposite: bytes that the owner did not need."""
        if data:
            self._held.insert(0, data)

    def close(self) -> None:
        """Ends the connection in order, once what was written is out."""
        if not self.closed:
            self.closed = True
            self.transport.close()

    def reset(self) -> None:
        """Ends it at once."""
        if not self.lost and self.transport is not None:
            self.closed = True
            reset(self.transport)

    # ---- inside

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        if not self._hold_paused and sum(map(len, self._held)) > HOLD_BYTES:
            self._hold_paused = True
            self.transport.pause_reading()

    def _hand_over(self, other: End) -> None:
        """Lets the other end have what was held."""
        held = self.take_held()
        if held:
            other._written.value += len(held)
            other._write(held)
        if self.ended:
            if not other.closed:
                other.transport.write_eof()
        elif self._hold_paused and not other.write_paused:
            self.transport.resume_reading()
        elif other.write_paused and not self._hold_paused:
            self.transport.pause_reading()
        self._hold_paused = False


def join(one: End, two: End) -> None:
    """Makes a relay of two connected ends. Where one was lost in the meantime, the other is reset."""
    if one.closed or two.closed:
        one.reset()
        two.reset()
        return
    one.other, two.other = two, one
    one._hand_over(two)
    two._hand_over(one)
    if one.ended and two.ended:
        one.close()
        two.close()


def terminate(end: End) -> None:
    """Resets a relay, or an end that is not joined yet."""
    other = end.other
    end.reset()
    if other is not None:
        other.reset()


class Relays:
    """The relays of one side of the proxy, by their client's end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle_seconds: float | None = None) -> None:
        self._loop = loop
        self.open: dict[End, tuple[int, float]] = {}
        """Each with the bytes that it had moved, and since when it has moved no more (as of the last sweep)."""
        self.idle_seconds = idle_seconds
        """None: a relay may be silent for ever. Else one that moves nothing for this long is closed (at most half as
        long later)."""
        self.idled = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, end: End) -> None:
        self.open[end] = (0, self._loop.time())
        if self._timer is None and self.idle_seconds is not None:
            self._timer = self._loop.call_later(self.idle_seconds / 2, self._sweep, self.idle_seconds)

    def discard(self, end: End) -> None:
        self.open.pop(end, None)

    def stop(self) -> None:
        """Resets them all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for end in list(self.open):
            terminate(end)

    def _sweep(self, idle_seconds: float) -> None:
        now = self._loop.time()
        for end, (before, since) in list(self.open.items()):
            moved = end.received + (end.other.received if end.other is not None else 0)
            if moved != before:
                self.open[end] = (moved, now)
            elif end.closed:
                terminate(end)  # closed a while ago, and its peer has not taken what was written
            elif now - since >= idle_seconds:
                self.idled += 1
                end.close()
                if end.other is not None:
                    end.other.close()
        self._timer = self._loop.call_later(idle_seconds / 2, self._sweep, idle_seconds) if self.open else None
