"""Both ends of an HTTP/2 conversation for tests: our machine with streams that take notes, and frames by hand."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.http2 import H2Connection
from mesh.proxy.wire.http2_frames import PREFACE, SETTINGS, frame_header
from mesh.proxy.wire.http2_limits import H2Settings
from mesh.proxy.wire.http2_stream import Stream
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

HOWS = ("whole", "byte by byte", "odd pieces")


def pieces(data: bytes, how: str) -> Iterator[bytes]:
    size = {"whole": len(data) or 1, "byte by byte": 1, "odd pieces": 13}[how]
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Notes(Stream):
    """Remembers what it was told, consumes at once unless told otherwise."""

    def __init__(self, *, consuming: bool = True) -> None:
        super().__init__()
        self.consuming = consuming
        self.head: RequestHead | ResponseHead | None = None
        self.interim: list[int] = []
        self.body = b""
        self.trailers: Headers | None = None
        self.ended = False
        self.code: int | None = None
        self.cause: Refused | None = None
        self.opened = 0

    def head_received(self, head: RequestHead | ResponseHead, end: bool) -> None:
        assert self.head is None
        self.head = head
        self.ended = end

    def refused(self, cause: Refused) -> None:
        self.cause = cause
        super().refused(cause)

    def informational_received(self, head: ResponseHead) -> None:
        self.interim.append(head.status)

    def data_received(self, data: bytes, end: bool) -> None:
        assert not self.ended
        self.body += data
        self.ended = end
        if self.consuming:
            self.consumed(len(data))

    def trailers_received(self, trailers: Headers) -> None:
        assert not self.ended
        self.trailers = trailers
        self.ended = True

    def reset_received(self, code: int) -> None:
        assert self.code is None
        self.code = code

    def window_opened(self) -> None:
        self.opened += 1


class Side:
    """One of our connections and its owner."""

    def __init__(self, *, client: bool, consuming: bool = True, settings: H2Settings | None = None) -> None:
        self.time = 1_000.0
        self.accepting = True
        self.consuming = consuming
        self.accepted: list[Notes] = []
        self.goaways: list[tuple[int, int]] = []
        self.pongs: list[bytes] = []
        self.allowed: list[int] = []
        self.connection = H2Connection(self, settings or H2Settings(), client=client, now=lambda: self.time)
        self.connection.start()

    def accept_stream(self) -> Stream | None:
        if not self.accepting:
            return None
        self.accepted.append(Notes(consuming=self.consuming))
        return self.accepted[-1]

    def settings_received(self, max_concurrent: int) -> None:
        self.allowed.append(max_concurrent)

    def goaway_received(self, last_stream_id: int, code: int) -> None:
        self.goaways.append((last_stream_id, code))

    def pong_received(self, opaque: bytes) -> None:
        self.pongs.append(opaque)

    def request(self, head: RequestHead, end: bool = True) -> Notes:
        stream = Notes(consuming=self.consuming)
        self.connection.open(stream)
        stream.send_request(head, head.authority, [], end)
        return stream


def request(method: str = "GET", path: bytes = b"/", **more: object) -> RequestHead:
    head = RequestHead()
    head.method, head.path, head.authority = method, path, b"cart:80"
    for name, value in more.items():
        setattr(head, name, value)
    return head


def response(status: int = 200, headers: Headers | None = None) -> ResponseHead:
    head = ResponseHead()
    head.status = status
    head.headers = headers or []
    return head


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return frame_header.pack(len(payload) << 8 | kind, flags, stream_id) + payload


CLIENT_START = PREFACE + frame(SETTINGS)


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream, payload of each frame that a side of ours has written."""
    data = data.removeprefix(PREFACE)
    found = []
    while data:
        packed, flags, stream_id = frame_header.unpack_from(data)
        size = packed >> 8
        found.append((packed & 0xFF, flags, stream_id, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def exchange(one: Side, other: Side, how: str = "whole") -> None:
    """Carries what both have to say until both are silent."""
    while True:
        there, back = one.connection.output(), other.connection.output()
        if not there and not back:
            return
        for piece in pieces(there, how):
            other.connection.feed(piece)
        for piece in pieces(back, how):
            one.connection.feed(piece)
