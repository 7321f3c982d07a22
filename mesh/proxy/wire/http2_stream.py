"""One request and its response on an HTTP/2 connection: states, windows, and what waits for a window.

The owner derives from `Stream`, overrides what the machine calls, and calls the rest, also from inside those calls.
A stream is in one of the five states that RFC 9113 section 5.1 leaves when there is no push: each side is sending or
has ended, and the stream is gone when both have. What is sent on a stream that has ended goes nowhere, silently: the
peer's reset and the owner's next write may cross.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.http2_frames import END_STREAM, NO_ERROR, PROTOCOL_ERROR, frame_header
from mesh.proxy.wire.http2_heads import request_block, response_block, trailer_block
from mesh.proxy.wire.http2_limits import HIGH_WATER, LOW_WATER
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

if TYPE_CHECKING:
    from mesh.proxy.wire.http2 import H2Connection


class Backlog:
    """What a stream has to send and the peer's windows do not let through. Exists only while there are such bytes."""

    __slots__ = ("chunks", "end", "offset", "queued", "trailers", "waiting")

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.offset = 0
        """How much of the first chunk has gone."""
        self.queued = 0
        """Bytes that wait, over all chunks."""
        self.end = False
        """The stream ends after the last chunk."""
        self.trailers: Headers | None = None
        """Sent after the last chunk; they end the stream."""
        self.waiting = False
        """In the connection's ring: only the connection's window holds it up."""


@mypyc_attr(allow_interpreted_subclasses=True)  # where this module is compiled and its user is not
class Stream:
    """What one request is to an HTTP/2 connection; see the module."""

    __slots__ = (
        "_backlog",
        "_credit",
        "_expected",
        "_headed",
        "_held",
        "_ignored",
        "_opened_at",
        "_receive_window",
        "_receiving",
        "_send_window",
        "_sending",
        "_to_head",
        "blocked",
        "connection",
        "id",
    )

    id: int
    connection: H2Connection

    def __init__(self) -> None:
        self.blocked = False
        """More than `HIGH_WATER` bytes wait for the peer's window."""
        self._backlog: Backlog | None = None
        self._sending = self._receiving = False
        self._send_window = self._receive_window = 0
        self._held = 0
        """Bytes delivered and not yet consumed."""
        self._credit = 0
        """Bytes consumed and not yet announced to the peer."""
        self._expected = -1
        """Bytes of body still to come by the content-length; negative where that is not known."""
        self._headed = False
        """The peer's final head has come."""
        self._to_head = False
        """The request is HEAD (client role)."""
        self._ignored = False
        """The head was refused; what the peer still sends is read and dropped."""
        self._opened_at = 0.0

    def __repr__(self) -> str:
        sides = [name for name, on in (("sending", self._sending), ("receiving", self._receiving)) if on]
        return f"<{type(self).__name__} {getattr(self, 'id', '-')} {' and '.join(sides) or 'ended'}>"

    # ---- called by the machine

    def head_received(self, head: RequestHead | ResponseHead, end: bool) -> None:
        """A request's head (server role) or a final response's (client role)."""
        raise NotImplementedError

    def refused(self, cause: Refused) -> None:
        """A request whose head cannot be passed on (server role; `head_received` is not called). The owner may answer;
        what else the client sends is dropped."""
        self.reset(PROTOCOL_ERROR)

    def informational_received(self, head: ResponseHead) -> None:
        """A 1xx response."""

    def data_received(self, data: bytes, end: bool) -> None:
        """A piece of body, which counts against our windows until it is `consumed`."""
        raise NotImplementedError

    def trailers_received(self, trailers: Headers) -> None:
        """The end of the message, with trailers."""
        raise NotImplementedError

    def reset_received(self, code: int) -> None:
        """The stream is gone: reset by the peer, or because the peer broke a rule on it, or with its connection
        (`LOST`; REFUSED_STREAM where a GOAWAY says that the peer has not seen it)."""
        raise NotImplementedError

    def window_opened(self) -> None:
        """The stream was `blocked` and no longer is."""

    # ---- called by the owner

    @property
    def open(self) -> bool:
        """Whether either side may still send."""
        return self._sending or self._receiving

    @property
    def sending(self) -> bool:
        """Whether this side may still send."""
        return self._sending

    def send_request(self, head: RequestHead, authority: bytes, extra: Headers, end: bool) -> None:
        """Sends the head. `end`: there is no body."""
        if self._sending:
            self._to_head = head.method == "HEAD"
            self._send_block(request_block(head, authority, extra), end)

    def send_response(self, head: ResponseHead, extra: Headers, end: bool) -> None:
        """Sends the head, an interim one too. `end`: there is no body."""
        if self._sending:
            self._send_block(response_block(head, extra), end)

    def send_data(self, data: bytes, end: bool) -> None:
        """Sends a piece of body. What exceeds the peer's windows waits; never blocks."""
        if not self._sending:
            return
        connection = self.connection
        size = len(data)
        if self._backlog is None and (
            not size
            or (size <= self._send_window and size <= connection.send_window and size <= connection.max_send_frame)
        ):
            if not size and not end:
                return
            self._send_window -= size
            connection.send_window -= size
            connection.useful_frames += 1
            out = connection.out
            out.append(frame_header.pack(size << 8, end, self.id))
            out.append(data)
            if end:
                self._end_sending()
            return
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = Backlog()
        elif backlog.end:
            return
        if size:
            backlog.chunks.append(data)
            backlog.queued += size
        backlog.end |= end
        self.pump()
        if backlog.queued > HIGH_WATER and self._backlog is backlog:
            self.blocked = True

    def send_trailers(self, trailers: Headers) -> None:
        """Ends the message with trailers, after all data that waits."""
        if not self._sending:
            return
        backlog = self._backlog
        if backlog is None:
            self._send_block(trailer_block(trailers), True)
        elif not backlog.end:
            backlog.trailers = trailers
            backlog.end = True

    def reset(self, code: int) -> None:
        """Ends the stream at once with RST_STREAM. Nothing is called any more; unconsumed bytes count as consumed."""
        if self._sending or self._receiving:
            self.connection.reset_stream(self, code)

    def consumed(self, size: int) -> None:
        """Returns credit for `size` bytes that went on; the peer learns of it in batches."""
        if size > self._held:
            size = self._held
        self._held -= size
        connection = self.connection
        connection.credit += size
        if connection.credit >= connection.credit_batch:
            connection.announce_credit()
        if self._receiving:
            self._credit += size
            if self._credit >= connection.stream_credit_batch:
                credit, self._credit = self._credit, 0
                self._receive_window += credit
                connection.send_window_update(self.id, credit)

    # ---- between stream and connection

    def _send_block(self, block: bytes, end: bool) -> None:
        self.connection.send_block(self.id, block, end)
        if end:
            self._end_sending()

    def _end_sending(self) -> None:
        self._sending = False
        if not self._receiving:
            self.connection.forget(self)
        elif self._ignored:
            self.connection.reset_stream(self, NO_ERROR)  # section 8.1: the answer needs no more of the request

    def pump(self) -> None:
        """Sends what waits, as far as both windows allow; gets in line for the connection's."""
        connection = self.connection
        while (backlog := self._backlog) is not None and not backlog.waiting and self._send_window > 0:
            if connection.send_window <= 0:
                backlog.waiting = True
                connection.ring.append(self)
                return
            self.write_frame(backlog)

    def write_frame(self, backlog: Backlog) -> None:
        """Sends one frame of what waits, and the end after the last. Both windows must be open."""
        connection = self.connection
        room = min(self._send_window, connection.send_window, connection.max_send_frame)
        chunk = backlog.chunks[0]
        start = backlog.offset
        piece = chunk[start : start + room] if start or len(chunk) > room else chunk
        size = len(piece)
        if start + size == len(chunk):
            backlog.chunks.popleft()
            backlog.offset = 0
        else:
            backlog.offset = start + size
        backlog.queued -= size
        self._send_window -= size
        connection.send_window -= size
        connection.useful_frames += 1
        last = not backlog.queued
        flags = END_STREAM if last and backlog.end and backlog.trailers is None else 0
        connection.out.append(frame_header.pack(size << 8, flags, self.id))
        connection.out.append(piece)
        if last:
            self._backlog = None
            if backlog.trailers is not None:
                self._send_block(trailer_block(backlog.trailers), True)
            elif flags:
                self._end_sending()
        if self.blocked and backlog.queued <= LOW_WATER:
            self.blocked = False
            self.window_opened()
