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

This file has the frame loop and messages; `http2_link.py` what concerns the connection as a whole, `http2_stream.py`
one stream, `http2_heads.py` the rules for heads.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.hpack import DecodedField, decoding_failed, new_decoder
from mesh.proxy.wire.http2_frames import (
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HAS_PRIORITY,
    HEADER_SIZE,
    HEADERS,
    LOST,
    MAX_STREAM_ID,
    NO_ERROR,
    PADDED,
    PREFACE,
    PRIORITY_SIZE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    frame_header,
    rst_stream_frame,
    unpadded,
)
from mesh.proxy.wire.http2_heads import Malformed, decoded_bytes, request_head, response_head, trailer_fields
from mesh.proxy.wire.http2_limits import (
    EMPTY_DATA_FLOOD,
    IGNORED_FLOOD,
    INFORMATIONAL_FLOOD,
    MAX_BLOCK_BYTES,
    MAX_CONTINUATIONS,
    MAX_DECODED_BYTES,
    RAPID_RESET,
    H2Settings,
)
from mesh.proxy.wire.http2_link import NOBODY, H2Link, H2Sink
from mesh.proxy.wire.http2_stream import Stream


class H2Connection(H2Link):
    """One end of a connection; see the module."""

    __slots__ = ("_block", "_block_bytes", "_block_flags", "_block_id", "_decode", "_preface", "_rest")

    def __init__(
        self, sink: H2Sink, settings: H2Settings, *, client: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(sink, settings, client=client, now=now)
        self._decode = new_decoder(MAX_DECODED_BYTES)
        self._rest = b""
        self._preface = b"" if client else PREFACE
        self._block: list[bytes] = []
        self._block_id = 0
        self._block_flags = 0
        self._block_bytes = 0

    def __repr__(self) -> str:
        role = "client" if self._client else "server"
        return f"<H2Connection {role}, {len(self.streams)} streams, {'dead' if self._dead else 'alive'}>"

    # ---- the owner's side

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

    def lost(self) -> None:
        """The transport is closed: every stream ends with `LOST`."""
        self._dead = True
        for stream in list(self.streams.values()):
            self._tell_reset(stream, LOST)
        # The sink knows us: without the cycle, what a closed connection held is freed at once, and not in a pause of
        # the collector that frees hundreds of them.
        self._sink = NOBODY

    @property
    def in_head(self) -> bool:
        """Whether the preface or a header block has begun and not ended."""
        return bool(self._preface or self._block_id)

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
            elif kind == CONTINUATION:
                self._continuation(flags, stream_id, payload)
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
            skipped = PRIORITY_SIZE if flags & HAS_PRIORITY else 0
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
