"""Heads of HTTP/1: their lines in, what a proxy needs to know out.

Lengths, codings, hosts and connections are judged here, because they are judged together: a length beside a coding is
refused, an upgrade counts only if Connection names it, a Host only if the target has none. Bodies and where a head ends
are the readers' concern (`http1`).
"""

from __future__ import annotations

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.http1_fields import (
    CODING,
    CONNECTION,
    DROP,
    EXPECT,
    HOST,
    LENGTH,
    OURS,
    PLAIN_LINES,
    SPECIAL_LINES,
    TE,
    TEXT,
    TOKEN,
    UPGRADE,
    VISIBLE,
    MessageError,
    check_authority,
    field,
    tokens,
    without_nominated,
)
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

MAX_TARGET_BYTES = 16 * 1024
MAX_METHOD_BYTES = 32
MAX_FIELDS = 100
"""Of one head or one set of trailers; hyper's limit."""
MAX_START_LINE = MAX_METHOD_BYTES + MAX_TARGET_BYTES + 10

_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")}
_H2C = b"h2c"

_MAX_REMEMBERED, _MAX_REMEMBERED_BYTES = 1024, 128
_REQUEST_LINES: dict[bytes, tuple[str, bytes, bool]] = {}
_STATUS_LINES: dict[bytes, tuple[int, bytes, bool]] = {}
"""Seen lately, as `http1_fields` does it with headers; only the usual ones."""


def request_line(line: bytes) -> tuple[str, bytes, bool]:
    """Method, target, whether it is HTTP/1.0."""
    known = _REQUEST_LINES.get(line)
    if known is not None:
        return known
    parts = line.split(b" ")
    if len(parts) == 3 and len(line) <= MAX_TARGET_BYTES:
        method = _METHODS.get(parts[0])
        if method is not None and parts[2] == b"HTTP/1.1" and parts[1] and not parts[1].translate(None, VISIBLE):
            known = method, parts[1], False
            if len(line) <= _MAX_REMEMBERED_BYTES:
                if len(_REQUEST_LINES) >= _MAX_REMEMBERED:
                    _REQUEST_LINES.clear()
                _REQUEST_LINES[line] = known
            return known
    return _unusualrequest_line(line, parts)


def _unusualrequest_line(line: bytes, parts: list[bytes]) -> tuple[str, bytes, bool]:
    if b"\n" in line or b"\r" in line:
        raise MessageError(Refused.BARE_LINE_BREAK, "a carriage return or line feed by itself")
    if len(line) > MAX_TARGET_BYTES and (len(line) > MAX_START_LINE or len(parts[1:2] and parts[1]) > MAX_TARGET_BYTES):
        if b" " not in line[: MAX_METHOD_BYTES + 1]:
            raise MessageError(Refused.METHOD, "a method that is too long")
        raise MessageError(Refused.URI_TOO_LONG, f"a request target of more than {MAX_TARGET_BYTES} bytes")
    name = _METHODS.get(parts[0])
    if name is None:
        name = parts[0].decode("latin-1")
        if not name or len(name) > MAX_METHOD_BYTES or parts[0].translate(None, TOKEN):
            raise MessageError(Refused.METHOD, "a method that is no token, or too long")
    if len(parts) != 3:
        raise MessageError(Refused.REQUEST_LINE, "a request line that is not method, target and version")
    _, target, version = parts
    if target.translate(None, VISIBLE) or not target:
        raise MessageError(Refused.TARGET, "a request target with characters that no target has")
    if version == b"HTTP/1.1":
        return name, target, False
    if version == b"HTTP/1.0":
        return name, target, True
    raise MessageError(Refused.VERSION, "an HTTP version other than 1.0 and 1.1")


def request_of(lines: list[bytes], strip: frozenset[bytes]) -> RequestHead:
    head = RequestHead()
    head.method, target, http_1_0 = request_line(lines[0])
    headers: Headers = []
    connection = upgrade = host = None
    remembered, special = PLAIN_LINES.get, SPECIAL_LINES.get
    if len(lines) > MAX_FIELDS + 1:
        raise MessageError(Refused.TOO_MANY_HEADERS, f"a head of more than {MAX_FIELDS} fields")
    del lines[0]
    for line in lines:
        pair = remembered(line)
        if pair is None:
            pair, kind = special(line) or field(line)
            if kind:
                value = pair[1]
                if kind == HOST:
                    if host is not None:
                        raise MessageError(Refused.HOST_REPEATED, "more than one Host header")
                    host = value
                elif kind == LENGTH:
                    _take_length(head, value)
                elif kind == CODING:
                    _take_coding(head)
                elif kind == CONNECTION:
                    connection = value if connection is None else connection + b"," + value
                elif kind == EXPECT:
                    if value.lower() != b"100-continue":
                        raise MessageError(Refused.EXPECTATION, "an expectation other than 100-continue")
                    head.expect_continue = True
                elif kind == TE:
                    head.te_trailers = head.te_trailers or b"trailers" in tokens(value)
                elif kind == UPGRADE:
                    upgrade = value if upgrade is None else upgrade + b", " + value
                elif kind == OURS and pair[0] not in strip:
                    headers.append(pair)
                continue
        headers.append(pair)
    head.headers = headers
    if head.chunked:
        _check_coding(head, http_1_0)
    if http_1_0:
        head.http_1_0 = True
        head.expect_continue = False
        head.keep_alive = connection is not None and _stays(tokens(connection))
    elif host is None:
        raise MessageError(Refused.HOST_MISSING, "no Host header")
    if connection is not None:
        options = tokens(connection)
        if not http_1_0:
            head.keep_alive = b"close" not in options
            if upgrade is not None and b"upgrade" in options:
                head.upgrade = b", ".join(
                    offer
                    for offer in (part.strip(b" \t") for part in upgrade.split(b","))
                    if offer and offer.lower() != _H2C
                )
        head.headers = without_nominated(headers, connection)
    if target[:1] == b"/" and b"#" not in target and head.method != "CONNECT":
        head.path = target
        head.authority = host or b""
    else:
        _resolve_target(head, target, host or b"")
    return head


def _resolve_target(head: RequestHead, target: bytes, host: bytes) -> None:
    """Which authority and which path a request is for, where the target is more than a path (RFC 9112 section 3.2)."""
    if head.method == "CONNECT":
        check_authority(target)
        if not target.rpartition(b":")[2].isdigit() or target[:1] == b":":
            raise MessageError(Refused.TARGET, "CONNECT to something other than host:port")
        if head.chunked or head.content_length:
            raise MessageError(Refused.TUNNEL_BODY, "CONNECT with a body")
        head.authority = target
        head.upgrade = b""
        return
    if target == b"*" and head.method == "OPTIONS":
        head.path = target
        head.authority = host
    elif target[:7].lower() == b"http://":
        rest = target[7:]
        cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        head.authority, path = rest[:cut], rest[cut:]
        # No path, as in `http://a?x=1`: it is the root; but OPTIONS then asks about the server (RFC 9112 3.2.4).
        head.path = path if path[:1] == b"/" else b"*" if head.method == "OPTIONS" and not path else b"/" + path
        check_authority(head.authority)
        if not head.authority or head.authority[:1] == b":":
            raise MessageError(Refused.TARGET, "an absolute request target without a host")
    else:
        raise MessageError(Refused.TARGET, "a request target that is neither a path nor an http:// URI")
    if b"#" in target:
        raise MessageError(Refused.TARGET, "a fragment in the request target")


def _take_length(head: RequestHead | ResponseHead, value: bytes) -> None:
    length = int(value)
    if head.content_length is not None:
        if head.content_length == length:
            raise MessageError(Refused.LENGTH_REPEATED, "content-length twice")
        raise MessageError(Refused.LENGTH_CONFLICT, "two content-lengths that differ")
    head.content_length = length


def _take_coding(head: RequestHead | ResponseHead) -> None:
    if head.chunked:
        raise MessageError(Refused.CODING_REPEATED, "transfer-encoding twice")
    head.chunked = True


def _check_coding(head: RequestHead | ResponseHead, http_1_0: bool) -> None:
    if head.content_length is not None:
        raise MessageError(Refused.LENGTH_AND_CHUNKED, "content-length beside transfer-encoding")
    if http_1_0:
        raise MessageError(Refused.CODING_HTTP_1_0, "transfer-encoding in an HTTP/1.0 message")


def _stays(options: list[bytes]) -> bool:
    """Whether an HTTP/1.0 connection is kept."""
    return b"keep-alive" in options and b"close" not in options


def status_line(line: bytes) -> tuple[int, bytes, bool]:
    """Status, reason, whether it is HTTP/1.0."""
    known = _STATUS_LINES.get(line)
    if known is not None:
        return known
    version, code, reason = line[:9], line[9:12], line[13:]
    http_1_0 = version == b"HTTP/1.0 "
    if not http_1_0 and version != b"HTTP/1.1 ":
        raise MessageError(Refused.VERSION, "a response that does not begin with HTTP/1.0 or HTTP/1.1")
    if len(code) != 3 or not code.isdigit() or code[0] == 0x30 or line[12:13] not in (b" ", b""):
        raise MessageError(Refused.REQUEST_LINE, "a status that is no number of three digits")
    if len(line) > MAX_START_LINE or reason.translate(None, TEXT):
        raise MessageError(Refused.REQUEST_LINE, "a reason that is too long, or has control characters")
    known = int(code), reason, http_1_0
    if len(line) <= _MAX_REMEMBERED_BYTES:
        if len(_STATUS_LINES) >= _MAX_REMEMBERED:
            _STATUS_LINES.clear()
        _STATUS_LINES[line] = known
    return known


def response_of(lines: list[bytes]) -> tuple[ResponseHead, bool]:
    head = ResponseHead()
    head.status, head.reason, http_1_0 = status_line(lines[0])
    headers: Headers = []
    connection = upgrade = None
    remembered, special = PLAIN_LINES.get, SPECIAL_LINES.get
    if len(lines) > MAX_FIELDS + 1:
        raise MessageError(Refused.TOO_MANY_HEADERS, f"a head of more than {MAX_FIELDS} fields")
    del lines[0]
    for line in lines:
        pair = remembered(line)
        if pair is None:
            pair, kind = special(line) or field(line)
            if kind == LENGTH:
                _take_length(head, pair[1])
                continue
            if kind == CODING:
                _take_coding(head)
                continue
            if kind == CONNECTION:
                connection = pair[1] if connection is None else connection + b"," + pair[1]
                continue
            if kind == UPGRADE:
                upgrade = pair[1] if upgrade is None else upgrade + b", " + pair[1]
                continue
            if kind in (DROP, TE):
                continue
        headers.append(pair)
    head.headers = headers
    if head.chunked:
        _check_coding(head, http_1_0)
    if http_1_0:
        head.keep_alive = connection is not None and _stays(tokens(connection))
    elif connection is not None:
        head.keep_alive = b"close" not in tokens(connection)
    if connection is not None:
        head.headers = without_nominated(headers, connection)
    if upgrade is not None and head.status == 101:
        head.upgrade = upgrade
    return head, http_1_0
