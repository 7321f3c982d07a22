"""HTTP/1 machines: fed whole, byte by byte and with data trailing; judged against h11; smuggling shapes refused."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.http1 import (
    LAST_CHUNK,
    MAX_HEAD_BYTES,
    MessageError,
    RequestHead,
    RequestReader,
    ResponseHead,
    ResponseReader,
    chunk,
    request_bytes,
    response_bytes,
)


class Requests:
    """Collects what a reader says."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.bodies: list[bytes] = []
        self.ended = 0

    def request_head(self, head: RequestHead) -> None:
        self.heads.append(head)
        self.bodies.append(b"")

    def request_body(self, data: bytes) -> None:
        self.bodies[-1] += data

    def request_end(self) -> None:
        self.ended += 1


class Responses:
    def __init__(self) -> None:
        self.heads: list[ResponseHead] = []
        self.bodies: list[bytes] = []
        self.ended = 0

    def response_head(self, head: ResponseHead) -> None:
        self.heads.append(head)
        self.bodies.append(b"")

    def response_body(self, data: bytes) -> None:
        self.bodies[-1] += data

    def response_end(self) -> None:
        self.ended += 1


def pieces(data: bytes, how: str) -> list[bytes]:
    return [data] if how == "whole" else [data[i : i + 1] for i in range(len(data))]


def read(data: bytes, how: str = "whole", strip: frozenset[bytes] = frozenset()) -> Requests:
    sink = Requests()
    reader = RequestReader(sink, strip)
    for piece in pieces(data, how):
        reader.feed(piece)
    return sink


HOWS = pytest.mark.parametrize("how", ["whole", "byte by byte"])


@HOWS
def test_pipelined_requests_are_told_apart(how: str) -> None:
    data = (
        b"POST http://a.b:80/x?q=1 HTTP/1.1\r\nHost: ignored\r\nContent-Length: 3\r\nX-A: 1\r\n\r\nabc"
        b"PUT /y HTTP/1.1\r\nhost: c:1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1;x=y\r\nf\r\n0\r\nT: 1\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: z\r\n\r\n"
    )
    sink = read(data, how)
    assert [(h.method, h.authority, h.path) for h in sink.heads] == [
        ("POST", b"a.b:80", b"/x?q=1"),
        ("PUT", b"c:1", b"/y"),
        ("GET", b"z", b"/"),
    ]
    assert sink.bodies == [b"abc", b"def", b""]
    assert sink.ended == 3
    assert sink.heads[0].headers == [(b"X-A", b"1")]
    assert sink.heads[1].headers == []


@HOWS
def test_a_request_cut_short_is_not_ended(how: str) -> None:
    sink = read(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc", how)
    assert (len(sink.heads), sink.ended) == (1, 0)


@HOWS
def test_hop_by_hop_headers_end_here(how: str) -> None:
    data = (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n"
        b"TE: trailers\r\n"
        b"Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nProxy-Authorization: b\r\nTrailer: x\r\n"
        b"traceparent: 00-ab-cd-01\r\nb3: 1\r\nx-b3-traceid: 2\r\nL5d-Client-Id: me\r\n\r\n"
    )
    sink = read(data, how, strip=frozenset({b"l5d-client-id"}))
    assert sink.heads[0].headers == [(b"traceparent", b"00-ab-cd-01"), (b"b3", b"1"), (b"x-b3-traceid", b"2")]


@HOWS
def test_an_upgrade_is_declined_and_the_next_request_read(how: str) -> None:
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\n"
    data = b"GET /1 HTTP/1.1\r\nHost: a\r\n" + upgrade + b"\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
    assert [h.path for h in read(data, how).heads] == [b"/1", b"/2"]


POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
REFUSED = {
    "length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "the same length twice": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "a signed length": POST + b"Content-Length: +3\r\n\r\nabc",
    "a hexadecimal length": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n",
    "chunked not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
    "a coding before chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded header": POST + b"X: a\r\n b\r\n\r\n",
    "a bare line feed": POST + b"X: a\nY: b\r\n\r\n",
    "a NUL in a value": POST + b"X: a\x00b\r\n\r\n",
    "a bad chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk longer than said": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an upgrade with a body": POST + b"Upgrade: x\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\nabc",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "another version": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "another scheme": b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "user information": b"GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "two paths": b"GET /a /b HTTP/1.1\r\nHost: a\r\n\r\n",
    "another expectation": POST + b"Expect: miracle\r\nContent-Length: 1\r\n\r\na",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01",
}


@HOWS
@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_ambiguous_requests_are_refused(data: bytes, how: str) -> None:
    with pytest.raises(MessageError) as caught:
        read(data, how)
    assert caught.value.cause is Refused.BAD_REQUEST


@HOWS
def test_connect_is_not_carried(how: str) -> None:
    with pytest.raises(MessageError) as caught:
        read(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", how)
    assert caught.value.cause is Refused.UNSUPPORTED


@pytest.mark.parametrize("size", [1000, 100_000])
def test_an_oversized_head_is_refused_in_one_read_or_many(size: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Pad: %b\r\n" % (b"a" * 990) * (MAX_HEAD_BYTES // 900) + b"\r\n"
    reader = RequestReader(Requests())

    def feed() -> None:
        for start in range(0, len(head), size):
            reader.feed(head[start : start + size])

    with pytest.raises(MessageError) as caught:
        feed()
    assert caught.value.cause is Refused.HEAD_TOO_LARGE


def test_many_small_requests_never_count_as_one_large_head() -> None:
    sink = Requests()
    reader = RequestReader(sink)
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n" + b"b" * 30_000
    data = request * 10
    for start in range(0, len(data), 100_001):
        reader.feed(data[start : start + 100_001])
    assert sink.ended == 10


@pytest.mark.parametrize(
    ("target", "authority", "path"),
    [
        (b"http://a:1/x/y?z=/", b"a:1", b"/x/y?z=/"),
        (b"HTTP://A/", b"A", b"/"),
        (b"http://a", b"a", b"/"),
        (b"http://a?x=/y", b"a", b"/?x=/y"),
        (b"/x", b"host", b"/x"),
        (b"*", b"host", b"*"),
    ],
)
def test_the_authority_is_the_targets_where_it_has_one(target: bytes, authority: bytes, path: bytes) -> None:
    head = read(b"OPTIONS %b HTTP/1.1\r\nHost: host\r\n\r\n" % target).heads[0]
    assert (head.authority, head.path) == (authority, path)


def test_http_1_0_closes_unless_asked_to_stay() -> None:
    assert not read(b"GET / HTTP/1.0\r\n\r\n").heads[0].keep_alive
    assert read(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").heads[0].keep_alive


TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).filter(
    lambda n: n[0] != "-" and n not in ("te", "host", "expect", "upgrade", "trailer", "connection")
)
VALUE = st.text("abcXYZ019 ,;=/", max_size=20).map(str.strip)
HEADERS = st.lists(st.tuples(TOKEN, VALUE), max_size=8)


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]),
    path=st.text("abc/?=&%", max_size=20).map(lambda p: "/" + p),
    headers=HEADERS,
    body=st.binary(max_size=300),
    chunked=st.booleans(),
    cut=st.integers(1, 40),
)
def test_what_h11_writes_we_read_and_what_we_write_h11_reads(
    method: str, path: str, headers: list[tuple[str, str]], body: bytes, chunked: bool, cut: int
) -> None:
    framing = [("transfer-encoding", "chunked")] if chunked else [("content-length", str(len(body)))]
    writer = h11.Connection(h11.CLIENT)
    sent = h11.Request(method=method, target=path, headers=[("host", "a:80"), *headers, *framing])
    data = (writer.send(sent) or b"") + (writer.send(h11.Data(data=body)) or b"")
    data += writer.send(h11.EndOfMessage()) or b""

    sink = Requests()
    reader = RequestReader(sink)
    for start in range(0, len(data), cut):
        reader.feed(data[start : start + cut])
    assert (sink.bodies, sink.ended) == ([body], 1)
    head = sink.heads[0]

    again = request_bytes(head, head.authority)
    again += (chunk(body) if body else b"") + LAST_CHUNK if chunked else body
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(again)
    event = oracle.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target.decode()) == (method, path)
    received = [
        (n.decode(), v.decode()) for n, v in event.headers if n not in (b"content-length", b"transfer-encoding")
    ]
    assert received == [("host", "a:80"), *headers]
    assert _body(oracle) == body


def _body(connection: h11.Connection) -> bytes:
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert isinstance(event, h11.EndOfMessage)
            return body


@given(st.binary(max_size=400), st.integers(1, 50))
def test_noise_is_refused_or_incomplete_but_never_a_crash(data: bytes, cut: int) -> None:
    reader = RequestReader(Requests())
    try:
        for start in range(0, len(data), cut):
            reader.feed(data[start : start + cut])
    except MessageError:
        pass


# ---- responses


def answer(
    data: bytes, how: str = "whole", method: str = "GET", closed: bool = False
) -> tuple[Responses, ResponseReader]:
    sink = Responses()
    reader = ResponseReader(sink)
    reader.expect(method)
    for piece in pieces(data, how):
        reader.feed(piece)
    if closed:
        reader.end_of_stream()
    return sink, reader


@HOWS
@pytest.mark.parametrize(
    ("data", "method", "body", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET", b"abc", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: x\r\n\r\n", "GET", b"abc", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", "GET", b"abc", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET", b"abc", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "GET", b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD", b"", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", b"", True),
        (b"HTTP/1.1 200 OK\r\n\r\n", "HEAD", b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "HEAD", b"", False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "POST", b"x", True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "GET", b"", True),
    ],
)
def test_responses_are_framed_as_rfc_9112_says(
    data: bytes, method: str, body: bytes, keep_alive: bool, how: str
) -> None:
    sink, _ = answer(data, how, method)
    assert (sink.bodies, sink.ended, sink.heads[0].keep_alive) == ([body], 1, keep_alive)


@HOWS
def test_a_response_without_framing_ends_with_the_connection(how: str) -> None:
    sink, _ = answer(b"HTTP/1.1 200 OK\r\n\r\nabc", how)
    assert (sink.bodies, sink.ended) == ([b"abc"], 0)
    sink, _ = answer(b"HTTP/1.1 200 OK\r\n\r\nabc", how, closed=True)
    assert sink.ended == 1


@HOWS
def test_a_response_cut_short_does_not_end_with_the_connection(how: str) -> None:
    sink, _ = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", how, closed=True)
    assert sink.ended == 0


@HOWS
def test_the_connection_reads_on_after_an_answer_to_head(how: str) -> None:
    sink, reader = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", how, "HEAD")
    reader.expect("GET")
    for piece in pieces(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", how):
        reader.feed(piece)
    assert (sink.bodies, sink.ended) == ([b"", b"hi"], 2)


@HOWS
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_responses_that_make_no_sense_are_refused(data: bytes, how: str) -> None:
    with pytest.raises(MessageError):
        answer(data, how)


@given(
    status=st.sampled_from([200, 201, 404, 500, 503]),
    headers=HEADERS,
    body=st.binary(max_size=300),
    chunked=st.booleans(),
    cut=st.integers(1, 40),
)
def test_responses_survive_the_way_through_us(
    status: int, headers: list[tuple[str, str]], body: bytes, chunked: bool, cut: int
) -> None:
    framing = [("transfer-encoding", "chunked")] if chunked else [("content-length", str(len(body)))]
    writer = h11.Connection(h11.SERVER)
    writer.receive_data(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    writer.next_event()
    data = writer.send(h11.Response(status_code=status, headers=[*headers, *framing], reason=b"x")) or b""
    data += (writer.send(h11.Data(data=body)) or b"") + (writer.send(h11.EndOfMessage()) or b"")

    sink = Responses()
    reader = ResponseReader(sink)
    reader.expect("GET")
    for start in range(0, len(data), cut):
        reader.feed(data[start : start + cut])
    assert (sink.bodies, sink.ended) == ([body], 1)

    again = response_bytes(sink.heads[0], chunked=chunked, close=False, http_1_0=False)
    again += (chunk(body) if body else b"") + LAST_CHUNK if chunked else body
    oracle = h11.Connection(h11.CLIENT)
    oracle.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    oracle.send(h11.EndOfMessage())
    oracle.receive_data(again)
    event = oracle.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == status
    received = [
        (n.decode(), v.decode()) for n, v in event.headers if n not in (b"content-length", b"transfer-encoding")
    ]
    assert received == headers
    assert _body(oracle) == body
