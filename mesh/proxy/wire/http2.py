"""An HTTP/2 connection, either end of it: bytes in, calls on streams out; calls on streams in, bytes out (RFC 9113).

No sockets. `feed` takes what was read, calls the streams and the sink, and leaves what is to be written in `output()`;
the owner writes that once per read. Streams may be written to, consumed and reset from inside those calls.

Frames are no objects: the loop in `feed` takes them apart and calls one method per frame. Header blocks are encoded
without state (`hpack.py`), so only decoding ties streams together, and a block is decoded even where its stream is
refused. Sending is bounded by the owner, which heeds `Stream.blocked`; receiving by the windows, by `H2Settings` and by
the allowances of `http2_limits.py`. Windows are refilled when the owner has passed the bytes on, in batches of half a
window. The connection's send window is shared out in turns, a frame each.

A broken rule is an error of the stream where the connection's state is certain to survive it, else of the connection:
GOAWAY is queued, `H2ConnectionError` raised, and nothing is read any more.

Rejected: h2 and jh2 (202 and 119 µs per request in a relay; h2 is the oracle in the tests), server push, priorities
(RFC 9113 deprecates them), extended CONNECT (a tunnel goes by HTTP/1 here).

One file because it is one state machine: a frame's meaning depends on all that stands here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Protocol

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.hpack import TABLE_SIZE_ZERO, DecodedField, decoding_failed, new_decoder
from mesh.proxy.wire.http2_frames import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    DEFAULT_MAX_FRAME,
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HAS_PRIORITY,
    HEADER_SIZE,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LOST,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    H2ConnectionError,
    frame_header,
    goaway_frame,
    ping_frame,
    rst_stream_frame,
    settings_entries,
    settings_frame,
    unpadded,
    window_update_frame,
)
from mesh.proxy.wire.http2_heads import Malformed, decoded_bytes, request_head, response_head, trailer_fields
from mesh.proxy.wire.http2_limits import (
    EMPTY_DATA_FLOOD,
    IGNORED_FLOOD,
    INFORMATIONAL_FLOOD,
    MAX_BLOCK_BYTES,
    MAX_CONTINUATIONS,
    MAX_DECODED_BYTES,
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
_PRIORITY_SIZE = 5


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


class H2Connection:
    """See the module."""

    __slots__ = (
        "_allowances",
        "_block",
        "_block_bytes",
        "_block_flags",
        "_block_id",
        "_client",
        "_dead",
        "_decode",
        "_final",
        "_last_id",
        "_next_id",
        "_now",
        "_peer_left",
        "_peer_stream_window",
        "_preface",
        "_receive_window",
        "_reset",
        "_rest",
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
        self._decode = new_decoder(MAX_DECODED_BYTES)
        self._rest = b""
        self._preface = b"" if client else PREFACE
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
        self._block: list[bytes] = []
        self._block_id = 0
        self._block_flags = 0
        self._block_bytes = 0
        self._reset: dict[int, int] = {}
        """Streams that we reset, with what was left of their receive windows."""
        self._allowances: dict[Limit, Allowance] = {}

    def __repr__(self) -> str:
        role = "client" if self._client else "server"
        return f"<H2Connection {role}, {len(self.streams)} streams, {'dead' if self._dead else 'alive'}>"

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

    def open(self, stream: Stream) -> None:
        """Gives a new request its id (client role). Its head must be sent before another stream is opened. With the
        last id there is, the sink is told what a peer's GOAWAY would tell it."""
        stream.id = self._next_id
        self._next_id += 2
        self._adopt(stream, receiving=True)
        if stream.id == MAX_STREAM_ID:
            self._peer_left = True
            self._sink.goaway_received(MAX_STREAM_ID, NO_ERROR)

    @property
    def usable(self) -> bool:
        """Whether another stream may be opened."""
        return not (self._dead or self._peer_left or self.sent_goaway)

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

    def lost(self) -> None:
        """The transport is closed: every stream ends with `LOST`."""
        self._dead = True
        for stream in list(self.streams.values()):
            self._tell_reset(stream, LOST)

    # ---- reading

    def feed(self, data: bytes) -> None:
        """Takes what was read, in any pieces.

        Raises:
            H2ConnectionError: the connection is over; GOAWAY is in the output.
        """
        if self._dead:
            return
        if self._rest:
            data = self._rest + data
        position, size = 0, len(data)
        if self._preface:
            position = min(size, len(self._preface))
            if data[:position] != self._preface[:position]:
                self._fail(PROTOCOL_ERROR, "no HTTP/2 preface")
            self._preface = self._preface[position:]
        unpack = frame_header.unpack_from
        max_frame = self._settings.max_frame
        while size - position >= HEADER_SIZE and not self._dead:
            length_and_kind, flags, stream_id = unpack(data, position)
            length, kind = length_and_kind >> 8, length_and_kind & 0xFF
            if length > max_frame:
                self._fail(FRAME_SIZE_ERROR, "a frame larger than announced")
            start = position + HEADER_SIZE
            if size - start < length:
                break
            position = start + length
            payload = data[start:position]
            stream_id &= MAX_STREAM_ID
            if self._block_id and (kind != CONTINUATION or stream_id != self._block_id):
                self._fail(PROTOCOL_ERROR, "a header block was interrupted")
            if kind == DATA:
                self._data(flags, stream_id, payload, length)
            elif kind == HEADERS:
                self._headers(flags, stream_id, payload)
            else:
                self._control(kind, flags, stream_id, payload)
        self._rest = b"" if self._dead or position == size else data[position:]

    def _data(self, flags: int, stream_id: int, payload: bytes, length: int) -> None:
        self._receive_window -= length
        if self._receive_window < 0:
            self._fail(FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._data_on_closed(stream_id, flags, length)
            return
        if flags & PADDED:
            content = unpadded(payload)
            if content is None:
                self._fail(PROTOCOL_ERROR, "more padding than frame")
            payload = content
        size = len(payload)
        stream._receive_window -= length
        stream._held += length
        if not stream._receiving:
            self._break_stream(stream, STREAM_CLOSED)
            return
        if stream._receive_window < 0:
            self._break_stream(stream, FLOW_CONTROL_ERROR)
            return
        if not stream._headed:
            self._break_stream(stream, PROTOCOL_ERROR)
            return
        if size != length:
            stream.consumed(length - size)
        end = flags & END_STREAM != 0
        if stream._expected >= 0:
            stream._expected -= size
            if stream._expected < 0 or (end and stream._expected):
                self._break_stream(stream, PROTOCOL_ERROR)
                return
        if size:
            self.useful_frames += 1
        elif not end:
            self._spend(EMPTY_DATA_FLOOD)
            return
        if end:
            stream._receiving = False
            if not stream._sending:
                self.forget(stream)
        if stream._ignored:
            stream.consumed(size)
        else:
            stream.data_received(payload, end)

    def _data_on_closed(self, stream_id: int, flags: int, length: int) -> None:
        """The bytes count against the connection all the same (section 5.1)."""
        self._check_not_idle(stream_id)
        self.credit += length
        if self.credit >= self.credit_batch:
            self.announce_credit()
        window = self._reset.get(stream_id)
        if window is None:
            self._fail(STREAM_CLOSED, "DATA on a closed stream")
        if length > window:
            self._fail(FLOW_CONTROL_ERROR, "more DATA than the window of a stream that was reset")
        if flags & END_STREAM:
            del self._reset[stream_id]
        else:
            self._reset[stream_id] = window - length
            if not length:
                self._spend(EMPTY_DATA_FLOOD)

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._settled:
            self._fail(PROTOCOL_ERROR, "SETTINGS do not come first")
        if not stream_id:
            self._fail(PROTOCOL_ERROR, "HEADERS without a stream")
        if flags & (PADDED | HAS_PRIORITY):
            content: bytes | None = unpadded(payload) if flags & PADDED else payload
            skipped = _PRIORITY_SIZE if flags & HAS_PRIORITY else 0
            if content is None or len(content) < skipped:
                self._fail(PROTOCOL_ERROR, "HEADERS too short for what their flags say")
            payload = content[skipped:]
        if flags & END_HEADERS:
            self._block_received(stream_id, payload, flags & END_STREAM != 0)
            return
        self._block_id = stream_id
        self._block_flags = flags
        self._block = [payload]
        self._block_bytes = len(payload)

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._block_id:
            self._fail(PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block.append(payload)
        self._block_bytes += len(payload)
        if self._block_bytes > MAX_BLOCK_BYTES or len(self._block) > MAX_CONTINUATIONS + 1:
            self._fail(ENHANCE_YOUR_CALM, "too much CONTINUATION")
        if flags & END_HEADERS:
            block, self._block, self._block_id = b"".join(self._block), [], 0
            self._block_received(stream_id, block, self._block_flags & END_STREAM != 0)

    def _block_received(self, stream_id: int, block: bytes, end: bool) -> None:
        try:
            fields = self._decode(block, True)
        except BaseException as error:
            if not decoding_failed(error):
                raise
            self._fail(COMPRESSION_ERROR, "a header block that cannot be decoded")
        # An indexed field is no larger than the table, a literal at most 8/5 of its bytes: so few cannot be too much.
        small = len(fields) < 15 and len(block) < 2_048
        oversized = not small and decoded_bytes(fields) > self._settings.max_header_list
        stream = self.streams.get(stream_id)
        if stream is None:
            if not self._client and stream_id > self._last_id and stream_id & 1:
                self._request(stream_id, fields, end, oversized)
            else:
                self._head_on_closed(stream_id, end)
            return
        if not stream._receiving:
            self._break_stream(stream, STREAM_CLOSED)
            return
        if oversized:
            self._break_stream(stream, PROTOCOL_ERROR)
            return
        try:
            if stream._headed:
                self._trailers(stream, fields, end)
            else:
                self._response(stream, fields, end)
        except Malformed:
            self._break_stream(stream, PROTOCOL_ERROR)

    def _request(self, stream_id: int, fields: list[DecodedField], end: bool, oversized: bool) -> None:
        self._last_id = stream_id
        stream = None
        if not self._final and len(self.streams) < self._settings.max_concurrent_streams:
            stream = self._sink.accept_stream()
        if stream is None:
            if not end:
                self._remember_reset(stream_id, self._settings.stream_window)
            self.out.append(rst_stream_frame(stream_id, REFUSED_STREAM))
            if not self.sent_goaway:
                self._spend(RAPID_RESET)
            return
        stream.id = stream_id
        self._adopt(stream, receiving=not end)
        stream._headed = True
        stream._opened_at = self._now()
        cause = Refused.HEAD_TOO_LARGE
        if not oversized:
            try:
                head = request_head(fields, end)
            except Malformed as malformed:
                cause = malformed.cause
            else:
                self.useful_frames += 1
                if head.content_length is not None:
                    stream._expected = head.content_length
                stream.head_received(head, end)
                return
        stream._ignored = True
        self._spend(RAPID_RESET)
        stream.refused(cause)

    def _response(self, stream: Stream, fields: list[DecodedField], end: bool) -> None:
        head = response_head(fields, end, stream._to_head)
        if head.status < 200:
            self._spend(INFORMATIONAL_FLOOD)
            stream.informational_received(head)
            return
        self.useful_frames += 1
        stream._headed = True
        if head.bodyless:
            stream._expected = 0
        elif head.content_length is not None:
            stream._expected = head.content_length
        if end:
            self._end_receiving(stream)
        stream.head_received(head, end)

    def _trailers(self, stream: Stream, fields: list[DecodedField], end: bool) -> None:
        trailers = trailer_fields(fields)
        if not end or stream._expected > 0:
            raise Malformed("a second head, or trailers before the body that content-length announces")
        self.useful_frames += 1
        self._end_receiving(stream)
        if not stream._ignored:
            stream.trailers_received(trailers)

    def _head_on_closed(self, stream_id: int, end: bool) -> None:
        """Trailers or a response that crossed our reset are dropped."""
        self._check_not_idle(stream_id)
        if stream_id not in self._reset:
            self._fail(STREAM_CLOSED, "HEADERS on a closed stream")
        if end:
            del self._reset[stream_id]
        self._spend(IGNORED_FLOOD)

    # ---- frames other than DATA and HEADERS

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == CONTINUATION:
            self._continuation(flags, stream_id, payload)
            return
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
        elif kind == PRIORITY and size != _PRIORITY_SIZE:
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
            if backlog is None:
                continue  # reset meanwhile
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

    def _adopt(self, stream: Stream, *, receiving: bool) -> None:
        stream.connection = self
        stream._sending = True
        stream._receiving = receiving
        stream._send_window = self._peer_stream_window
        stream._receive_window = self._settings.stream_window
        self.streams[stream.id] = stream

    def _end_receiving(self, stream: Stream) -> None:
        stream._receiving = False
        if not stream._sending:
            self.forget(stream)

    def _drop(self, stream: Stream) -> None:
        stream._sending = stream._receiving = stream.blocked = False
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
        self._rest = b""
        self._block = []
        self.sent_goaway = self._final = True
        self.out.append(goaway_frame(self._last_id, code, detail.encode("ascii", "replace")))
        raise H2ConnectionError(code, detail) from None
