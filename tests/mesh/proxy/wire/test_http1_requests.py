"""Requests: fed whole and byte by byte, pipelined, with trailers, upgrades and CONNECT."""

from __future__ import annotations

import pytest
from http1_ends import Requests, pieces, read
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.http1 import MAX_HEAD_BYTES, MAX_HELD_BYTES, RequestReader
from mesh.proxy.wire.http1_fields import MessageError

HOWS = pytest.mark.parametrize("how", ["whole", "byte by byte"])


@HOWS
def test_pipelined_requests_are_told_apart(how: str) -> None:
    data = (
        b"POST http://a.b:80/x?q=1 HTTP/1.1\r\nHost: ignored\r\nContent-Length: 3\r\nX-A: 1\r\n\r\nabc"
        b"PUT /y HTTP/1.1\r\nhost: c:1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1;x=y\r\nf\r\n0\r\n\r\n"
        b"\r\nGET / HTTP/1.1\r\nHost: z\r\n\r\n"
    )
    sink = read(data, how)
    assert [(h.method, h.authority, h.path) for h in sink.heads] == [
        ("POST", b"a.b:80", b"/x?q=1"),
        ("PUT", b"c:1", b"/y"),
        ("GET", b"z", b"/"),
    ]
    assert sink.bodies == [b"abc", b"def", b""]
    assert sink.trailers == [None, None, None]
    assert sink.heads[0].headers == [(b"x-a", b"1")]
    assert sink.heads[1].headers == []


@HOWS
def test_a_request_cut_short_is_not_ended(how: str) -> None:
    sink = read(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc", how)
    assert (len(sink.heads), sink.bodies, sink.ended) == (1, [b"abc"], 0)


@HOWS
def test_hop_by_hop_headers_end_here(how: str) -> None:
    data = (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n"
        b"TE: trailers\r\nProxy-Connection: keep-alive\r\nUpgrade: websocket\r\nProxy-Authorization: b\r\n"
        b"traceparent: 00-ab-cd-01\r\nb3: 1\r\nx-b3-traceid: 2\r\nL5d-Client-Id: me\r\n\r\n"
    )
    head = read(data, how, strip=frozenset({b"l5d-client-id"})).heads[0]
    assert head.headers == [(b"traceparent", b"00-ab-cd-01"), (b"b3", b"1"), (b"x-b3-traceid", b"2")]
    assert (head.te_trailers, head.upgrade) == (True, b"")


def test_what_a_header_means_does_not_depend_on_having_been_seen() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a:1\r\nConnection: close\r\nL5d-Client-Id: me\r\n\r\n"
    strict = frozenset({b"l5d-client-id"})
    assert [read(data).heads[0].headers for _ in range(2)] == [[(b"l5d-client-id", b"me")]] * 2
    assert read(data, strip=strict).heads[0].headers == []
    assert not read(data).heads[0].keep_alive


@HOWS
def test_trailers_that_may_be_passed_on_are_and_the_rest_is_dropped(how: str) -> None:
    data = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
        b"Grpc-Status: 0\r\nX-Sum: 7 \r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n"
        b"Authorization: b\r\nSet-Cookie: c\r\nCache-Control: d\r\nL5d-Client-Id: e\r\n\r\n"
        b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    sink = read(data, how, strip=frozenset({b"l5d-client-id"}))
    assert sink.trailers == [[(b"grpc-status", b"0"), (b"x-sum", b"7")], None]
    assert [head.path for head in sink.heads] == [b"/", b"/next"]


UPGRADE = b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
CONNECT = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"
NEXT = b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"


@HOWS
@pytest.mark.parametrize("ask", [UPGRADE, CONNECT], ids=["upgrade", "CONNECT"])
def test_bytes_after_a_request_for_a_tunnel_wait_and_are_raw_once_it_is_granted(ask: bytes, how: str) -> None:
    sink = Requests()
    reader = RequestReader(sink)
    for piece in pieces(ask + b"\x00early", how):
        reader.feed(piece)
    assert (len(sink.heads), sink.ended, sink.bodies) == (1, 1, [b""])
    assert sink.heads[0].tunnel
    reader.switch_to_raw()
    reader.feed(b"GET / late\r\n\r\n")
    assert sink.bodies == [b"\x00earlyGET / late\r\n\r\n"]


@HOWS
def test_bytes_after_a_declined_upgrade_are_the_next_request(how: str) -> None:
    sink = Requests()
    reader = RequestReader(sink)
    for piece in pieces(UPGRADE + NEXT, how):
        reader.feed(piece)
    reader.stay()
    reader.feed(NEXT)
    assert [head.path for head in sink.heads] == [b"/1", b"/2", b"/2"]


def test_bytes_held_for_a_tunnel_are_bounded() -> None:
    reader = RequestReader(Requests())
    reader.feed(UPGRADE + b"x" * MAX_HELD_BYTES)
    with pytest.raises(MessageError) as caught:
        reader.feed(b"x")
    assert caught.value.cause is Refused.TUNNEL_OVERRUN


@HOWS
def test_an_upgrade_with_a_body_begins_after_the_body(how: str) -> None:
    data = UPGRADE.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n") + b"hi" + NEXT
    sink = read(data, how)
    assert (sink.heads[0].upgrade, sink.bodies, len(sink.heads)) == (b"websocket", [b"hi"], 1)


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        (b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n", b""),
        (b"Connection: upgrade\r\nUpgrade: H2C, websocket\r\n", b"websocket"),
        (b"Upgrade: websocket\r\n", b""),
        (b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", b"websocket"),
        (b"Connection: Upgrade\r\nUpgrade: \r\n", b""),
        (b"Connection: Upgrade\r\nUpgrade: , ,\r\n", b""),
        (b"Connection: Upgrade\r\nUpgrade: , websocket\r\n", b"websocket"),
    ],
    ids=[
        "h2c",
        "h2c among others",
        "not named by Connection",
        "named among others",
        "empty",
        "blanks",
        "after a blank",
    ],
)
def test_an_upgrade_counts_if_connection_names_it_and_never_to_h2c(lines: bytes, upgrade: bytes) -> None:
    head = read(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n").heads[0]
    assert (head.upgrade, head.headers) == (upgrade, [])


def test_http_1_0_knows_no_upgrade_and_no_expectation_and_closes_unless_asked_to_stay() -> None:
    lines = b"Upgrade: websocket\r\nExpect: 100-continue\r\nConnection: upgrade%b\r\n\r\n"
    for more, stays in ((b"", False), (b", keep-alive", True), (b", keep-alive, close", False)):
        head = read(b"GET / HTTP/1.0\r\n" + lines % more).heads[0]
        assert (head.upgrade, head.expect_continue, head.http_1_0, head.keep_alive) == (b"", False, True, stays)


def test_nothing_is_read_after_a_request_that_closes() -> None:
    sink = read(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + NEXT)
    assert len(sink.heads) == 1


@HOWS
def test_a_reader_knows_whether_it_is_in_a_head_or_a_body(how: str) -> None:
    reader = RequestReader(Requests())
    states = []
    for part in (b"POST / HTTP/1.1\r\n", b"Host: a\r\nContent-Length: 2\r\n\r\n", b"h", b"i"):
        for piece in pieces(part, how):
            reader.feed(piece)
        states.append((reader.in_head, reader.in_body))
    assert states == [(True, False), (False, True), (False, True), (False, False)]


@pytest.mark.parametrize(
    ("target", "authority", "path"),
    [
        (b"http://a:1/x/y?z=/", b"a:1", b"/x/y?z=/"),
        (b"HTTP://A/", b"A", b"/"),
        (b"http://a", b"a", b"*"),
        (b"http://a?x=/y", b"a", b"/?x=/y"),
        (b"http://[::1]:80/", b"[::1]:80", b"/"),
        (b"/x", b"host", b"/x"),
        (b"/x@y:1", b"host", b"/x@y:1"),
        (b"*", b"host", b"*"),
    ],
)
def test_the_authority_is_the_targets_where_it_has_one(target: bytes, authority: bytes, path: bytes) -> None:
    head = read(b"OPTIONS %b HTTP/1.1\r\nHost: host\r\n\r\n" % target).heads[0]
    assert (head.authority, head.path) == (authority, path)


def test_many_small_requests_never_count_as_one_large_head() -> None:
    sink = Requests()
    reader = RequestReader(sink)
    data = (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n" + b"b" * 30_000) * 10
    assert len(data) > 4 * MAX_HEAD_BYTES
    for start in range(0, len(data), 100_001):
        reader.feed(data[start : start + 100_001])
    assert sink.ended == 10


@given(st.binary(max_size=400), st.integers(1, 50))
def test_noise_is_refused_or_incomplete_but_never_a_crash(data: bytes, cut: int) -> None:
    reader = RequestReader(Requests())
    try:
        for start in range(0, len(data), cut):
            reader.feed(data[start : start + cut])
    except MessageError:
        pass
