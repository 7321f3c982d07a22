"""HTTP/1 messages: bytes in, heads and bodies out; heads in, bytes out. No sockets, no clock.

httptools (llhttp, strict) finds the boundaries and refuses the usual smuggling shapes: two lengths, a length beside
chunks, a space before a colon, obsolete folding, bare line feeds. This module adds what llhttp leaves to its caller:
the host rules, the limit on a head's size, hop-by-hop headers, bodies of HEAD responses, upgrades.

A reader calls its sink while it parses. A sink must not write to, or close, the connection that it is being fed from
inside those calls; owners act after `feed` returned. This also lets them answer with one write per read.

Both readers and the writer of heads are one file because they share one set of rules about lengths and connections.

Rejected: h11 (36 times the cost; it is the oracle in the tests) and a regular-expression parser of our own (slower
than httptools, and one more thing that could disagree with the peer's parser). Trailers are dropped, which RFC 9110
section 6.5.1 allows; upgrades and CONNECT are not carried yet: the Upgrade header is stripped, CONNECT is refused.
"""

from __future__ import annotations

from typing import Protocol

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from mesh.proxy.wire.errors import Refused

MAX_HEAD_BYTES = 64 * 1024

Headers = list[tuple[bytes, bytes]]


class MessageError(Exception):
    """A peer sent something that is not HTTP/1 as we accept it; `cause` says how to answer."""

    def __init__(self, cause: Refused, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class RequestHead:
    """A request's line and headers, hop-by-hop headers, `host`, and framing taken out into fields."""

    __slots__ = (
        "authority",
        "chunked",
        "content_length",
        "expect_continue",
        "headers",
        "http_1_0",
        "keep_alive",
        "method",
        "path",
    )

    def __init__(self) -> None:
        self.method = ""
        self.path = b""
        """Origin form, or `*`."""
        self.authority = b""
        """Of the absolute form where the client used it, else the Host header; may be empty with HTTP/1.0."""
        self.headers: Headers = []
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = True
        self.http_1_0 = False
        self.expect_continue = False

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.content_length)


class ResponseHead:
    """A response's status and headers, hop-by-hop headers and framing taken out into fields."""

    __slots__ = ("bodyless", "chunked", "content_length", "headers", "keep_alive", "reason", "status")

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        self.headers: Headers = []
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = True
        self.bodyless = False
        """No body follows whatever the framing says: answer to HEAD, 204, 304."""

    @property
    def until_close(self) -> bool:
        """The end of the connection is the end of the body."""
        return not (self.bodyless or self.chunked or self.content_length is not None)


class RequestSink(Protocol):
    def request_head(self, head: RequestHead) -> None: ...
    def request_body(self, data: bytes) -> None: ...
    def request_end(self) -> None: ...


class ResponseSink(Protocol):
    def response_head(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_end(self) -> None: ...


_CONNECTION, _FRAMING_LENGTH, _FRAMING_CODING, _HOST, _EXPECT, _DROP = range(6)

_COMMON = {
    b"connection": _CONNECTION,
    b"proxy-connection": _DROP,
    b"keep-alive": _DROP,
    b"te": _DROP,
    b"trailer": _DROP,
    b"upgrade": _DROP,
    b"transfer-encoding": _FRAMING_CODING,
    b"content-length": _FRAMING_LENGTH,
}
_REQUEST_SPECIAL = {**_COMMON, b"host": _HOST, b"expect": _EXPECT, b"proxy-authorization": _DROP}
_RESPONSE_SPECIAL = {**_COMMON, b"proxy-authenticate": _DROP}
_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")}
_KEEP_OR_CLOSE = frozenset({b"close", b"keep-alive", b"upgrade", b""})


def _without_nominated(headers: Headers, connection: list[bytes]) -> Headers:
    """`headers` less those that a Connection header declares hop-by-hop (RFC 9110 section 7.6.1)."""
    named = {token.strip().lower() for value in connection for token in value.split(b",")} - _KEEP_OR_CLOSE
    return [entry for entry in headers if entry[0].lower() not in named] if named else headers


def _decimal(value: bytes) -> int:
    # llhttp has already refused signs, lists and overflow.
    return int(value)


class RequestReader:
    """Reads the requests of one client connection, pipelined ones included."""

    __slots__ = (
        "_connection",
        "_continued",
        "_head",
        "_hosts",
        "_in_head",
        "_measure",
        "_parser",
        "_pending",
        "_sink",
        "_special",
    )

    def __init__(self, sink: RequestSink, strip: frozenset[bytes] = frozenset()) -> None:
        """`strip`: lower-case names of end-to-end headers that clients may not send."""
        self._sink = sink
        self._special = {**_REQUEST_SPECIAL, **dict.fromkeys(strip, _DROP)} if strip else _REQUEST_SPECIAL
        self._parser = HttpRequestParser(self)
        self._head = RequestHead()
        self._connection: list[bytes] = []
        self._hosts: list[bytes] = []
        self._in_head = False
        self._continued = False
        self._pending = 0
        self._measure = False

    def feed(self, data: bytes) -> None:
        """Parses `data`, calling the sink.

        Raises:
            MessageError: the client broke the rules; nothing after it can be trusted.
        """
        size = len(data)
        self._measure = self._pending + size > MAX_HEAD_BYTES
        self._continued = self._in_head
        while data:
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                # The request is complete; we do not upgrade, so what follows is the next request.
                data = data[upgrade.args[0] :]
                self._parser = HttpRequestParser(self)
                continue
            except HttpParserCallbackError as error:
                if isinstance(error.__context__, MessageError):
                    raise error.__context__ from None
                raise
            except HttpParserError as error:
                raise MessageError(Refused.BAD_REQUEST, str(error)) from None
            break
        if self._in_head:
            # A head that began in the middle of this read is not charged for it: the limit may be overdrawn by a read.
            self._pending = self._pending + size if self._continued else 1
            if self._pending > MAX_HEAD_BYTES:
                raise MessageError(Refused.HEAD_TOO_LARGE, f"a request head of more than {MAX_HEAD_BYTES} bytes")
        else:
            self._pending = 0

    # ---- httptools callbacks

    def on_message_begin(self) -> None:
        self._head = RequestHead()
        self._in_head = True
        self._continued = False

    def on_url(self, url: bytes) -> None:
        self._head.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        kind = self._special.get(lower)
        if kind is None:
            if self._in_head:
                self._head.headers.append((name, value))
        elif kind != _DROP and self._in_head:
            self._special_header(kind, value)

    def _special_header(self, kind: int, value: bytes) -> None:
        head = self._head
        if kind == _HOST:
            self._hosts.append(value)
        elif kind == _CONNECTION:
            self._connection.append(value)
        elif kind == _FRAMING_LENGTH:
            head.content_length = _decimal(value)
        elif kind == _FRAMING_CODING:
            if value.strip().lower() != b"chunked" or head.chunked:
                raise MessageError(Refused.BAD_REQUEST, "a transfer coding other than chunked")
            head.chunked = True
        elif value.lower() == b"100-continue":
            head.expect_continue = True
        else:
            raise MessageError(Refused.BAD_REQUEST, "an expectation other than 100-continue")

    def on_headers_complete(self) -> None:
        head = self._head
        parser = self._parser
        self._in_head = False
        method = parser.get_method()
        head.method = _METHODS.get(method) or method.decode("ascii")
        version = parser.get_http_version()
        if version == "1.0":
            head.http_1_0 = True
            if head.chunked:
                raise MessageError(Refused.BAD_REQUEST, "chunks in an HTTP/1.0 request")
            head.expect_continue = False
        elif version != "1.1":
            raise MessageError(Refused.BAD_REQUEST, f"HTTP version {version}")
        head.keep_alive = parser.should_keep_alive()
        if self._measure and self._head_bytes() > MAX_HEAD_BYTES:
            raise MessageError(Refused.HEAD_TOO_LARGE, f"a request head of more than {MAX_HEAD_BYTES} bytes")
        if head.method == "CONNECT":
            raise MessageError(Refused.UNSUPPORTED, "CONNECT")
        if head.has_body and parser.should_upgrade():
            # llhttp would take the body for bytes of the upgraded protocol.
            raise MessageError(Refused.BAD_REQUEST, "an upgrade with a body")
        if self._connection:
            head.headers = _without_nominated(head.headers, self._connection)
            self._connection = []
        self._resolve_authority(head)
        self._sink.request_head(head)

    def _resolve_authority(self, head: RequestHead) -> None:
        hosts, self._hosts = self._hosts, []
        if len(hosts) > 1:
            raise MessageError(Refused.BAD_REQUEST, "more than one Host header")
        if not hosts and not head.http_1_0:
            raise MessageError(Refused.BAD_REQUEST, "no Host header")
        path = head.path
        if path[:1] == b"/" or path == b"*":
            head.authority = hosts[0] if hosts else b""
        elif path[:7].lower() == b"http://":
            slash = path.find(b"/", 7)
            query = path.find(b"?", 7)
            if slash < 0 or 0 <= query < slash:
                # No path, as in `http://a?x=1`: it is the root.
                slash = query if query >= 0 else len(path)
                head.path = b"/" + path[slash:]
            else:
                head.path = path[slash:]
            head.authority = path[7:slash]
        else:
            raise MessageError(Refused.BAD_REQUEST, "a request target that is neither a path nor an http:// URI")
        if b"@" in head.authority or b"#" in head.path:
            raise MessageError(Refused.BAD_REQUEST, "user information or a fragment in the request target")

    def _head_bytes(self) -> int:
        head = self._head
        return len(head.path) + sum(len(name) + len(value) + 4 for name, value in head.headers)

    def on_body(self, data: bytes) -> None:
        self._sink.request_body(data)

    def on_message_complete(self) -> None:
        self._pending = 0
        self._sink.request_end()


class ResponseReader:
    """Reads the responses of one server connection, one request at a time (we never pipeline upstream)."""

    __slots__ = ("_connection", "_expect_head", "_head", "_in_head", "_parser", "_sink", "_started")

    def __init__(self, sink: ResponseSink) -> None:
        self._sink = sink
        self._parser = HttpResponseParser(self)
        self._head = ResponseHead()
        self._connection: list[bytes] = []
        self._in_head = True
        self._expect_head = False
        self._started = False

    @property
    def started(self) -> bool:
        """Whether a byte of the response to the current request was seen."""
        return self._started

    def expect(self, method: str) -> None:
        """A request was sent; its method decides how the response is framed."""
        self._started = False
        self._expect_head = method == "HEAD"

    def feed(self, data: bytes) -> None:
        """Parses `data`, calling the sink.

        Raises:
            MessageError: the server broke the rules.
        """
        self._started = True
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as error:
            if isinstance(error.__context__, MessageError):
                raise error.__context__ from None
            raise
        except (HttpParserError, HttpParserUpgrade) as error:
            raise MessageError(Refused.RESPONSE_INVALID, str(error)) from None
        if self._expect_head and not self._in_head:
            # llhttp waits for the body that Content-Length announces and HEAD does not have.
            self._expect_head = False
            self._parser = HttpResponseParser(self)
            self._in_head = True
            self._sink.response_end()

    def end_of_stream(self) -> bool:
        """The server closed. True if that completes the response (its body was delimited by the close)."""
        if not self._in_head and self._head.until_close:
            self._in_head = True
            self._sink.response_end()
            return True
        return False

    # ---- httptools callbacks

    def on_message_begin(self) -> None:
        self._head = ResponseHead()
        self._in_head = True

    def on_status(self, reason: bytes) -> None:
        self._head.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer
        lower = name.lower()
        kind = _RESPONSE_SPECIAL.get(lower)
        head = self._head
        if kind is None:
            head.headers.append((name, value))
        elif kind == _FRAMING_LENGTH:
            head.content_length = _decimal(value)
        elif kind == _CONNECTION:
            self._connection.append(value)
        elif kind == _FRAMING_CODING:
            if value.strip().lower() != b"chunked" or head.chunked:
                raise MessageError(Refused.RESPONSE_INVALID, "a transfer coding other than chunked")
            head.chunked = True

    def on_headers_complete(self) -> None:
        head = self._head
        parser = self._parser
        status = head.status = parser.get_status_code()
        nominated = b",".join(self._connection).lower()
        if self._connection:
            head.headers = _without_nominated(head.headers, self._connection)
            self._connection = []
        if status < 200:
            if status == 101:
                raise MessageError(Refused.RESPONSE_INVALID, "an upgrade that nobody asked for")
            return  # interim: 100-continue was answered by us, 103 is advice
        self._in_head = False
        head.bodyless = self._expect_head or status == 204 or status == 304
        if self._expect_head:
            # llhttp counts a missing length as `until close`; an answer to HEAD needs none.
            head.keep_alive = parser.get_http_version() == "1.1" and b"close" not in nominated
        else:
            head.keep_alive = parser.should_keep_alive()
        self._sink.response_head(head)

    def on_body(self, data: bytes) -> None:
        if self._head.bodyless:
            raise MessageError(Refused.RESPONSE_INVALID, "a body where none can be")
        self._sink.response_body(data)

    def on_message_complete(self) -> None:
        if self._in_head:
            return  # the end of an interim response
        self._in_head = True
        self._expect_head = False
        self._sink.response_end()


def request_bytes(head: RequestHead, authority: bytes, extra: bytes = b"") -> bytes:
    """The head to send upstream: origin form, HTTP/1.1, kept alive. `extra`: complete header lines to add."""
    parts = [head.method.encode("ascii"), b" ", head.path, b" HTTP/1.1\r\nhost: ", authority, b"\r\n", extra]
    for name, value in head.headers:
        parts += (name, b": ", value, b"\r\n")
    if head.chunked:
        parts.append(b"transfer-encoding: chunked\r\n\r\n")
    elif head.content_length is not None:
        parts.append(b"content-length: %d\r\n\r\n" % head.content_length)
    else:
        parts.append(b"\r\n")
    return b"".join(parts)


def response_bytes(head: ResponseHead, *, chunked: bool, close: bool, http_1_0: bool) -> bytes:
    """The head to send to a client. `chunked`: the body is sent in chunks; `http_1_0`: the client speaks HTTP/1.0."""
    parts = [b"HTTP/1.1 %d " % head.status, head.reason, b"\r\n"]
    for name, value in head.headers:
        parts += (name, b": ", value, b"\r\n")
    if chunked:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif head.content_length is not None:
        parts.append(b"content-length: %d\r\n" % head.content_length)
    if close:
        parts.append(b"connection: close\r\n\r\n")
    elif http_1_0:
        parts.append(b"connection: keep-alive\r\n\r\n")
    else:
        parts.append(b"\r\n")
    return b"".join(parts)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
