"""What a connection speaks, told from its first bytes; nothing is consumed or answered.

    0x16 0x03 ──► TLS        "PRI * HTTP/2.0" ──► HTTP2        a request line's beginning ──► HTTP1        else OPAQUE

One read decides, as in linkerd2-proxy (`http/detect`): who sends fewer than 14 bytes at first, as one who types by hand
does, is carried as opaque TCP. There httparse is asked whether it takes the bytes for the beginning of a request, with
room for no header: so the request line counts, and the first byte after it. Its rules are the pattern below; wherever
the bytes end, what is missing is given the benefit of the doubt. It is more lenient than our reader (bare line feeds,
any target): what it lets through that is no HTTP/1 is answered 400 there instead of being carried.

`sni_of` reads the server name out of a ClientHello that may still be arriving, possibly in several records. It asks for
more only while the bytes can still become one, and gives up at `MAX_HELLO_BYTES`.
"""

from __future__ import annotations

import enum
import re
from typing import final

PREFACE = b"PRI * HTTP/2.0"
MIN_DETECT_BYTES = len(PREFACE)
MAX_HELLO_BYTES = 8 * 1024
"""Of records with a ClientHello, before its name is given up; linkerd2-proxy's buffer."""

_HANDSHAKE_RECORD, _TLS_MAJOR, _CLIENT_HELLO = 0x16, 3, 1
_SERVER_NAME_EXTENSION = 0
_HOST_NAME = 0
_DNS_NAME = re.compile(rb"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


class Protocol(enum.Enum):
    TLS = "tls"
    HTTP1 = "http1"
    HTTP2 = "http2"
    OPAQUE = "opaque"


@final
class NeedMore:
    """Itself, never an instance, says: these bytes are a ClientHello's beginning, and its name may yet come."""


def _beginnings(*parts: bytes) -> bytes:
    """A pattern for every beginning of what `parts` match one after the other."""
    pattern = parts[-1]
    for part in reversed(parts[:-1]):
        pattern = rb"%b(?:\Z|%b)" % (part, pattern)
    return rb"(?:\Z|%b)" % pattern


_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_HTTP1 = re.compile(
    _beginnings(
        rb"(?:\r?\n)*+(?:\r\Z)?",
        rb"%b++" % _TOKEN,
        rb" ",
        rb"[!-~\x80-\xff]++",
        rb" ",
        *(rb"H", rb"T", rb"T", rb"P", rb"/", rb"1", rb"\.", rb"[01]"),
        rb"(?:\r?\n|\r\Z)",
        rb"(?:%b|\r?\n|\r\Z)" % _TOKEN,
    )
)


def detect_first(first: bytes) -> Protocol:
    """The protocol that `first`, all that one read returned, begins."""
    if first[:1] == b"\x16" and first[1:2] in (b"\x03", b""):
        return Protocol.TLS
    if len(first) < MIN_DETECT_BYTES:
        return Protocol.OPAQUE
    if first.startswith(PREFACE):
        return Protocol.HTTP2
    return Protocol.HTTP1 if _HTTP1.match(first) else Protocol.OPAQUE


def sni_of(data: bytes) -> str | type[NeedMore] | None:
    """The server name of the ClientHello that `data` (everything so far) begins, in lower case.

    None: it names none, or is no ClientHello, or is too long to wait for.
    """
    hello = _handshake(data)
    if hello is NeedMore:
        return NeedMore if len(data) < MAX_HELLO_BYTES else None
    return None if hello is None else _server_name(hello)


def _handshake(data: bytes) -> bytes | type[NeedMore] | None:
    """The body of the handshake message in the records of `data`."""
    message = b""
    position = 0
    while position < len(data):
        if data[position] != _HANDSHAKE_RECORD or data[position + 1 : position + 2] not in (b"\x03", b""):
            return None
        size = int.from_bytes(data[position + 3 : position + 5], "big")
        complete = len(data) >= position + 5
        if complete and not size:
            return None
        message += data[position + 5 : position + 5 + size] if complete else b""
        position += 5 + size
        if message:
            if message[0] != _CLIENT_HELLO:
                return None
            length = int.from_bytes(message[1:4], "big")
            if len(message) >= 4 and length > MAX_HELLO_BYTES:
                return None
            if len(message) >= 4 + length and len(message) >= 4:
                return message[4 : 4 + length]
    return NeedMore


class _Fields:
    """Reads length-prefixed fields one after the other; beyond the end there is nothing, and `whole` becomes false."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self.whole = True

    def __bool__(self) -> bool:
        return self.whole and self._position < len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self._position : self._position + size]
        self._position += size
        self.whole = self.whole and len(taken) == size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """What a length of `size` bytes announces."""
        return self.take(self.number(size))


def _server_name(hello: bytes) -> str | None:
    fields = _Fields(hello)
    fields.take(2 + 32)  # version, random
    fields.vector(1)  # session
    fields.vector(2)  # cipher suites
    fields.vector(1)  # compressions
    extensions = _Fields(fields.vector(2))
    while extensions and fields.whole:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME_EXTENSION and extensions.whole:
            names = _Fields(_Fields(content).vector(2))
            while names:
                name_kind, name = names.number(1), names.vector(2)
                if name_kind == _HOST_NAME and names.whole and len(name) <= 255 and _DNS_NAME.fullmatch(name):
                    return name.decode("ascii").lower()
            return None
    return None
