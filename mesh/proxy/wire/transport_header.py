"""The header that opens a connection of ALPN `transport.l5d.io/v1`: where in the pod its bytes are meant to go.

    transport.l5d.io/v1\\r\\n\\r\\n │ length, u32 big-endian │ protobuf Header │ the client's bytes …

    message Header          { int32 port = 1; string name = 2; SessionProtocol session_protocol = 3; }
    message SessionProtocol { oneof kind { Http1 http1 = 1; Http2 http2 = 2; } }       // both without fields

Wire format of linkerd2-proxy's crate `transport-header`. A client proxy dials the inbound proxy itself, not the app's
port, so there is no original destination for the inbound side to find: this says it instead. No session protocol means
opaque; a name is for gateways.

The three fields are coded by hand: a protobuf library would double the proxy's start time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

PREFACE = b"transport.l5d.io/v1\r\n\r\n"
MAX_MESSAGE_BYTES = 1024
"""A DNS name is at most 253 bytes; the rest is room for fields that we do not know yet."""

_START = len(PREFACE) + 4
_NAME = re.compile(r"(?=.{1,254}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class InvalidHeader(ValueError):
    """The peer agreed on the protocol and sent something else."""


class SessionProtocol(Enum):
    HTTP1 = 1
    HTTP2 = 2


@dataclass(frozen=True, slots=True)
class TransportHeader:
    port: int
    """The app's port, 1..65535."""
    name: str | None = None
    """Logical destination, where the peer is a gateway."""
    protocol: SessionProtocol | None = None
    """None: opaque."""


def encode_header(header: TransportHeader) -> bytes:
    """`header` with preface and length."""
    message = b"\x08" + _varint(header.port)
    if header.name:
        name = header.name.encode()
        message += b"\x12" + _varint(len(name)) + name
    if header.protocol is not None:
        message += b"\x1a\x02" + bytes((header.protocol.value << 3 | _BYTES, 0))
    return PREFACE + len(message).to_bytes(4, "big") + message


def decode_header(data: bytes) -> tuple[TransportHeader, int] | None:
    """The header at the start of `data` and its size there; None: more bytes are needed.

    Raises:
        InvalidHeader: it is none, at the first byte that shows it.
    """
    if not data.startswith(PREFACE[: len(data)]):
        raise InvalidHeader("no transport header")
    if len(data) < _START:
        return None
    size = int.from_bytes(data[len(PREFACE) : _START], "big")
    if size > MAX_MESSAGE_BYTES:
        raise InvalidHeader(f"a transport header of {size} bytes")
    if len(data) < _START + size:
        return None
    return _message(data[_START : _START + size]), _START + size


def _message(message: bytes) -> TransportHeader:
    port, name = 0, ""
    protocol: SessionProtocol | None = None
    for field, value in _fields(message):
        if field == 1:
            if not isinstance(value, int):
                raise InvalidHeader("port is no number")
            port = value
        elif field == 2:
            if not isinstance(value, bytes):
                raise InvalidHeader("name is no string")
            name = value.decode("ascii", "replace")
        elif field == 3:
            if not isinstance(value, bytes):
                raise InvalidHeader("session protocol is no message")
            for kind, _ in _fields(value):
                if kind in (1, 2):
                    protocol = SessionProtocol(kind)
    if not 1 <= port <= 65535:
        raise InvalidHeader(f"port {port}")
    if name and _NAME.fullmatch(name) is None:
        raise InvalidHeader("name is no DNS name")
    return TransportHeader(port, name or None, protocol)


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """(field number, value) of each field; fixed-width values, which only unknown fields have, as bytes."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            number, at = _read_varint(message, at)
            found.append((key >> 3, number))
            continue
        if kind == _BYTES:
            size, at = _read_varint(message, at)
        elif kind == _FIXED64:
            size = 8
        elif kind == _FIXED32:
            size = 4
        else:
            raise InvalidHeader(f"protobuf wire type {kind}")
        if at + size > len(message):
            raise InvalidHeader("a field runs over the end of the message")
        found.append((key >> 3, message[at : at + size]))
        at += size
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, offset behind it); at most 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise InvalidHeader("a varint without an end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
