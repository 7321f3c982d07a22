"""What an HTTP/2 connection does as a whole: SETTINGS, windows, PING, GOAWAY, resets, allowances, and its output.

`http2.py` builds on it what concerns messages. The two are one machine; this half needs nothing of the other. It
stays whole because SETTINGS, windows and resets change the same few numbers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Protocol

from mesh.proxy.wire.hpack import TABLE_SIZE_ZERO
from mesh.proxy.wire.http2_frames import (
    ACK,
    CONTINUATION,
    DEFAULT_MAX_FRAME,
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW,
    NO_ERROR,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_SIZE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    H2ConnectionError,
    frame_header,
    goaway_frame,
    ping_frame,
    rst_stream_frame,
    settings_entries,
    settings_frame,
    window_update_frame,
)
from mesh.proxy.wire.http2_limits import (
    IGNORED_FLOOD,
    PING_FLOOD,
    RAPID_RESET,
    RAPID_SECONDS,
    SETTINGS_FLOOD,
    WINDOW_UPDATE_FLOOD,
    Allowance,
    H2Settings,
    Limit,
)
from mesh.proxy.wire.http2_stream import Stream

MAX_SENT_FRAME = 64 * 1024
"""We send no larger DATA frames than this, whatever the peer allows: a turn of one stream must not last."""
MAX_RESET_REMEMBERED = 1_024
"""Streams that we reset and for which frames may still be under way. About as many as there can be at once."""
UNLIMITED_STREAMS = 2**32 - 1


class H2Sink(Protocol):
    """What a connection tells its owner besides its streams."""

    def accept_stream(self) -> Stream | None:
        """A client opens a stream. None refuses it with REFUSED_STREAM; the client may repeat it elsewhere."""

    def settings_received(self, max_concurrent: int) -> None:
        """The peer allows so many requests at once (client role)."""

    def goaway_received(self, last_stream_id: int, code: int) -> None:
        """The peer takes no further streams; those above `last_stream_id` have been told."""

    def pong_received(self, opaque: bytes) -> None:
        """The answer to a `ping`."""


class _Nobody:
    """Owns what is over."""

    def accept_stream(self) -> Stream | None:
        return None

    def settings_received(self, max_concurrent: int) -> None:
        """Of no interest any more; the same below."""

    def goaway_received(self, last_stream_id: int, code: int) -> None: ...

    def pong_received(self, opaque: bytes) -> None: ...


NOBODY: H2Sink = _Nobody()


class H2Link:
    """The connection under the streams; see the module."""

    __slots__ = (
        "_allowances",
        "_client",
        "_dead",
        "_final",
        "_last_id",
        "_next_id",
        "_now",
        "_peer_left",
        "_peer_stream_window",
        "_receive_window",
        "_reset",
        "_settings",
        "_settled",
        "_sink",
        "_size_update",
        "credit",
        "credit_batch",
        "max_send_frame",
        "out",
        "peer_max_concurrent",
        "ring",
        "send_window",
        "sent_goaway",
        "stream_credit_batch",
        "streams",
        "useful_frames",
    )

    def __init__(
        self, sink: H2Sink, settings: H2Settings, *, client: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.streams: dict[int, Stream] = {}
        self.sent_goaway = False
        self.peer_max_concurrent = 100
        """Until the peer's SETTINGS say otherwise (what RFC 9113 recommends as the least)."""
        # Shared with the streams.
        self.out: list[bytes] = []
        self.send_window = DEFAULT_WINDOW
        self.max_send_frame = DEFAULT_MAX_FRAME
        self.ring: deque[Stream] = deque()
        """Streams that wait for the connection's window; not empty only while that is shut."""
        self.credit = 0
        self.credit_batch = settings.connection_window // 2
        self.stream_credit_batch = settings.stream_window // 2
        self.useful_frames = 0

        self._sink = sink
        self._settings = settings
        self._client = client
        self._now = now
        self._settled = False
        self._dead = False
        self._final = False
        self._peer_left = False
        self._receive_window = DEFAULT_WINDOW
        self._peer_stream_window = DEFAULT_WINDOW
        self._size_update = False
        self._next_id = 1
        self._last_id = 0
        """Highest stream that the client opened (server role)."""
        self._reset: dict[int, int] = {}
        """Streams that we reset, with what was left of their receive windows."""
        self._allowances: dict[Limit, Allowance] = {}

    # ---- the owner's side

    def start(self) -> None:
        """Puts the preface, SETTINGS and the connection's window into the output."""
        settings = self._settings
        announced = {ENABLE_PUSH: 0} if self._client else {MAX_CONCURRENT_STREAMS: settings.max_concurrent_streams}
        announced[MAX_HEADER_LIST_SIZE] = settings.max_header_list
        if settings.stream_window != DEFAULT_WINDOW:
            announced[INITIAL_WINDOW_SIZE] = settings.stream_window
        if settings.max_frame != DEFAULT_MAX_FRAME:
            announced[MAX_FRAME_SIZE] = settings.max_frame
        if self._client:
            self.out.append(PREFACE)
        self.out.append(settings_frame(announced))
        self.credit = settings.connection_window - DEFAULT_WINDOW
        if self.credit:
            self.announce_credit()

    def output(self) -> bytes:
        """Everything that is to be written."""
        out = self.out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        return data

    def ping(self, opaque: bytes) -> None:
        """Sends PING with eight bytes."""
        self.out.append(ping_frame(opaque, 0))

    def goaway(self, code: int = NO_ERROR) -> None:
        """Says that no further streams are wanted. Without an error those under way are still taken until
        `goaway_final`; with one this is final."""
        if code != NO_ERROR or self._client:
            self.goaway_final(code)
        elif not self.sent_goaway:
            self.sent_goaway = True
            self.out.append(goaway_frame(MAX_STREAM_ID, NO_ERROR))

    def goaway_final(self, code: int = NO_ERROR) -> None:
        """Says which stream was the last; later ones are refused."""
        if not self._final:
            self.sent_goaway = self._final = True
            self.out.append(goaway_frame(self._last_id, code))

    # ---- frames other than DATA and HEADERS

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == SETTINGS:
            if stream_id:
                self._fail(PROTOCOL_ERROR, "SETTINGS of a stream")
            self._settings_frame(flags, payload)
            return
        if not self._settled:
            self._fail(PROTOCOL_ERROR, "SETTINGS do not come first")
        size = len(payload)
        if kind == WINDOW_UPDATE:
            if size != 4:
                self._fail(FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
            self._window_update(stream_id, int.from_bytes(payload, "big") & MAX_WINDOW)
        elif kind == RST_STREAM:
            if size != 4:
                self._fail(FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
            self._rst_stream(stream_id, int.from_bytes(payload, "big"))
        elif kind == PING:
            if size != 8:
                self._fail(FRAME_SIZE_ERROR, "PING has eight bytes")
            if stream_id:
                self._fail(PROTOCOL_ERROR, "PING of a stream")
            self._spend(PING_FLOOD)
            if flags & ACK:
                self._sink.pong_received(payload)
            else:
                self.out.append(ping_frame(payload, ACK))
        elif kind == GOAWAY:
            if size < 8:
                self._fail(FRAME_SIZE_ERROR, "GOAWAY has eight bytes at least")
            if stream_id:
                self._fail(PROTOCOL_ERROR, "GOAWAY of a stream")
            last = int.from_bytes(payload[:4], "big") & MAX_STREAM_ID
            self._goaway(last, int.from_bytes(payload[4:8], "big"))
        elif kind == PUSH_PROMISE:
            self._fail(PROTOCOL_ERROR, "PUSH_PROMISE, which nobody allowed")
        elif kind == PRIORITY and not stream_id:
            self._fail(PROTOCOL_ERROR, "PRIORITY without a stream")
        elif kind == PRIORITY and size != PRIORITY_SIZE:
            self._fail(FRAME_SIZE_ERROR, "PRIORITY has five bytes")
        else:
            self._spend(IGNORED_FLOOD)

    def _settings_frame(self, flags: int, payload: bytes) -> None:
        if len(payload) % 6 or (flags & ACK and payload):
            self._fail(FRAME_SIZE_ERROR, "SETTINGS of an impossible length")
        if flags & ACK:
            if not self._settled:
                self._fail(PROTOCOL_ERROR, "SETTINGS do not come first")
            self._spend(SETTINGS_FLOOD)
            return
        first, self._settled = not self._settled, True
        self._spend(SETTINGS_FLOOD)
        entries = settings_entries(payload)
        if entries.get(ENABLE_PUSH, 0) > (0 if self._client else 1):
            self._fail(PROTOCOL_ERROR, "ENABLE_PUSH of an impossible value")
        largest = entries.get(MAX_FRAME_SIZE)
        if largest is not None:
            if not DEFAULT_MAX_FRAME <= largest < 2**24:
                self._fail(PROTOCOL_ERROR, "MAX_FRAME_SIZE of an impossible value")
            self.max_send_frame = min(largest, MAX_SENT_FRAME)
        if entries.get(HEADER_TABLE_SIZE, 4_096) < 4_096:
            self._size_update = True
        self.out.append(SETTINGS_ACK)
        window = entries.get(INITIAL_WINDOW_SIZE)
        if window is not None:
            self._resize_windows(window)
        most = entries.get(MAX_CONCURRENT_STREAMS)
        if most is not None or first:
            self.peer_max_concurrent = UNLIMITED_STREAMS if most is None else most
            self._sink.settings_received(self.peer_max_concurrent)

    def _resize_windows(self, window: int) -> None:
        """Section 6.9.2: the windows of open streams move by the difference, below zero too."""
        if window > MAX_WINDOW:
            self._fail(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE of an impossible value")
        change = window - self._peer_stream_window
        self._peer_stream_window = window
        streams = list(self.streams.values())
        for stream in streams:
            stream._send_window += change
            if stream._send_window > MAX_WINDOW:
                self._fail(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE overflows a stream's window")
        if change > 0:
            for stream in streams:
                stream.pump()

    def _window_update(self, stream_id: int, increment: int) -> None:
        self._spend(WINDOW_UPDATE_FLOOD)
        if not stream_id:
            self.send_window += increment
            if not increment:
                self._fail(PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            if self.send_window > MAX_WINDOW:
                self._fail(FLOW_CONTROL_ERROR, "the connection's window overflows")
            self._pump_ring()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            return
        stream._send_window += increment
        if not increment:
            self._break_stream(stream, PROTOCOL_ERROR)
        elif stream._send_window > MAX_WINDOW:
            self._break_stream(stream, FLOW_CONTROL_ERROR)
        elif stream._backlog is not None:
            stream.pump()

    def _pump_ring(self) -> None:
        """A frame from each stream in turn, until the window is shut again or nobody waits."""
        ring = self.ring
        while ring and self.send_window > 0:
            stream = ring.popleft()
            backlog = stream._backlog
            assert backlog is not None
            backlog.waiting = False
            if stream._send_window > 0:
                stream.write_frame(backlog)
                if stream._backlog is backlog and stream._send_window > 0 and not backlog.waiting:
                    backlog.waiting = True
                    ring.append(stream)

    def _rst_stream(self, stream_id: int, code: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            self._reset.pop(stream_id, None)
            self._spend(IGNORED_FLOOD)
            return
        self._tell_reset(stream, code)
        if not self._client and self._now() - stream._opened_at < RAPID_SECONDS:
            self._spend(RAPID_RESET)

    def _goaway(self, last: int, code: int) -> None:
        self._spend(SETTINGS_FLOOD)
        self._peer_left = True
        if self._client:
            for stream_id in [known for known in self.streams if known > last]:
                stream = self.streams.get(stream_id)
                if stream is not None:
                    self._tell_reset(stream, REFUSED_STREAM)
        self._sink.goaway_received(last, code)

    # ---- shared with the streams

    def send_block(self, stream_id: int, block: bytes, end: bool) -> None:
        """HEADERS, and CONTINUATION where the block is larger than a frame."""
        if self._size_update:
            self._size_update = False
            block = TABLE_SIZE_ZERO + block
        out = self.out
        size = len(block)
        if size <= self.max_send_frame:
            out.append(frame_header.pack(size << 8 | HEADERS, END_HEADERS | end, stream_id))
            out.append(block)
            return
        kind, flags = HEADERS, int(end)
        for start in range(0, size, self.max_send_frame):
            piece = block[start : start + self.max_send_frame]
            if start + len(piece) == size:
                flags |= END_HEADERS
            out.append(frame_header.pack(len(piece) << 8 | kind, flags, stream_id))
            out.append(piece)
            kind, flags = CONTINUATION, 0

    def send_window_update(self, stream_id: int, increment: int) -> None:
        self.out.append(window_update_frame(stream_id, increment))

    def announce_credit(self) -> None:
        """Gives the peer back what was consumed over all streams."""
        credit, self.credit = self.credit, 0
        self._receive_window += credit
        self.send_window_update(0, credit)

    def reset_stream(self, stream: Stream, code: int) -> None:
        """RST_STREAM, and nothing more of the stream."""
        if stream._receiving:
            self._remember_reset(stream.id, max(stream._receive_window, 0))
        self.out.append(rst_stream_frame(stream.id, code))
        self._drop(stream)

    def forget(self, stream: Stream) -> None:
        """Both sides have ended."""
        del self.streams[stream.id]

    # ---- inner

    def _drop(self, stream: Stream) -> None:
        stream._sending = stream._receiving = stream.blocked = False
        if stream._backlog is not None:
            if stream._backlog.waiting:
                self.ring.remove(stream)
            stream._backlog = None
        del self.streams[stream.id]
        stream.consumed(stream._held)

    def _tell_reset(self, stream: Stream, code: int) -> None:
        if stream.open:
            self._drop(stream)
            stream.reset_received(code)

    def _break_stream(self, stream: Stream, code: int) -> None:
        """The peer broke a rule on this stream."""
        self.reset_stream(stream, code)
        stream.reset_received(code)
        if not self._client:
            self._spend(RAPID_RESET)

    def _remember_reset(self, stream_id: int, window: int) -> None:
        remembered = self._reset
        if len(remembered) >= MAX_RESET_REMEMBERED:
            del remembered[next(iter(remembered))]
        remembered[stream_id] = window

    def _check_not_idle(self, stream_id: int) -> None:
        """Frames other than HEADERS and PRIORITY on a stream that was never opened end the connection (section 5.1)."""
        opened = stream_id < self._next_id if self._client else stream_id <= self._last_id
        if not opened or not stream_id & 1:
            self._fail(PROTOCOL_ERROR, "a frame on a stream that was never opened")

    def _spend(self, limit: Limit) -> None:
        now = self._now()
        allowance = self._allowances.get(limit)
        if allowance is None:
            allowance = self._allowances[limit] = Allowance(limit, now, self.useful_frames)
        if not allowance.spend(now, self.useful_frames):
            self._fail(ENHANCE_YOUR_CALM, limit.cause)

    def _fail(self, code: int, detail: str) -> NoReturn:
        self._dead = True
        self.sent_goaway = self._final = True
        self.out.append(goaway_frame(self._last_id, code, detail.encode("ascii", "replace")))
        raise H2ConnectionError(code, detail) from None
