"""Heads on HTTP/2: what is malformed, what becomes a field of the head, and HPACK judged by an independent codec."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.wire.hpack import FieldMemo, encode_field, encoded, new_decoder
from mesh.proxy.wire.http2_heads import (
    Malformed,
    request_block,
    request_head,
    response_block,
    response_head,
    trailer_fields,
)
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

PSEUDO = {b":method": b"GET", b":scheme": b"http", b":authority": b"cart:80", b":path": b"/a?b=c"}


def fields(*more: tuple[bytes, bytes], **replaced: bytes | None) -> list[tuple[bytes, bytes, bool]]:
    """A request's fields; `path=None` leaves `:path` out."""
    pseudo = {**PSEUDO, **{b":" + name.encode(): value for name, value in replaced.items()}}
    return [(name, value, False) for name, value in [*pseudo.items(), *more] if value is not None]


MALFORMED = {
    "no :method": fields(method=None),
    "no :scheme": fields(scheme=None),
    "no :path": fields(path=None),
    "no :authority and no host": fields(authority=None),
    "an empty :path": fields(path=b""),
    "a :path without slash": fields(path=b"a"),
    "an absolute :path": fields(path=b"http://a/"),
    "a :path with a space": fields(path=b"/a b"),
    "a :path with a line feed": fields(path=b"/a\nb"),
    "a :path with a fragment": fields(path=b"/a#b"),
    "a :path of * with GET": fields(path=b"*"),
    "a :method that is no token": fields(method=b"G T"),
    "an empty :method": fields(method=b""),
    "a :scheme that is none": fields(scheme=b"1:"),
    "user information": fields(authority=b"me@cart"),
    "a slash in :authority": fields(authority=b"cart/x"),
    "two :path": [*fields(), (b":path", b"/b", False)],
    "a pseudo-header after a field": [*fields((b"a", b"b"), scheme=None), (b":scheme", b"http", False)],
    "a pseudo-header after content-length": [
        *fields((b"content-length", b"1"), scheme=None),
        (b":scheme", b"http", False),
    ],
    "an unknown pseudo-header": fields(protocol=b"websocket"),
    "a :status": fields(status=b"200"),
    "CONNECT with a path": fields(method=b"CONNECT", scheme=None),
    "CONNECT without authority": fields(method=b"CONNECT", scheme=None, path=None, authority=None),
    "a host that differs": fields((b"host", b"other")),
    "two hosts": fields((b"host", b"cart:80"), (b"host", b"cart:80")),
    "an upper-case name": fields((b"X-A", b"b")),
    "an empty name": fields((b"", b"b")),
    "a name with a space": fields((b"x a", b"b")),
    "a name with a colon": fields((b"x:a", b"b")),
    "connection": fields((b"connection", b"close")),
    "proxy-connection": fields((b"proxy-connection", b"keep-alive")),
    "keep-alive": fields((b"keep-alive", b"5")),
    "transfer-encoding": fields((b"transfer-encoding", b"chunked")),
    "upgrade": fields((b"upgrade", b"h2c")),
    "te other than trailers": fields((b"te", b"gzip")),
    "a value with a line feed": fields((b"a", b"b\nc")),
    "a value with a carriage return": fields((b"a", b"b\rc")),
    "a value with a zero": fields((b"a", b"b\0c")),
    "a value that begins with a space": fields((b"a", b" b")),
    "a value that ends with a tab": fields((b"a", b"b\t")),
    "two content-lengths": fields((b"content-length", b"5"), (b"content-length", b"5")),
    "a signed content-length": fields((b"content-length", b"+5")),
    "an endless content-length": fields((b"content-length", b"1" * 30)),
    "an expectation that nobody knows": fields((b"expect", b"a-miracle")),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_request_is_malformed_with(what: str) -> None:
    for _ in range(2):  # the second time by the memo
        with pytest.raises(Malformed):
            request_head(MALFORMED[what], False)


def test_a_request_without_the_body_that_it_announces_is_malformed() -> None:
    with pytest.raises(Malformed):
        request_head(fields((b"content-length", b"5")), True)
    assert request_head(fields((b"content-length", b"0")), True).content_length == 0


def test_framing_and_hop_by_hop_fields_become_fields_of_the_head() -> None:
    head = request_head(
        fields(
            (b"host", b"CART:80"),
            (b"te", b"trailers"),
            (b"cookie", b"a=1"),
            (b"x-a", b"1"),
            (b"cookie", b"b=2"),
            (b"content-length", b"5"),
            (b"expect", b"100-continue"),
            (b"proxy-authorization", b"secret"),
        ),
        False,
    )
    assert head.headers == [(b"x-a", b"1"), (b"cookie", b"a=1; b=2")]
    assert (head.te_trailers, head.content_length, head.chunked, head.expect_continue) == (True, 5, False, True)
    assert (head.authority, head.path, head.scheme, head.http_2) == (b"cart:80", b"/a?b=c", b"http", True)
    assert request_head(fields(), False).chunked
    assert not request_head(fields(), True).has_body


def test_host_stands_in_for_authority() -> None:
    assert request_head(fields((b"host", b"cart:81"), authority=None), True).authority == b"cart:81"


def test_connect_and_options_have_targets_of_their_own() -> None:
    tunnel = request_head(fields(method=b"CONNECT", scheme=None, path=None), False)
    assert (tunnel.method, tunnel.authority, tunnel.path) == ("CONNECT", b"cart:80", b"")
    assert request_head(fields(method=b"OPTIONS", path=b"*"), True).path == b"*"


@pytest.mark.parametrize("status", [b"200", b"204", b"304", b"599"])
def test_a_response_says_what_follows_it(status: bytes) -> None:
    head = response_head([(b":status", status, False), (b"content-length", b"7", False)], False, False)
    assert (head.status, head.content_length, head.bodyless) == (int(status), 7, status in (b"204", b"304"))


def test_trailers_lose_what_would_frame_or_route() -> None:
    received = [(b"grpc-status", b"0", False), (b"content-length", b"5", False), (b"host", b"a", False)]
    assert trailer_fields(received) == [(b"grpc-status", b"0")]
    with pytest.raises(Malformed):
        trailer_fields([(b":status", b"200", False)])


# ---- HPACK

values = st.binary(max_size=300)
names = st.sampled_from([b"x-a", b"content-type", b":path", b"te", b"x" * 200, b"accept-encoding", b"grpc-status"])
lists = st.lists(st.tuples(names, values), max_size=20)


@given(lists)
def test_an_independent_decoder_reads_what_we_encode_as_never_indexed(given_fields: Headers) -> None:
    block = b"".join(map(encoded, given_fields))
    read = hpack.Decoder(max_header_list_size=1_000_000).decode(block, raw=True)
    assert [(bytes(name), bytes(value)) for name, value in read] == given_fields
    static = {(b":path", b"/"), (b":path", b"/index.html"), (b"accept-encoding", b"gzip, deflate")}
    assert all(not field.indexable for field in read if field[1] and tuple(field) not in static)


@given(st.lists(lists, max_size=5), st.booleans())
def test_we_read_what_an_independent_encoder_writes(blocks: list[Headers], huffman: bool) -> None:
    encoder = hpack.Encoder()
    decode = new_decoder(1_000_000)
    for given_fields in blocks:
        read = decode(encoder.encode(given_fields, huffman=huffman), True)
        assert [(name, value) for name, value, _ in read] == given_fields


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 256, 16_383, 16_511, 70_000])
def test_lengths_of_every_width_are_encoded(size: int) -> None:
    for field in ((b"x", b"v" * size), (b"n" * max(size, 1), b"v")):
        read = hpack.Decoder(max_header_list_size=1_000_000).decode(encode_field(field), raw=True)
        assert [(bytes(name), bytes(value)) for name, value in read] == [field]


def test_heads_survive_both_directions() -> None:
    head = RequestHead()
    head.method, head.path, head.content_length, head.te_trailers = "PUT", b"/x", 5, True
    head.headers = [(b"a", b"1"), (b"connection", b"close")]
    read = request_head(new_decoder(10_000)(request_block(head, b"shop:80", [(b"b", b"2")]), True), False)
    assert (read.method, read.path, read.authority, read.content_length) == ("PUT", b"/x", b"shop:80", 5)
    assert read.te_trailers
    assert read.headers == [(b"a", b"1"), (b"b", b"2")]
    answer = ResponseHead()
    answer.status, answer.content_length, answer.headers = 404, 3, [(b"a", b"1")]
    back = response_head(new_decoder(10_000)(response_block(answer, []), True), False, False)
    assert (back.status, back.content_length, back.headers) == (404, 3, [(b"a", b"1")])


def test_the_memo_remembers_what_repeats_and_forgets_what_varies() -> None:
    worked_out: list[bytes] = []

    def work_out(field: tuple[bytes, bytes]) -> int:
        worked_out.append(field[0])
        return len(worked_out)

    memo: FieldMemo[tuple[bytes, bytes], int] = FieldMemo(work_out)
    for number in range(500):
        memo[b"content-type", b"application/grpc"]
        memo[b"traceparent", b"%d" % number]
    assert worked_out.count(b"content-type") == 1
    assert len(memo) == 1 + FieldMemo.MAX_VALUES
    memo[b"large", b"v" * FieldMemo.MAX_FIELD_BYTES]
    assert len(memo) == 1 + FieldMemo.MAX_VALUES


def test_the_memo_stays_bounded_whatever_names_come() -> None:
    memo: FieldMemo[tuple[bytes, bytes], int] = FieldMemo(len)
    for number in range(20_000):
        memo[b"x-%d" % number, b""]
        assert len(memo) <= FieldMemo.MAX_FIELDS
    assert len(memo._values_of) <= FieldMemo.MAX_FIELDS
