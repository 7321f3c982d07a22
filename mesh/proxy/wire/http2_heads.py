"""Decoded fields to heads and back: what HTTP/2 demands of a message (RFC 9113 section 8).

Hop-by-hop fields and framing become fields of the head, as with HTTP/1, so that a message goes on by either protocol.
Everything is checked that a later HTTP/1 hop could misread: control characters, names, lengths, a Host that names
something else than `:authority`. A field that was seen before is known to be good; the memo holds the verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.hpack import CONNECTION_FIELDS, DecodedField, Field, FieldMemo, encoded
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead


class Malformed(Exception):
    """A head that breaks the rules: an error of its stream, not of the connection."""

    def __init__(self, detail: str, cause: Refused = Refused.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.cause = cause


_PLAIN, _METHOD, _SCHEME, _AUTHORITY, _PATH, _STATUS, _LENGTH, _COOKIE, _HOST, _TE, _EXPECT, _DROP = range(12)
_LAST_PSEUDO = _STATUS

_KINDS: Final = {
    b":method": _METHOD,
    b":scheme": _SCHEME,
    b":authority": _AUTHORITY,
    b":path": _PATH,
    b":status": _STATUS,
    b"content-length": _LENGTH,
    b"cookie": _COOKIE,
    b"host": _HOST,
    b"te": _TE,
    b"expect": _EXPECT,
    b"proxy-authorization": _DROP,
    b"proxy-authenticate": _DROP,
}
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_SCHEME_FORM: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*")
_STATUS_FORM: Final = re.compile(rb"[1-9][0-9][0-9]")
_CONTROLS: Final = bytes(code for code in range(32) if code != 9) + b"\x7f"
_NOT_IN_PATH: Final = bytes(range(33)) + b"#\x7f"
_NOT_IN_AUTHORITY: Final = bytes(range(33)) + b"#/?@\\\x7f"
_METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


def _judge(field: DecodedField) -> tuple[int, Field]:
    """Kind and pair of one field that may stand in some head."""
    name, value, _ = field
    kind = _KINDS.get(name, _PLAIN)
    if kind == _PLAIN:
        if not _NAME.fullmatch(name):
            raise Malformed("a field name that HTTP/2 does not have")
        if name in CONNECTION_FIELDS:
            raise Malformed("a field of an HTTP/1 connection")
    elif kind == _PATH:
        if not value or value.translate(None, _NOT_IN_PATH) != value or (value[0] != 0x2F and value != b"*"):
            raise Malformed("a :path that is no origin form")
    elif kind in (_AUTHORITY, _HOST):
        if value.translate(None, _NOT_IN_AUTHORITY) != value:
            raise Malformed("an authority that is none")
    elif (
        (kind == _METHOD and not _TOKEN.fullmatch(value))
        or (kind == _SCHEME and not _SCHEME_FORM.fullmatch(value))
        or (kind == _STATUS and not _STATUS_FORM.fullmatch(value))
        or (kind == _LENGTH and not (value.isdigit() and len(value) < 19))
        or (kind == _TE and value != b"trailers")
    ):
        raise Malformed(f"an impossible {name.decode()}")
    if value.translate(None, _CONTROLS) != value or value.strip(b" \t") != value:
        raise Malformed("a field value with control characters or white space around it")
    return kind, (name, value)


_judged: Final = FieldMemo(_judge)


def request_head(fields: Iterable[DecodedField], end: bool) -> RequestHead:
    """The head of a request. `end`: no body follows.

    Raises:
        Malformed
    """
    head = RequestHead()
    head.http_2 = True
    headers = head.headers
    method = scheme = authority = path = host = None
    cookies: list[bytes] = []
    regular = False
    judged = _judged
    for field in fields:
        kind, pair = judged[field]
        if not kind:
            headers.append(pair)
        elif kind <= _LAST_PSEUDO:
            if headers or regular:
                raise Malformed("a pseudo-header after a field")
            value = pair[1]
            if kind == _PATH and path is None:
                path = value
            elif kind == _METHOD and method is None:
                method = value
            elif kind == _SCHEME and scheme is None:
                scheme = value
            elif kind == _AUTHORITY and authority is None:
                authority = value
            else:
                raise Malformed("a pseudo-header twice, or :status in a request")
        else:
            regular = True
            value = pair[1]
            if kind == _TE:
                head.te_trailers = True
            elif kind == _LENGTH:
                if head.content_length is not None:
                    raise Malformed("more than one content-length")
                head.content_length = int(value)
            elif kind == _COOKIE:
                cookies.append(value)
            elif kind == _HOST:
                if host is not None:
                    raise Malformed("more than one host")
                host = value
            elif kind == _EXPECT:
                if value.lower() != b"100-continue":
                    raise Malformed("an expectation other than 100-continue")
                head.expect_continue = not end
    if method is None:
        raise Malformed("no :method")
    head.method = _METHODS.get(method) or method.decode("ascii")
    if method == b"CONNECT":
        if scheme is not None or path is not None or not authority:
            raise Malformed("CONNECT has an :authority, no :scheme and no :path")
    else:
        if scheme is None or path is None:
            raise Malformed("no :scheme or no :path")
        if path == b"*" and method != b"OPTIONS":
            raise Malformed("a :path of * is for OPTIONS")
        head.scheme = scheme
        head.path = path
    if host is not None and authority is not None and host.lower() != authority.lower():
        raise Malformed("host and :authority name different things")
    authority = authority or host
    if not authority:
        raise Malformed("neither :authority nor host")
    head.authority = authority
    if cookies:
        headers.append((b"cookie", b"; ".join(cookies)))
    if not end:
        head.chunked = head.content_length is None
    elif head.content_length:
        raise Malformed("no body where content-length announces one")
    return head


def response_head(fields: Iterable[DecodedField], end: bool, to_head: bool) -> ResponseHead:
    """The head of a response, interim ones included. `end`: no body follows; `to_head`: it answers HEAD.

    Raises:
        Malformed
    """
    head = ResponseHead()
    headers = head.headers
    regular = False
    judged = _judged
    for field in fields:
        kind, pair = judged[field]
        if not kind:
            headers.append(pair)
        elif kind == _STATUS:
            if headers or regular or head.status:
                raise Malformed(":status twice, or after a field")
            head.status = int(pair[1])
        elif kind <= _LAST_PSEUDO:
            raise Malformed("a pseudo-header of requests in a response")
        else:
            regular = True
            if kind == _LENGTH:
                if head.content_length is not None:
                    raise Malformed("more than one content-length")
                head.content_length = int(pair[1])
            elif kind != _DROP:
                headers.append(pair)
    status = head.status
    if status < 200:
        if not status:
            raise Malformed("no :status")
        if status == 101 or end:
            raise Malformed("101, or an interim response that ends the stream")
        return head
    head.bodyless = to_head or status == 204 or status == 304
    if head.bodyless:
        return head
    if not end:
        head.chunked = head.content_length is None
    elif head.content_length:
        raise Malformed("no body where content-length announces one")
    return head


def trailer_fields(fields: Iterable[DecodedField]) -> Headers:
    """The trailers of a message; fields that would frame or route it if they were merged are left out.

    Raises:
        Malformed
    """
    trailers = []
    for field in fields:
        kind, pair = _judged[field]
        if not kind:
            trailers.append(pair)
        elif kind <= _LAST_PSEUDO:
            raise Malformed("a pseudo-header among trailers")
    return trailers


def decoded_bytes(fields: list[DecodedField]) -> int:
    """Size of a header list as SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
    return sum([len(name) + len(value) + 32 for name, value, _ in fields])


# ---- heads to blocks

_TE_TRAILERS: Final = encoded((b"te", b"trailers"))
_MAX_LINES: Final = 512
_lines: dict[tuple[str, bytes, bytes], bytes] = {}


def _request_line(method: str, scheme: bytes, authority: bytes) -> bytes:
    pseudo = [(b":method", method.encode("ascii"))]
    if method != "CONNECT":
        pseudo.append((b":scheme", scheme))
    pseudo.append((b":authority", authority))
    line = b"".join(map(encoded, pseudo))
    if len(authority) <= FieldMemo.MAX_FIELD_BYTES and len(method) <= FieldMemo.MAX_FIELD_BYTES:
        if len(_lines) >= _MAX_LINES:
            _lines.clear()
        _lines[method, scheme, authority] = line
    return line


def request_block(head: RequestHead, authority: bytes, extra: Headers) -> bytes:
    """The header block of a request for `authority`, with `extra` fields at its end."""
    key = (head.method, head.scheme, authority)
    line = _lines.get(key) or _request_line(*key)
    parts = [line]
    if head.path:
        parts.append(encoded((b":path", head.path)))
    parts += map(encoded, head.headers)
    if head.te_trailers:
        parts.append(_TE_TRAILERS)
    if head.content_length is not None:
        parts.append(encoded((b"content-length", b"%d" % head.content_length)))
    if extra:
        parts += map(encoded, extra)
    return b"".join(parts)


def response_block(head: ResponseHead, extra: Headers) -> bytes:
    """The header block of a response, with `extra` fields at its end."""
    parts = [encoded((b":status", b"%d" % head.status))]
    parts += map(encoded, head.headers)
    if head.content_length is not None:
        parts.append(encoded((b"content-length", b"%d" % head.content_length)))
    if extra:
        parts += map(encoded, extra)
    return b"".join(parts)


def trailer_block(trailers: Headers) -> bytes:
    return b"".join(map(encoded, trailers))
