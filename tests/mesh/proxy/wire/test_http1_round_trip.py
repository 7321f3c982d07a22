"""What h11 writes we read, what we write h11 reads, and nothing changes on the way through us."""

from __future__ import annotations

import h11
from http1_ends import Requests, Responses, read, request
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.wire.http1 import (
    LAST_CHUNK,
    RequestReader,
    ResponseReader,
    chunk,
    interim_bytes,
    last_chunk,
    request_bytes,
    response_bytes,
)
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

HOP_BY_HOP = ("te", "host", "expect", "upgrade", "connection", "keep-alive", "trailer", "proxy-connection")
TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).filter(
    lambda name: name[0] != "-" and name not in HOP_BY_HOP
)
VALUE = st.text("abcXYZ019 ,;=/", max_size=20).map(str.strip)
HEADERS = st.lists(st.tuples(TOKEN, VALUE), max_size=8)
FRAMING = ("content-length", "transfer-encoding")


def _body(connection: h11.Connection) -> tuple[bytes, Headers]:
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert isinstance(event, h11.EndOfMessage)
            return body, list(event.headers)


def _sent(headers: h11.Headers) -> list[tuple[str, str]]:
    return [(n.decode(), v.decode()) for n, v in headers if n.decode() not in FRAMING]


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]),
    path=st.text("abc/?=&%", max_size=20).map(lambda p: "/" + p),
    headers=HEADERS,
    body=st.binary(max_size=300),
    chunked=st.booleans(),
    cut=st.integers(1, 40),
)
def test_requests_survive_the_way_through_us(
    method: str, path: str, headers: list[tuple[str, str]], body: bytes, chunked: bool, cut: int
) -> None:
    framing = [("transfer-encoding", "chunked")] if chunked else [("content-length", str(len(body)))]
    writer = h11.Connection(h11.CLIENT)
    sent = h11.Request(method=method, target=path, headers=[("host", "a:80"), *headers, *framing])
    data = (writer.send(sent) or b"") + (writer.send(h11.Data(data=body)) or b"")
    data += writer.send(h11.EndOfMessage(headers=[("x-sum", "1")] if chunked else [])) or b""

    sink = Requests()
    reader = RequestReader(sink)
    for start in range(0, len(data), cut):
        reader.feed(data[start : start + cut])
    assert (sink.bodies, sink.trailers) == ([body], [[(b"x-sum", b"1")] if chunked else None])
    head = sink.heads[0]

    again = request_bytes(head, head.path, head.authority, head.headers, [(b"l5d-client-id", b"me")])
    if chunked:
        again += (chunk(body) if body else b"") + last_chunk(sink.trailers[0] or [])
    else:
        again += body
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(again)
    event = oracle.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target.decode()) == (method, path)
    assert _sent(event.headers) == [("host", "a:80"), *headers, ("l5d-client-id", "me")]
    assert _body(oracle) == (body, sink.trailers[0] or [])


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
    reader.expect(request())
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
    assert _sent(event.headers) == headers
    assert _body(oracle) == (body, [])


def test_a_tunnel_is_asked_for_and_granted_in_http_1_1s_words() -> None:
    head = read(b"GET /c HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX: y\r\n\r\n").heads[0]
    assert request_bytes(head, head.path, b"b:1", head.headers, []) == (
        b"GET /c HTTP/1.1\r\nhost: b:1\r\nx: y\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    )
    head = read(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").heads[0]
    assert request_bytes(head, head.path, head.authority, [], []) == b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n"
    granted = ResponseHead()
    granted.status, granted.reason, granted.upgrade = 101, b"Switching Protocols", b"websocket"
    assert response_bytes(granted, chunked=False, close=False, http_1_0=False) == (
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    )


def test_a_client_that_takes_trailers_is_announced_upstream() -> None:
    head = RequestHead()
    head.method, head.te_trailers = "POST", True
    head.content_length = 0
    assert request_bytes(head, b"/", b"a", [], []) == (
        b"POST / HTTP/1.1\r\nhost: a\r\nconnection: te\r\nte: trailers\r\ncontent-length: 0\r\n\r\n"
    )


def test_the_connection_header_says_what_the_client_has_to_know() -> None:
    head = ResponseHead()
    head.status, head.reason, head.content_length = 200, b"OK", 0
    start = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"
    for close, http_1_0, line in (
        (False, False, b""),
        (True, False, b"connection: close\r\n"),
        (True, True, b"connection: close\r\n"),
        (False, True, b"connection: keep-alive\r\n"),
    ):
        assert response_bytes(head, chunked=False, close=close, http_1_0=http_1_0) == start + line + b"\r\n"
    head.status, head.reason, head.headers = 103, b"Early Hints", [(b"link", b"x")]
    assert interim_bytes(head) == b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
