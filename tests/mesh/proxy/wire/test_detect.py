"""Detection from first bytes, with ClientHellos that OpenSSL wrote."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.wire.detect import MAX_HELLO_BYTES, MIN_DETECT_BYTES, NeedMore, Protocol, detect_first, sni_of


def client_hello(name: str | None, alpn: tuple[str, ...] = ()) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same handshake message in records of `size` bytes."""
    message = hello[5:]
    parts = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


REQUEST = b"GET /some/path HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "found"),
    [
        (b"PRI * HTTP/2.0", Protocol.HTTP2),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Protocol.HTTP2),
        (b"PRI * HTTP/2.1\r\n", Protocol.OPAQUE),
        (REQUEST, Protocol.HTTP1),
        (b"\r\n\n" + REQUEST, Protocol.HTTP1),
        (b"GET / HTTP/1.0\n\n", Protocol.HTTP1),
        (b"X-M~! * HTTP/1.1\r\n", Protocol.HTTP1),
        (b"A" * 1000, Protocol.HTTP1),  # may be a long method yet
        (b"GET " + b"x" * 1000, Protocol.HTTP1),
        (b"GET  / HTTP/1.1\r\n", Protocol.OPAQUE),
        (b"GET /a b HTTP/1.1\r\n", Protocol.OPAQUE),
        (b"GET / HTTP/2.0\r\n\r\n", Protocol.OPAQUE),
        (b"GET / HTTP/1.1 \r\n", Protocol.OPAQUE),
        (b"GET / HTTP/1.1\r\n x: y", Protocol.OPAQUE),
        (b" GET / HTTP/1.1\r\n", Protocol.OPAQUE),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Protocol.OPAQUE),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f" + b"\x00" * 8, Protocol.OPAQUE),
        (b"*1\r\n$4\r\nPING\r\n", Protocol.OPAQUE),
        (b"\x16\x03", Protocol.TLS),
        (b"\x16", Protocol.TLS),
        (b"\x16\x02" + b"\x00" * 20, Protocol.OPAQUE),
        (b"", Protocol.OPAQUE),
    ],
)
def test_the_first_read_decides_the_protocol(first: bytes, found: Protocol) -> None:
    assert detect_first(first) is found


def test_a_request_is_http_1_from_its_fourteenth_byte_on_and_opaque_before() -> None:
    for end in range(len(REQUEST) + 1):
        expected = Protocol.HTTP1 if end >= MIN_DETECT_BYTES else Protocol.OPAQUE
        assert detect_first(REQUEST[:end]) is expected


@pytest.mark.parametrize("size", [16_384, 100, 7, 1])
@pytest.mark.parametrize("name", ["Payment.Shop.serviceaccount.identity.linkerd.cluster.local", None])
def test_the_server_name_is_read_as_soon_as_the_hello_is_here_whatever_its_records(name: str | None, size: int) -> None:
    data = in_records(client_hello(name, ("l5d-h2", "http/1.1")), size)
    for end in range(1, len(data)):
        assert sni_of(data[:end]) is NeedMore
    expected = name.lower() if name else None
    assert sni_of(data) == expected
    assert sni_of(data + b"more") == expected


def test_a_hello_that_is_too_long_is_not_waited_for() -> None:
    announced = b"\x16\x03\x01\x40\x00" + b"\x01" + (MAX_HELLO_BYTES + 1).to_bytes(3, "big")
    assert sni_of(announced) is None
    trickled = b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00" * 2
    assert sni_of(trickled) is NeedMore
    endless = b"\x16\x03\x01\x3f\xff\x01" + (MAX_HELLO_BYTES).to_bytes(3, "big") + b"\x00" * MAX_HELLO_BYTES
    assert sni_of(endless[: MAX_HELLO_BYTES - 1]) is NeedMore
    assert sni_of(endless[:MAX_HELLO_BYTES]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x02\x01",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # a ServerHello
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",  # a ClientHello of nothing
        b"\x16\x03\x01\x00\x02\x01\x00\x15\x03\x01\x00\x02\x01\x00",  # an alert in the middle
    ],
)
def test_what_is_no_hello_has_no_name(data: bytes) -> None:
    assert sni_of(data) is None


HELLO = client_hello("payment.shop")


@given(st.integers(0, len(HELLO) - 1), st.binary(max_size=4), st.integers(0, 3))
def test_a_damaged_hello_is_never_a_crash(at: int, bytes_: bytes, cut: int) -> None:
    found = sni_of(HELLO[:at] + bytes_ + HELLO[at + cut :])
    assert found is None or found is NeedMore or isinstance(found, str)
