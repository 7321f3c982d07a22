"""HTTP/1 messages: bytes in, heads and bodies out; heads in, bytes out. No sockets, no clock.

    HEAD ──► LENGTH | CHUNK_SIZE ⇄ CHUNK_DATA ──► TRAILERS | UNTIL_CLOSE ──► HEAD (or CLOSED)
     └─────► HELD (an upgrade or CONNECT waits for its answer) ──► RAW

A head is parsed when all of it is here, so that it means the same however it was cut; what is left of a read waits for
the next one. The strict reading is taken of everything that RFC 9112 leaves open, and a shape that two parsers could
frame differently is refused with a cause of its own (`http1_fields`, `errors`). What passes is written anew by the
functions at the end: none of a peer's own framing is ever passed on.

A reader calls its sink while it parses. A sink must not write to, or close, the connection that it is being fed from
inside those calls; owners act after `feed` returned. This also lets them answer with one write per read.

Readers and writers are one file because they share one set of rules about lengths and connections.

Rejected: h11 (15 times the cost; it is the oracle in the tests), and httptools, which was here before and is the second
oracle. It is 0.7 µs faster on a request of ten headers and 0.2 µs on a response, of some 50 for a hop. But llhttp
frames bodies by its own state, so it is told of HEAD and of tunnels by being replaced; it hides how long a chunk's
extension was, takes "GET  /" and HTTP/0.9, and names no cause of a refusal that one could count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mesh.proxy.wire.errors import REASONS, Refused
from mesh.proxy.wire.http1_fields import OUR_PREFIX, TEXT, TOKEN, MessageError, trailers_of
from mesh.proxy.wire.http1_heads import MAX_FIELDS, MAX_START_LINE, request_line, request_of, response_of, status_line
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

MAX_HEAD_BYTES = 64 * 1024
MAX_TRAILER_BYTES = 16 * 1024
MAX_EXTENSION_BYTES = 16 * 1024
"""Of all chunk extensions of one body together; hyper's limit. Nobody uses them but to waste our time."""
MAX_EMPTY_LINES = 8
"""Before a request line (RFC 9112 section 2.2 asks for one to be forgiven)."""
MAX_INTERIM = 32
"""Interim responses to one request."""
MAX_HELD_BYTES = 64 * 1024
"""After a request for a tunnel, until that is answered."""

_MAX_SIZE_DIGITS = 16
_HEXADECIMAL = b"0123456789abcdefABCDEF"

_HEAD, _LENGTH, _CHUNK_SIZE, _CHUNK_DATA, _TRAILERS, _UNTIL_CLOSE, _HELD, _RAW, _CLOSED = range(9)


class RequestSink(Protocol):
    def request_head(self, head: RequestHead) -> None: ...
    def request_body(self, data: bytes) -> None: ...
    def request_end(self, trailers: Headers | None) -> None:
        """Also after the head of a request for a tunnel, though `request_body` goes on once that is granted."""


class ResponseSink(Protocol):
    def response_interim(self, head: ResponseHead) -> None:
        """102 to 199, without 101; 100 is between each two neighbours and not passed on."""

    def response_head(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_end(self, trailers: Headers | None) -> None: ...


class _Nobody:
    """Hears what is left of a connection that is over."""

    def request_head(self, head: RequestHead) -> None: ...
    def request_body(self, data: bytes) -> None: ...
    def request_end(self, trailers: Headers | None) -> None: ...
    def response_interim(self, head: ResponseHead) -> None: ...
    def response_head(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_end(self, trailers: Headers | None) -> None: ...


_NOBODY = _Nobody()


class _Reader:
    """Framing, which requests and responses share."""

    __slots__ = ("_body", "_extension", "_left", "_rest", "_state", "_strip")

    def __init__(self, body: Callable[[bytes], None], strip: frozenset[bytes]) -> None:
        self._body = body
        self._strip = strip
        self._state = _HEAD
        self._rest = b""
        """Of the last read: the beginning of something that is not all here yet."""
        self._left = 0
        """Of the body or chunk."""
        self._extension = 0

    def feed(self, data: bytes) -> None:
        """Parses `data`, calling the sink.

        Raises:
            MessageError: the peer broke the rules; nothing after it can be trusted.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        position, size = 0, len(data)
        while position < size:
            # A head is what comes most often; the rest goes by the table.
            position = self._head(data, position) if not self._state else _STEPS[self._state](self, data, position)

    # ---- what differs

    def _head(self, data: bytes, position: int) -> int:
        raise NotImplementedError

    def _end(self, trailers: Headers | None) -> None:
        raise NotImplementedError

    # ---- steps: take what they can of `data` from `position` on, return how far they came

    def _length(self, data: bytes, position: int) -> int:
        size = len(data) - position
        if size < self._left:
            self._left -= size
            self._body(data[position:] if position else data)
            return len(data)
        end = position + self._left
        self._body(data[position:end])
        self._end(None)
        return end

    def _chunk_size(self, data: bytes, position: int) -> int:
        end = data.find(b"\r\n", position)
        while 0 < end - position <= _MAX_SIZE_DIGITS:
            # The usual shape, and all of it here.
            digits = data[position:end]
            if digits.translate(None, _HEXADECIMAL):
                break
            size = int(digits, 16)
            if not size:
                if data.startswith(b"\r\n\r\n", end):
                    self._end(None)
                    return end + 4
                return self._chunk_begins(0, end)
            position = end + 2
            if not data.startswith(b"\r\n", position + size):
                self._left = size
                self._state = _CHUNK_DATA
                return position
            end = position + size
            self._body(data[position:end])
            position = end + 2
            end = data.find(b"\r\n", position)
        if position == len(data):
            return position
        # A complete line is cut as an incomplete one is, so that both are refused alike.
        longest = position + _MAX_SIZE_DIGITS + MAX_EXTENSION_BYTES + 2
        line = data[position : min(end if end >= 0 else len(data), longest)]
        digits, semicolon, extension = line.partition(b";")
        if end < 0 and not semicolon and digits[-1:] == b"\r":
            digits = digits[:-1]
        if digits.translate(None, _HEXADECIMAL) or len(digits) > _MAX_SIZE_DIGITS or not digits:
            raise MessageError(Refused.CHUNK_SIZE, "a chunk's size that is none")
        if semicolon:
            known = extension[:-1] if end < 0 and extension[-1:] == b"\r" else extension
            if known.translate(None, TEXT) or self._extension + len(known) > MAX_EXTENSION_BYTES:
                raise MessageError(Refused.CHUNK_EXTENSION, "chunk extensions that are none, or too long")
        if end < 0:
            self._rest = data[position:]
            return len(data)
        if semicolon:
            self._extension += len(extension)
        return self._chunk_begins(int(digits, 16), end)

    def _chunk_begins(self, size: int, end: int) -> int:
        self._left = size
        if not size:
            # The line's own end stays: with it, an empty line ends the trailers whether or not there are any.
            self._state = _TRAILERS
            return end
        self._state = _CHUNK_DATA
        return end + 2

    def _chunk_data(self, data: bytes, position: int) -> int:
        left = self._left
        if left:
            size = len(data) - position
            if size < left:
                self._left = left - size
                self._body(data[position:])
                return len(data)
            self._left = 0
            self._body(data[position : position + left])
            position += left
        end = data[position : position + 2]
        if end == b"\r\n":
            self._state = _CHUNK_SIZE
            return position + 2
        if end and end != b"\r":
            raise MessageError(Refused.CHUNK_END, "a chunk that is longer than its size")
        self._rest = end
        return len(data)

    def _trailers(self, data: bytes, position: int) -> int:
        end = data.find(b"\r\n\r\n", position)
        if (end if end >= 0 else len(data)) - position > MAX_TRAILER_BYTES:
            raise MessageError(Refused.HEAD_TOO_LARGE, f"trailers of more than {MAX_TRAILER_BYTES} bytes")
        if end < 0:
            if _has_bare_line_feed(data[position:]):
                raise _bare_line_break()
            self._rest = data[position:]
            return len(data)
        trailers = None
        if end > position:
            lines = data[position + 2 : end].split(b"\r\n")
            if any(b"\n" in line for line in lines):
                raise _bare_line_break()
            if len(lines) > MAX_FIELDS:
                raise MessageError(Refused.TOO_MANY_HEADERS, f"more than {MAX_FIELDS} trailers")
            trailers = trailers_of(lines, self._strip)
        self._end(trailers)
        return end + 4

    def _until_close(self, data: bytes, position: int) -> int:
        self._body(data[position:] if position else data)
        return len(data)

    def _hold(self, data: bytes, position: int) -> int:
        self._rest = data[position:]
        if len(self._rest) > MAX_HELD_BYTES:
            raise MessageError(Refused.TUNNEL_OVERRUN, "too much before the upgrade was answered")
        return len(data)

    def _ignore(self, data: bytes, position: int) -> int:
        return len(data)

    # ---- heads

    def _wait(self, data: bytes, position: int, check_start: Callable[[bytes], object]) -> int:
        """For the rest of a head that is too long, or not all here."""
        _refuse_early(data[position:], check_start)
        if len(data) - position > MAX_HEAD_BYTES + 3:
            raise MessageError(Refused.HEAD_TOO_LARGE, f"a head of more than {MAX_HEAD_BYTES} bytes")
        self._rest = data[position:]
        return len(data)


def _refuse_early(head: bytes, check_start: Callable[[bytes], object]) -> None:
    """Refuses what the beginning of a head already tells: who is slow or hostile is not waited for.

    A complete head that is refused is refused by these rules first, too, so that the cause does not depend on the cut.
    """
    if head[:1].translate(None, TOKEN):
        raise MessageError(Refused.METHOD, "a message that begins with no token")
    line = head[: MAX_START_LINE + 2].partition(b"\r\n")[0]
    if b"\n" in line:
        raise _bare_line_break()
    if len(line) < len(head) and (len(line) > MAX_START_LINE or head.startswith(b"\r\n", len(line))):
        check_start(line)
    if _has_bare_line_feed(head[: MAX_HEAD_BYTES + 4]):
        raise _bare_line_break()


def _has_bare_line_feed(data: bytes) -> bool:
    return data.count(b"\n") != data.count(b"\r\n")


def _bare_line_break() -> MessageError:
    return MessageError(Refused.BARE_LINE_BREAK, "a carriage return or line feed by itself")


_STEPS: tuple[Callable[[_Reader, bytes, int], int], ...] = (
    _Reader._ignore,  # heads differ, see `feed`
    _Reader._length,
    _Reader._chunk_size,
    _Reader._chunk_data,
    _Reader._trailers,
    _Reader._until_close,
    _Reader._hold,
    _Reader._until_close,
    lambda reader, data, position: reader._ignore(data, position),
)
"""By state."""


class RequestReader(_Reader):
    """Reads the requests of one client connection, pipelined ones included."""

    __slots__ = ("_empty_lines", "_keep_alive", "_sink", "_tunnel")

    def __init__(self, sink: RequestSink, strip: frozenset[bytes] = frozenset()) -> None:
        """`strip`: which headers of ours (`l5d-...`, lower case) clients may not send."""
        assert all(name.startswith(OUR_PREFIX) for name in strip)
        super().__init__(sink.request_body, strip)
        self._sink: RequestSink = sink
        self._empty_lines = 0
        self._keep_alive = True
        self._tunnel = False

    def release(self) -> None:
        """The connection is over. Its owner knows us, and we no longer the owner: a cycle would wait for the collector,
        whose pauses grow with what it finds."""
        self._sink, self._body = _NOBODY, _NOBODY.request_body

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and not ended."""
        return self._state == _HEAD and bool(self._rest)

    @property
    def in_body(self) -> bool:
        """Whether a head has ended and its body has not."""
        return _HEAD < self._state < _UNTIL_CLOSE

    def switch_to_raw(self) -> None:
        """The tunnel was granted: what comes, and what came too early, is the body as it is."""
        held, self._rest = self._rest, b""
        self._state = _RAW
        if held:
            self._sink.request_body(held)

    def take_held(self) -> bytes:
        """The tunnel is somebody else's: what came too early for it."""
        held, self._rest = self._rest, b""
        return held

    def stay(self) -> None:
        """The tunnel was declined: what comes, and what came too early, are requests.

        Raises:
            MessageError: as `feed`.
        """
        if self._state == _HELD:
            held, self._rest = self._rest, b""
            self._state = _HEAD if self._keep_alive else _CLOSED
            self.feed(held)

    def _head(self, data: bytes, position: int) -> int:
        end = data.find(b"\r\n\r\n", position)
        if not 0 < end - position <= MAX_HEAD_BYTES or data[position] == 0x0D:
            return self._no_head(data, position)
        lines = data[position:end].split(b"\r\n")
        self._empty_lines = 0
        try:
            head = request_of(lines, self._strip)
        except MessageError:
            _refuse_early(data[position:end], request_line)
            raise
        end += 4
        self._keep_alive = head.keep_alive
        self._tunnel = head.upgrade != b"" or head.method == "CONNECT"
        if head.chunked:
            self._extension = 0
            self._state = _CHUNK_SIZE
        elif head.content_length:
            self._left = head.content_length
            self._state = _LENGTH
        else:
            self._sink.request_head(head)
            self._end(None)
            return end
        self._sink.request_head(head)
        return end

    def _no_head(self, data: bytes, position: int) -> int:
        if data[position] != 0x0D:
            return self._wait(data, position, request_line)
        if data[position : position + 2] == b"\r\n":
            self._empty_lines += 1
            if self._empty_lines > MAX_EMPTY_LINES:
                raise MessageError(Refused.REQUEST_LINE, "empty lines where a request should be")
            return position + 2
        if len(data) - position > 1:
            raise MessageError(Refused.METHOD, "a message that begins with no token")
        self._rest = data[position:]
        return len(data)

    def _end(self, trailers: Headers | None) -> None:
        self._state = _HELD if self._tunnel else _HEAD if self._keep_alive else _CLOSED
        self._sink.request_end(trailers)


class ResponseReader(_Reader):
    """Reads the responses of one server connection, one request at a time (we never pipeline upstream)."""

    __slots__ = ("_answer", "_connect", "_head_only", "_interim", "_sink", "_started", "_upgrade")

    def __init__(self, sink: ResponseSink) -> None:
        super().__init__(sink.response_body, frozenset())
        self._sink: ResponseSink = sink
        self._answer = ResponseHead()
        self._head_only = False
        self._connect = False
        self._upgrade = False
        self._interim = 0
        self._started = False

    @property
    def started(self) -> bool:
        """Whether a byte of the response to the current request was seen."""
        return self._started

    def expect(self, request: RequestHead) -> None:
        """A request was sent: how its response is framed depends on it. Without this call, as after a GET."""
        self._started = False
        self._state = _HEAD
        self._rest = b""
        self._interim = 0
        method = request.method
        self._head_only = method == "HEAD"
        self._connect = method == "CONNECT"
        self._upgrade = bool(request.upgrade)

    def feed(self, data: bytes) -> None:
        """Parses `data`, calling the sink.

        Bytes after the end of the response are ignored, and `keep_alive` of its head becomes false: whatever they are,
        the connection cannot be trusted with another request.

        Raises:
            MessageError: the server broke the rules.
        """
        self._started = True
        try:
            super().feed(data)
        except MessageError as error:
            raise MessageError(Refused.RESPONSE_INVALID, str(error)) from None

    def release(self) -> None:
        """As of `RequestReader`."""
        self._sink, self._body = _NOBODY, _NOBODY.response_body

    def end_of_stream(self) -> bool:
        """The server closed. True if that completes the response (its body was delimited by the close)."""
        if self._state in (_UNTIL_CLOSE, _RAW):
            self._end(None)
            return True
        return False

    def _head(self, data: bytes, position: int) -> int:
        end = data.find(b"\r\n\r\n", position)
        if not 0 < end - position <= MAX_HEAD_BYTES:
            return self._wait(data, position, status_line)
        try:
            head, http_1_0 = response_of(data[position:end].split(b"\r\n"))
        except MessageError:
            _refuse_early(data[position:end], status_line)
            raise
        end += 4
        status = head.status
        if status < 200 and status != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise MessageError(Refused.RESPONSE_INVALID, f"more than {MAX_INTERIM} interim responses")
            if status != 100:
                self._sink.response_interim(head)
            return end
        self._answer = head
        if status == 101:
            if not self._upgrade or http_1_0:
                raise MessageError(Refused.RESPONSE_INVALID, "an upgrade that nobody asked for")
            self._state = _RAW
        elif self._connect and status < 300:
            # Whatever a length in such a head says, it has no meaning (RFC 9110 section 9.3.6).
            head.chunked = False
            head.content_length = None
            self._state = _RAW
        elif self._head_only or status == 204 or status == 304:
            head.bodyless = True
        elif head.chunked:
            self._extension = 0
            self._state = _CHUNK_SIZE
        elif head.content_length is None:
            head.keep_alive = False
            self._state = _UNTIL_CLOSE
        elif head.content_length:
            self._left = head.content_length
            self._state = _LENGTH
        self._sink.response_head(head)
        if self._state == _HEAD:
            self._end(None)
        return end

    def _end(self, trailers: Headers | None) -> None:
        self._state = _CLOSED
        self._sink.response_end(trailers)

    def _ignore(self, data: bytes, position: int) -> int:
        self._answer.keep_alive = False
        return len(data)


# ---- writers


def request_bytes(head: RequestHead, path: bytes, authority: bytes, headers: Headers, extra: Headers) -> bytes:
    """The head to send upstream as HTTP/1.1, kept alive. `path` and `headers` are those of `head` as the route leaves
    them; `extra` are headers of our own."""
    method = head.method.encode("ascii")
    target = authority if head.method == "CONNECT" else path
    parts = [method, b" ", target, b" HTTP/1.1\r\nhost: ", authority, b"\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    for name, value in extra:
        parts += (name, b": ", value, b"\r\n")
    if head.upgrade:
        parts.append(b"connection: upgrade\r\nupgrade: %b\r\n" % head.upgrade)
    elif head.te_trailers:
        parts.append(b"connection: te\r\nte: trailers\r\n")
    if head.chunked:
        parts.append(b"transfer-encoding: chunked\r\n\r\n")
    elif head.content_length is not None:
        parts.append(b"content-length: %d\r\n\r\n" % head.content_length)
    else:
        parts.append(b"\r\n")
    return b"".join(parts)


def response_bytes(head: ResponseHead, *, chunked: bool, close: bool, http_1_0: bool) -> bytes:
    """The head to send to a client. `chunked`: the body is sent in chunks; `http_1_0`: the client speaks HTTP/1.0."""
    # HTTP/2 between proxies carries no reason; clients that show one expect the usual.
    parts = [b"HTTP/1.1 %d " % head.status, head.reason or REASONS.get(head.status, b""), b"\r\n"]
    for name, value in head.headers:
        parts += (name, b": ", value, b"\r\n")
    if chunked:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif head.content_length is not None and head.status != 204:
        parts.append(b"content-length: %d\r\n" % head.content_length)
    if head.upgrade:
        parts.append(b"connection: upgrade\r\nupgrade: %b\r\n\r\n" % head.upgrade)
    elif close:
        parts.append(b"connection: close\r\n\r\n")
    elif http_1_0:
        parts.append(b"connection: keep-alive\r\n\r\n")
    else:
        parts.append(b"\r\n")
    return b"".join(parts)


def interim_bytes(head: ResponseHead) -> bytes:
    """An interim response to pass on; only for clients that speak HTTP/1.1."""
    fields = b"".join([b"%b: %b\r\n" % pair for pair in head.headers])
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, fields)


def chunk(data: bytes) -> bytes:
    """One chunk; `data` must not be empty, for that would be the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers) -> bytes:
    """The last chunk with trailers after it."""
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % pair for pair in trailers])


LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
