"""Requests that two parsers could read differently, or that cost too much: each refused for its own reason."""

from __future__ import annotations

import pytest
from http1_ends import Requests, pieces, read, refusal

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.http1 import (
    MAX_EMPTY_LINES,
    MAX_EXTENSION_BYTES,
    MAX_HEAD_BYTES,
    MAX_TRAILER_BYTES,
    RequestReader,
)
from mesh.proxy.wire.http1_fields import MessageError
from mesh.proxy.wire.http1_heads import MAX_FIELDS, MAX_METHOD_BYTES, MAX_TARGET_BYTES

HOWS = pytest.mark.parametrize("how", ["whole", "byte by byte"])

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SHAPES = {
    "length and chunks": (
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused.LENGTH_AND_CHUNKED,
    ),
    "chunks and length": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        Refused.LENGTH_AND_CHUNKED,
    ),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", Refused.LENGTH_CONFLICT),
    "the same length twice": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", Refused.LENGTH_REPEATED),
    "the same length, written differently": (
        POST + b"Content-Length: 3\r\nContent-Length: 03\r\n\r\nabc",
        Refused.LENGTH_REPEATED,
    ),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", Refused.LENGTH),
    "a signed length": (POST + b"Content-Length: +3\r\n\r\nabc", Refused.LENGTH),
    "a negative length": (POST + b"Content-Length: -3\r\n\r\nabc", Refused.LENGTH),
    "a hexadecimal length": (POST + b"Content-Length: 0x3\r\n\r\nabc", Refused.LENGTH),
    "a length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\nabc", Refused.LENGTH),
    "a length in other digits": (POST + b"Content-Length: \xd9\xa3\r\n\r\nabc", Refused.LENGTH),
    "a length without a number": (POST + b"Content-Length:\r\n\r\nabc", Refused.LENGTH),
    "a length beyond 64 bits": (POST + b"Content-Length: 18446744073709551619\r\n\r\nabc", Refused.LENGTH),
    "an unknown coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n", Refused.CODING),
    "chunked, identity": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n", Refused.CODING),
    "gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", Refused.CODING),
    "chunked, chunked": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", Refused.CODING),
    "chunked with a blank after it": (POST + b"Transfer-Encoding: Chunked \r\n\r\n", Refused.CODING),
    "chunked in quotes": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n', Refused.CODING),
    "no coding": (POST + b"Transfer-Encoding:\r\n\r\n", Refused.CODING),
    "chunked with a vertical tab": (POST + b"Transfer-Encoding: chunked\x0b\r\n\r\n", Refused.HEADER_VALUE),
    "a vertical tab, chunked": (POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n", Refused.HEADER_VALUE),
    "codings in two lines": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused.CODING_REPEATED,
    ),
    "chunks in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused.CODING_HTTP_1_0,
    ),
    "a space before the colon": (POST + b"Content-Length : 3\r\n\r\nabc", Refused.SPACE_BEFORE_COLON),
    "a tab before the colon": (POST + b"Transfer-Encoding\t: chunked\r\n\r\n", Refused.SPACE_BEFORE_COLON),
    "a space in a name": (GET + b"X Y: 1\r\n\r\n", Refused.HEADER_NAME),
    "a NUL in a name": (GET + b"Content-Length\x00: 1\r\n\r\na", Refused.HEADER_NAME),
    "a name in quotes": (GET + b'"X": 1\r\n\r\n', Refused.HEADER_NAME),
    "no name": (GET + b": 1\r\n\r\n", Refused.HEADER_NAME),
    "no colon": (GET + b"Content-Length\r\n\r\n", Refused.HEADER_NAME),
    "a folded value": (GET + b"X: 1\r\n 2\r\n\r\n", Refused.OBS_FOLD),
    "a folded coding": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n", Refused.CODING),
    "a blank before the first header": (
        b"GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n",
        Refused.OBS_FOLD,
    ),
    "a NUL in a value": (GET + b"X: a\x00b\r\n\r\n", Refused.HEADER_VALUE),
    "a DEL in a value": (GET + b"X: a\x7fb\r\n\r\n", Refused.HEADER_VALUE),
    "a bare CR in a value": (GET + b"X: a\rContent-Length: 3\r\n\r\n", Refused.BARE_LINE_BREAK),
    "a bare LF in a value": (GET + b"X: a\nContent-Length: 3\r\n\r\n", Refused.BARE_LINE_BREAK),
    "a bare CR in a name": (GET + b"X\r: a\r\n\r\n", Refused.BARE_LINE_BREAK),
    "bare LFs for line ends": (b"GET / HTTP/1.1\nHost: a\n\n", Refused.BARE_LINE_BREAK),
    "a bare CR in the request line": (b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", Refused.BARE_LINE_BREAK),
    "a chunk size of nothing": (CHUNKED + b"\r\n\r\n", Refused.CHUNK_SIZE),
    "a chunk size with 0x": (CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", Refused.CHUNK_SIZE),
    "a chunk size with a sign": (CHUNKED + b"+1\r\na\r\n0\r\n\r\n", Refused.CHUNK_SIZE),
    "a negative chunk size": (CHUNKED + b"-1\r\na\r\n0\r\n\r\n", Refused.CHUNK_SIZE),
    "a chunk size with an underscore": (CHUNKED + b"1_0\r\n", Refused.CHUNK_SIZE),
    "a chunk size with a blank before it": (CHUNKED + b" 1\r\na\r\n0\r\n\r\n", Refused.CHUNK_SIZE),
    "a chunk size with a blank after it": (CHUNKED + b"1 \r\na\r\n0\r\n\r\n", Refused.CHUNK_SIZE),
    "a chunk size beyond 64 bits": (CHUNKED + b"10000000000000001\r\na\r\n0\r\n\r\n", Refused.CHUNK_SIZE),
    "a chunk size ended by LF": (CHUNKED + b"1\na\r\n0\r\n\r\n", Refused.CHUNK_SIZE),
    "a chunk size ended by CR": (CHUNKED + b"1\ra\r\n0\r\n\r\n", Refused.CHUNK_SIZE),
    "an extension ended by LF": (CHUNKED + b"1;a\nb\r\n0\r\n\r\n", Refused.CHUNK_EXTENSION),
    "an extension with a bare CR": (CHUNKED + b"1;a\rb\r\nx\r\n0\r\n\r\n", Refused.CHUNK_EXTENSION),
    "a chunk longer than it said": (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", Refused.CHUNK_END),
    "a chunk ended by LF": (CHUNKED + b"1\r\na\n0\r\n\r\n", Refused.CHUNK_END),
    "a trailer that is none": (CHUNKED + b"0\r\nX Y: 1\r\n\r\n", Refused.HEADER_NAME),
    "a folded trailer": (CHUNKED + b"0\r\nX: 1\r\n 2\r\n\r\n", Refused.OBS_FOLD),
    "no Host": (b"GET / HTTP/1.1\r\nX: a\r\n\r\n", Refused.HOST_MISSING),
    "no Host beside an absolute target": (b"GET http://a/ HTTP/1.1\r\n\r\n", Refused.HOST_MISSING),
    "two hosts": (GET + b"Host: b\r\n\r\n", Refused.HOST_REPEATED),
    "the same host twice": (GET + b"Host: a\r\n\r\n", Refused.HOST_REPEATED),
    "a list of hosts": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refused.HOST_INVALID),
    "a host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused.HOST_INVALID),
    "a host with user information": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Refused.HOST_INVALID),
    "a host with a word for a port": (b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", Refused.HOST_INVALID),
    "user information in the target": (b"GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused.HOST_INVALID),
    "an absolute target without a host": (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", Refused.TARGET),
    "another scheme": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused.TARGET),
    "a target without a slash": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", Refused.TARGET),
    "an asterisk but not OPTIONS": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refused.TARGET),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Refused.TARGET),
    "a target that is not ASCII": (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", Refused.TARGET),
    "a NUL in the target": (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", Refused.TARGET),
    "two paths": (b"GET /a /b HTTP/1.1\r\nHost: a\r\n\r\n", Refused.REQUEST_LINE),
    "two spaces after the method": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refused.REQUEST_LINE),
    "two spaces before the version": (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Refused.REQUEST_LINE),
    "a tab for a space": (b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", Refused.REQUEST_LINE),
    "HTTP/0.9": (b"GET /\r\n\r\n", Refused.REQUEST_LINE),
    "a space after the version": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refused.REQUEST_LINE),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refused.VERSION),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refused.VERSION),
    "http/1.1": (b"GET / http/1.1\r\nHost: a\r\n\r\n", Refused.VERSION),
    "a method that is no token": (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Refused.METHOD),
    "a method of nothing": (b" / HTTP/1.1\r\nHost: a\r\n\r\n", Refused.METHOD),
    "a long method": (b"M" * (MAX_METHOD_BYTES + 1) + b" / HTTP/1.1\r\nHost: a\r\n\r\n", Refused.METHOD),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01", Refused.METHOD),
    "another expectation": (POST + b"Expect: miracle\r\nContent-Length: 1\r\n\r\na", Refused.EXPECTATION),
    "CONNECT with a body": (
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        Refused.TUNNEL_BODY,
    ),
    "CONNECT without a port": (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Refused.TARGET),
    "CONNECT to a path": (b"CONNECT /a:1 HTTP/1.1\r\nHost: a\r\n\r\n", Refused.HOST_INVALID),
    "a long target": (
        b"GET /" + b"a" * MAX_TARGET_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        Refused.URI_TOO_LONG,
    ),
    "a target without end": (b"GET /" + b"a" * (2 * MAX_TARGET_BYTES), Refused.URI_TOO_LONG),
    "a long head": (GET + (b"X: " + b"a" * 997 + b"\r\n") * 66 + b"\r\n", Refused.HEAD_TOO_LARGE),
    "a head without end": (GET + b"X: " + b"a" * (MAX_HEAD_BYTES + 10), Refused.HEAD_TOO_LARGE),
    "too many headers": (GET + b"X: 1\r\n" * MAX_FIELDS + b"\r\n", Refused.TOO_MANY_HEADERS),
    "too many trailers": (CHUNKED + b"0\r\n" + b"X: 1\r\n" * (MAX_FIELDS + 1) + b"\r\n", Refused.TOO_MANY_HEADERS),
    "trailers without end": (CHUNKED + b"0\r\nX: " + b"a" * MAX_TRAILER_BYTES, Refused.HEAD_TOO_LARGE),
    "an extension without end": (CHUNKED + b"1;" + b"a" * (MAX_EXTENSION_BYTES + 1), Refused.CHUNK_EXTENSION),
    "many extensions": (
        CHUNKED + (b"1;" + b"a" * (MAX_EXTENSION_BYTES // 16) + b"\r\nx\r\n") * 17,
        Refused.CHUNK_EXTENSION,
    ),
    "a chunk size without end": (CHUNKED + b"0" * 17, Refused.CHUNK_SIZE),
    "empty lines without end": (b"\r\n" * (MAX_EMPTY_LINES + 1), Refused.REQUEST_LINE),
}


@HOWS
@pytest.mark.parametrize(("data", "cause"), SHAPES.values(), ids=SHAPES.keys())
def test_each_dubious_shape_is_refused_for_its_own_reason(data: bytes, cause: Refused, how: str) -> None:
    assert refusal(data, how) is cause


@HOWS
@pytest.mark.parametrize("shape", ["chunked with a vertical tab", "length and chunks", "two hosts", "no colon"])
def test_a_shape_is_refused_again_after_its_lines_were_seen(shape: str, how: str) -> None:
    data, cause = SHAPES[shape]
    assert [refusal(data, how) for _ in range(2)] == [cause, cause]


@HOWS
def test_what_is_at_a_limit_is_accepted(how: str) -> None:
    target = b"/" + b"a" * (MAX_TARGET_BYTES - 1)
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(MAX_FIELDS - 1))
    data = b"M" * MAX_METHOD_BYTES + b" " + target + b" HTTP/1.1\r\nHost: a\r\n" + many + b"\r\n"
    padding = MAX_HEAD_BYTES - len(GET) - len(b"X: \r\n")
    data += GET + b"X: " + b"a" * (padding + 2) + b"\r\n\r\n"
    data += CHUNKED + b"0000000000000001;" + b"a" * MAX_EXTENSION_BYTES + b"\r\nx\r\n0\r\n\r\n"
    sink = read(data, how) if how == "whole" else read(data[:30_000], how)
    assert sink.ended == (3 if how == "whole" else 1)


@HOWS
def test_blanks_around_values_are_no_part_of_them_and_do_no_harm(how: str) -> None:
    data = b"POST / HTTP/1.1\r\nHost:\ta \r\nContent-Length: \t1\t \r\nX:  a b\t\r\nY:\r\n\r\nz"
    sink = read(data, how)
    assert (sink.heads[0].authority, sink.heads[0].headers, sink.bodies) == (
        b"a",
        [(b"x", b"a b"), (b"y", b"")],
        [b"z"],
    )


@HOWS
def test_nothing_is_told_of_a_refused_head(how: str) -> None:
    sink = Requests()
    reader = RequestReader(sink)
    data = GET + b"\r\n" + POST + b"Content-Length: 1, 1\r\n\r\nx"
    with pytest.raises(MessageError):  # noqa: PT012 - which of the pieces it is does not matter
        for piece in pieces(data, how):
            reader.feed(piece)
    assert (len(sink.heads), sink.ended) == (1, 1)
