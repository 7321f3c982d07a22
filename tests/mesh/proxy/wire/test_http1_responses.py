"""Responses: framing, interim and early ones, tunnels, and what cannot be trusted."""

from __future__ import annotations

import pytest
from http1_ends import Responses, answer, pieces, request

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.http1 import MAX_INTERIM, ResponseReader
from mesh.proxy.wire.http1_fields import MessageError

HOWS = pytest.mark.parametrize("how", ["whole", "byte by byte"])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@HOWS
@pytest.mark.parametrize(
    ("data", "method", "body", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET", b"abc", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "GET", b"abc", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", "GET", b"abc", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET", b"abc", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc", "GET", b"abc", True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", b"", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", b"", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", "GET", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "GET", b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD", b"", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", b"", True),
        (b"HTTP/1.1 200 OK\r\n\r\n", "HEAD", b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "HEAD", b"", False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "POST", b"x", True),
        (b"HTTP/1.1 502 No\r\nContent-Length: 1\r\n\r\nx", "CONNECT", b"x", True),
    ],
)
def test_responses_are_framed_as_rfc_9112_says(
    data: bytes, method: str, body: bytes, keep_alive: bool, how: str
) -> None:
    sink, _ = answer(data, how, request(method))
    assert (sink.bodies, sink.ended, sink.heads[0].keep_alive) == ([body], 1, keep_alive)


@HOWS
def test_interim_responses_are_passed_on_but_for_100(how: str) -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nConnection: y\r\nY: 1\r\n\r\n" + OK
    sink, _ = answer(data, how)
    assert [(head.status, head.headers) for head in sink.interim] == [(103, [(b"link", b"x")])]
    assert (sink.heads[0].status, sink.bodies) == (200, [b"hi"])


def test_interim_responses_are_bounded() -> None:
    early = b"HTTP/1.1 102 Processing\r\n\r\n"
    assert len(answer(early * MAX_INTERIM + OK)[0].interim) == MAX_INTERIM
    with pytest.raises(MessageError):
        answer(early * (MAX_INTERIM + 1))


@HOWS
def test_a_response_without_framing_ends_with_the_connection(how: str) -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nabc"
    sink, _ = answer(data, how)
    assert (sink.bodies, sink.ended, sink.heads[0].keep_alive) == ([b"abc"], 0, False)
    sink, _ = answer(data, how, closed=True)
    assert sink.ended == 1


@HOWS
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
def test_a_response_cut_short_does_not_end_with_the_connection(framing: bytes, how: str) -> None:
    sink, _ = answer(b"HTTP/1.1 200 OK\r\n" + framing, how, closed=True)
    assert (sink.bodies, sink.ended) == ([b"abc"], 0)


@HOWS
def test_the_next_response_is_read_after_one_without_a_body(how: str) -> None:
    sink, reader = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", how, request("HEAD"))
    reader.expect(request())
    assert not reader.started
    for piece in pieces(OK, how):
        reader.feed(piece)
    assert (sink.bodies, sink.ended, reader.started) == ([b"", b"hi"], 2, True)


@HOWS
def test_trailers_that_may_be_passed_on_are(how: str) -> None:
    data = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n"
        b"1\r\nx\r\n0\r\nGrpc-Status: 0\r\ngrpc-message:\r\nContent-Length: 7\r\nSet-Cookie: a\r\n\r\n"
    )
    sink, _ = answer(data, how)
    assert sink.trailers == [[(b"grpc-status", b"0"), (b"grpc-message", b"")]]
    assert sink.heads[0].headers == [(b"trailer", b"grpc-status")]


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX: y\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"


@HOWS
@pytest.mark.parametrize(
    ("data", "asked"),
    [
        (SWITCH, request("GET", b"websocket")),
        (ESTABLISHED.replace(b"Content-Length: 3\r\n", b""), request("CONNECT")),
        (ESTABLISHED.replace(b"Transfer-Encoding: chunked\r\n", b""), request("CONNECT")),
    ],
    ids=["101", "CONNECT, chunked", "CONNECT, length"],
)
def test_after_a_granted_tunnel_everything_is_raw_until_the_close(data: bytes, asked: object, how: str) -> None:
    sink, reader = answer(data + b"\x81\x05HTTP/1.1 200", how, asked)  # type: ignore[arg-type]
    assert (sink.bodies, sink.ended) == ([b"\x81\x05HTTP/1.1 200"], 0)
    assert sink.heads[0].upgrade == (b"websocket" if sink.heads[0].status == 101 else b"")
    assert (sink.heads[0].chunked, sink.heads[0].content_length) == (False, None)
    assert reader.end_of_stream()
    assert sink.ended == 1


@HOWS
def test_bytes_beyond_the_response_cost_the_connection_its_next_request(how: str) -> None:
    sink, _ = answer(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", how)
    assert (sink.bodies, sink.ended, sink.heads[0].keep_alive) == ([b"hi"], 1, False)


def test_an_early_response_leaves_the_reader_ready_for_the_next_request() -> None:
    sink = Responses()
    reader = ResponseReader(sink)
    asked = request("POST")
    asked.chunked = True
    reader.expect(asked)
    reader.feed(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")  # while the request's body is on its way
    assert (sink.ended, sink.heads[0].keep_alive, reader.end_of_stream()) == (1, True, False)
    reader.expect(request())
    reader.feed(OK)
    assert sink.bodies == [b"", b"hi"]


@HOWS
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_responses_that_make_no_sense_are_refused(data: bytes, how: str) -> None:
    with pytest.raises(MessageError) as caught:
        answer(data, how)
    assert caught.value.cause is Refused.RESPONSE_INVALID
