"""HPACK (RFC 7541) behind the two calls that the HTTP/2 machine makes: decode a block, encode a field.

Decoding is native (jh2's Rust codec, ten times as fast as the pure one). That module is private to jh2, therefore the
version is pinned and nothing but this file knows it.

Encoding is ours and keeps no state: static table entries where one fits, literals otherwise, no Huffman coding. So one
memo serves all connections, a field that repeats costs one look-up in C, and a block does not depend on the blocks
before it. The price is bytes on a wire between neighbours, where they are cheap. Literals are of the never-indexed form
throughout: a relay must keep that mark where it finds it (section 7.1.3), it costs nothing here, and no later hop can
be made to keep our users' secrets in a shared table.

Rejected: the native encoder with a dynamic table (17 µs per request against 12 in the prototype, because its fields
must be handed over as fresh lists).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from jh2._hazmat import Decoder as _NativeDecoder
from jh2._hazmat import HPACKError, OversizedHeaderListError

Field = tuple[bytes, bytes]
DecodedField = tuple[bytes, bytes, bool]
"""Name, value, and whether the field must never be indexed."""


def decoding_failed(error: BaseException) -> bool:
    """Whether `error` comes out of the native decoder because the block is broken; its table cannot be trusted then.

    Where a block ends in the middle of a field the decoder panics, which PyO3 turns into a `BaseException` of a module
    that cannot be imported (and writes a line to stderr).
    """
    return isinstance(error, HPACKError | OversizedHeaderListError) or type(error).__module__ == "pyo3_runtime"


class Decode(Protocol):
    """Decodes one header block; the second argument must be True (fields as bytes)."""

    def __call__(self, data: bytes, raw: bool, /) -> list[DecodedField]: ...


def new_decoder(max_decoded: int) -> Decode:
    """The decoder of one connection, with the default table of 4,096 bytes."""
    decode: Decode = _NativeDecoder(max_decoded).decode
    return decode


_STATIC: Final[tuple[Field, ...]] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
"""Appendix A; the first entry has index 1."""

CONNECTION_FIELDS: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
"""Of one HTTP/1 connection; HTTP/2 has none of them (RFC 9113 section 8.2.2)."""

_NEVER_INDEXED: Final = 0x10
TABLE_SIZE_ZERO: Final = b"\x20"
"""Opens the first block after the peer made its table smaller (section 4.2): we use none of it."""


def _integer(value: int, prefix_bits: int, pattern: int) -> bytes:
    """Section 5.1."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes((pattern | value,))
    encoded = bytearray((pattern | most,))
    value -= most
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_INDEXED: Final = {field: bytes((0x80 | index,)) for index, field in enumerate(_STATIC, 1)}
_NAME_INDEX: Final = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}
_NAMED: Final = {name: _integer(index, 4, _NEVER_INDEXED) for name, index in _NAME_INDEX.items()}


def encode_field(field: Field) -> bytes:
    """One field, by itself. Fields of an HTTP/1 connection have no place here and encode to nothing."""
    indexed = _INDEXED.get(field)
    if indexed is not None:
        return indexed
    name, value = field
    size = len(value)
    start = _NAMED.get(name)
    if start is None:
        if name in CONNECTION_FIELDS:
            return b""
        start = b"\x10" + _integer(len(name), 7, 0) + name
    if size < 127:
        return b"%b%c%b" % (start, size, value)
    return start + _integer(size, 7, 0) + value


K = TypeVar("K", bound=tuple[bytes, bytes] | tuple[bytes, bytes, bool])
V = TypeVar("V")


class FieldMemo(dict[K, V]):
    """What was worked out about fields that repeat: `memo[field]`, one call in C where the field is known.

    Bounded in fields, in their size, and in values of one name: a name whose values keep changing (traceparent, a path
    with ids) stops being remembered and displaces nothing. When it is full it starts anew, so that whoever filled it
    with rubbish did so once.
    """

    MAX_FIELDS: Final = 1_024
    MAX_VALUES: Final = 32
    MAX_FIELD_BYTES: Final = 256

    __slots__ = ("_values_of", "_work_out")

    def __init__(self, work_out: Callable[[K], V]) -> None:
        super().__init__()
        self._work_out = work_out
        self._values_of: dict[bytes, int] = {}

    def __missing__(self, field: K) -> V:
        answer = self._work_out(field)
        name = field[0]
        values = self._values_of.get(name, 0)
        if values < self.MAX_VALUES and len(name) + len(field[1]) <= self.MAX_FIELD_BYTES:
            if len(self) >= self.MAX_FIELDS:
                self.clear()
                self._values_of.clear()
                values = 0
            self[field] = answer
            self._values_of[name] = values + 1
        return answer


encoded: Final[Callable[[Field], bytes]] = FieldMemo(encode_field).__getitem__
"""A field as bytes, remembered where it repeats."""
