"""The transport header: round trip, cut anywhere, what Linkerd's encoder writes, garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.wire.transport_header import (
    MAX_MESSAGE_BYTES,
    PREFACE,
    InvalidHeader,
    SessionProtocol,
    TransportHeader,
    decode_header,
    encode_header,
)

headers = st.builds(
    TransportHeader,
    st.integers(1, 65535),
    st.one_of(st.none(), st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20}){0,5}", fullmatch=True)),
    st.one_of(st.none(), st.sampled_from(SessionProtocol)),
)


def framed(message: bytes) -> bytes:
    return PREFACE + len(message).to_bytes(4, "big") + message


@given(headers, st.binary(max_size=40))
def test_a_header_survives_the_way_and_what_follows_is_not_touched(header: TransportHeader, rest: bytes) -> None:
    data = encode_header(header)
    assert decode_header(data + rest) == (header, len(data))
    assert all(decode_header(data[:size]) is None for size in range(len(data)))


def test_the_bytes_are_those_of_protobuf() -> None:
    # port 4040 (varint c8 1f), name, session_protocol { http2 {} }
    message = b"\x08\xc8\x1f" + b"\x12\x07foo.bar" + b"\x1a\x02\x12\x00"
    header = TransportHeader(4040, "foo.bar", SessionProtocol.HTTP2)
    assert encode_header(header) == framed(message)
    assert decode_header(framed(message)) == (header, len(framed(message)))
    assert encode_header(TransportHeader(80)) == framed(b"\x08\x50")


def test_fields_of_later_versions_are_passed_over_and_the_last_of_a_kind_counts() -> None:
    later = b"\x20\x07" + b"\x2a\x03abc" + b"\x35\0\0\0\0" + b"\x39\0\0\0\0\0\0\0\0"
    data = framed(b"\x08\x01" + later + b"\x08\x02" + b"\x1a\x02\x0a\x00" + b"\x1a\x02\x12\x00")
    assert decode_header(data) == (TransportHeader(2, None, SessionProtocol.HTTP2), len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"transport.l5d.io/v2\r\n\r\n",
        PREFACE + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"),
        framed(b""),
        framed(b"\x08\x00"),
        framed(b"\x08\x80\x80\x04"),
        framed(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        framed(b"\x08" + b"\x80" * 11),
        framed(b"\x08"),
        framed(b"\x0a\x01x"),
        framed(b"\x08\x50\x10\x01"),
        framed(b"\x08\x50\x18\x01"),
        framed(b"\x08\x50\x12\x09short"),
        framed(b"\x08\x50\x12\x04a..b"),
        framed(b"\x08\x50\x12\x02\xff\xfe"),
        framed(b"\x08\x50\x1a\x02\x0a\x05"),
        framed(b"\x08\x50\x0b"),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidHeader):
        decode_header(data)


@given(st.binary(max_size=60))
def test_no_message_does_worse_than_being_refused(message: bytes) -> None:
    try:
        found = decode_header(framed(message))
    except InvalidHeader:
        return
    assert found is not None
    assert 1 <= found[0].port <= 65535
