"""HTTP/2 frames as numbers and bytes (RFC 9113 sections 4, 6 and 7). Nothing here keeps state."""

from __future__ import annotations

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
CONNECT_ERROR: Final = 0xA
ENHANCE_YOUR_CALM: Final = 0xB
HTTP_1_1_REQUIRED: Final = 0xD

LOST: Final = -1
"""Never on the wire: what a stream is told when its connection ended under it."""

DEFAULT_WINDOW: Final = 65_535
DEFAULT_MAX_FRAME: Final = 16_384
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1

HEADER_SIZE: Final = 9
PRIORITY_SIZE: Final = 5
"""Of what HEADERS and PRIORITY say about it; it is skipped."""
frame_header: Final = struct.Struct(">IBI")
"""Length and type share the first four bytes: `length << 8 | type`, flags, stream id."""
_setting: Final = struct.Struct(">HI")
_one: Final = struct.Struct(">I")
_two: Final = struct.Struct(">II")


class H2ConnectionError(Exception):
    """The peer broke a rule that the connection does not survive. GOAWAY is in the output: write it and close."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def settings_frame(settings: dict[int, int]) -> bytes:
    entries = b"".join([_setting.pack(name, value) for name, value in settings.items()])
    return frame_header.pack(len(entries) << 8 | SETTINGS, 0, 0) + entries


def settings_entries(payload: bytes) -> dict[int, int]:
    """The last value of each setting: what they amount to when they are applied in order."""
    return dict(_setting.iter_unpack(payload))


SETTINGS_ACK: Final = frame_header.pack(SETTINGS, ACK, 0)


def window_update_frame(stream_id: int, increment: int) -> bytes:
    return frame_header.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id) + _one.pack(increment)


def rst_stream_frame(stream_id: int, code: int) -> bytes:
    return frame_header.pack(4 << 8 | RST_STREAM, 0, stream_id) + _one.pack(code)


def ping_frame(opaque: bytes, flags: int) -> bytes:
    return frame_header.pack(8 << 8 | PING, flags, 0) + opaque


def goaway_frame(last_stream_id: int, code: int, detail: bytes = b"") -> bytes:
    return frame_header.pack((8 + len(detail)) << 8 | GOAWAY, 0, 0) + _two.pack(last_stream_id, code) + detail


def unpadded(payload: bytes) -> bytes | None:
    """The content of a padded frame; None where the padding is longer than the frame."""
    if not payload or payload[0] >= len(payload):
        return None
    return payload[1 : len(payload) - payload[0]]
