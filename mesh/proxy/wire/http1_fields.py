"""Header fields of HTTP/1: a line in, a lower-case name and a checked value out; and which of them end at a proxy.

Lines repeat: from one client most of them are the same in each request. Those seen lately are remembered with what they
parsed to, so the usual line costs one look-up in a dictionary. The memory is bounded and forgets all at once, which is
cheaper than deciding what to forget. Lines that differ each time, or that are secrets, are not remembered.

What is refused here is what two parsers could read differently (RFC 9112 sections 2.2, 5 and 11.2): a space before the
colon, folded lines, bare carriage returns and line feeds, control characters, names that are no tokens. Each has its
own cause, because someone will have to find out why a client is refused.
"""

from __future__ import annotations

import re

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.message import Headers


class MessageError(Exception):
    """A peer sent something that is not HTTP/1 as we accept it; `cause` says how to answer."""

    def __init__(self, cause: Refused, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VISIBLE = bytes(range(0x21, 0x7F))
TEXT = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""What a field's value may consist of. The upper half is obsolete but in use, and read as opaque (RFC 9110 5.5)."""

# Kinds of headers, by what they mean to a proxy. OURS begin with `l5d-`; readers can be told which to strip.
PLAIN, CONNECTION, LENGTH, CODING, HOST, EXPECT, TE, UPGRADE, DROP, OURS = range(10)

KINDS = {
    b"connection": CONNECTION,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"host": HOST,
    b"expect": EXPECT,
    b"te": TE,
    b"upgrade": UPGRADE,
    b"http2-settings": DROP,
    b"keep-alive": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"proxy-connection": DROP,
}
_FORBIDDEN_IN_TRAILERS = frozenset(KINDS) | {
    b"age",
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"cookie",
    b"date",
    b"expires",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"location",
    b"max-forwards",
    b"pragma",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"trailer",
    b"vary",
    b"warning",
    b"www-authenticate",
}
"""Framing, routing, modifiers, authentication and response control (RFC 9110 section 6.5.1)."""
_NOT_REMEMBERED = frozenset(
    {b"authorization", b"cookie", b"set-cookie", b"proxy-authorization", b"traceparent", b"b3"}
    | {b"x-request-id", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid"}
)

_MAX_REMEMBERED = 2048
_MAX_REMEMBERED_BYTES = 128
OUR_PREFIX = b"l5d-"
PLAIN_LINES: dict[bytes, tuple[bytes, bytes]] = {}
"""Lines seen lately that mean nothing to a proxy, with the name and value they parse to; filled by `field`."""
SPECIAL_LINES: dict[bytes, tuple[tuple[bytes, bytes], int]] = {}
"""The same for lines that do mean something, with their kinds."""
_NAMES: dict[bytes, tuple[bytes, int, bool]] = {}
"""Names as they were written: in lower case, of which kind, whether their lines are remembered."""

_AUTHORITY = re.compile(rb"(?:\[[0-9A-Za-z:.%~_-]+\]|[0-9A-Za-z._~%!$&'()*+;=-]*)(?::[0-9]{0,5})?")
_NEVER_NOMINATED = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b""})


def field(line: bytes) -> tuple[tuple[bytes, bytes], int]:
    """The lower-case name and the value of a header line, and what it means to a proxy.

    Raises:
        MessageError: it is no header that everyone reads the same way.
    """
    name, colon, value = line.partition(b":")
    lower, kind, remembered = _NAMES.get(name) or _learn(line, name)
    if not colon:
        raise _bad_name(line, name, colon)
    if kind:
        return _special(line, lower, kind, value)
    value = value.strip(b" \t")
    if value.translate(None, TEXT):
        raise _bad_value(value)
    pair = lower, value
    if remembered and len(line) <= _MAX_REMEMBERED_BYTES:
        if len(PLAIN_LINES) >= _MAX_REMEMBERED:
            PLAIN_LINES.clear()
        PLAIN_LINES[line] = pair
    return pair, PLAIN


def _learn(line: bytes, name: bytes) -> tuple[bytes, int, bool]:
    if not name or name.translate(None, TOKEN):
        raise _bad_name(line, name, b":" if b":" in line else b"")
    lower = name.lower()
    kind = KINDS.get(lower, OURS if lower.startswith(OUR_PREFIX) else PLAIN)
    known = lower, kind, lower not in _NOT_REMEMBERED
    if len(name) <= _MAX_REMEMBERED_BYTES:
        if len(_NAMES) >= _MAX_REMEMBERED:
            _NAMES.clear()
        _NAMES[name] = known
    return known


def _special(line: bytes, name: bytes, kind: int, rest: bytes) -> tuple[tuple[bytes, bytes], int]:
    value = rest.strip(b" \t")
    if value.translate(None, TEXT):
        raise _bad_value(value)
    if kind == HOST:
        check_authority(value)
    elif kind == CODING and (value.lower() != b"chunked" or rest != rest.rstrip(b" \t")):
        # Trailing blanks are allowed, but some recipients take "chunked " for an unknown coding and look for a length.
        raise MessageError(Refused.CODING, "a transfer coding other than chunked")
    elif kind == LENGTH and not (value.isdigit() and len(value) <= 18):
        raise MessageError(Refused.LENGTH, "a content-length that is no number")
    entry = (name, value), kind
    if kind != DROP and len(line) <= _MAX_REMEMBERED_BYTES:
        if len(SPECIAL_LINES) >= _MAX_REMEMBERED:
            SPECIAL_LINES.clear()
        SPECIAL_LINES[line] = entry
    return entry


def _bad_name(line: bytes, name: bytes, colon: bytes) -> MessageError:
    if line[:1] in (b" ", b"\t"):
        return MessageError(Refused.OBS_FOLD, "a header line that continues the one before it")
    if b"\n" in line or b"\r" in line:
        return MessageError(Refused.BARE_LINE_BREAK, "a carriage return or line feed by itself")
    if not colon:
        return MessageError(Refused.HEADER_NAME, "a header line without a colon")
    if name[-1:] in (b" ", b"\t"):
        return MessageError(Refused.SPACE_BEFORE_COLON, "a space between a header's name and its colon")
    return MessageError(Refused.HEADER_NAME, "a header's name that is no token")


def _bad_value(value: bytes) -> MessageError:
    if b"\r" in value or b"\n" in value:
        return MessageError(Refused.BARE_LINE_BREAK, "a carriage return or line feed by itself")
    return MessageError(Refused.HEADER_VALUE, "a control character in a header's value")


def check_authority(value: bytes) -> None:
    """Refuses what is not `host[:port]`, or empty: user information, lists, paths, white space."""
    if _AUTHORITY.fullmatch(value) is None:
        raise MessageError(Refused.HOST_INVALID, "a host that is none")


def without_nominated(headers: Headers, connection: bytes) -> Headers:
    """`headers` less those that a Connection header declares hop-by-hop (RFC 9110 section 7.6.1)."""
    named = set(tokens(connection)) - _NEVER_NOMINATED
    return [entry for entry in headers if entry[0] not in named] if named else headers


def tokens(value: bytes) -> list[bytes]:
    """The members of a list header, in lower case."""
    return [token.strip(b" \t") for token in value.lower().split(b",")]


def trailers_of(lines: list[bytes], strip: frozenset[bytes]) -> Headers | None:
    """The trailers that may be passed on; the others are dropped.

    Raises:
        MessageError: a line is no header.
    """
    kept = []
    for line in lines:
        pair = PLAIN_LINES.get(line) or field(line)[0]
        if pair[0] not in _FORBIDDEN_IN_TRAILERS and pair[0] not in strip:
            kept.append(pair)
    return kept or None
