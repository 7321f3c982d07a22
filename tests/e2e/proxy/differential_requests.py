"""The requests of the differential test: normal ones, odd ones, and such as a proxy must not let through.

The origin finds out by the field `x-case` which case a request belongs to; the rest is as a client would send it.
"""

from __future__ import annotations

from dataclasses import dataclass

HOST = "app.bench.svc.cluster.local:80"


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    answers: int = 1
    """How many a patient client waits for."""

    @property
    def head(self) -> bool:
        return self.data.startswith(b"HEAD")


def plain(
    name: str,
    line: str = "GET /ok HTTP/1.1",
    *fields: str,
    body: bytes = b"",
    host: str | None = HOST,
    answers: int = 1,
) -> Case:
    """A request by its lines; `latin-1`, so that any byte can be written."""
    lines = [line, *([f"Host: {host}"] if host is not None else []), f"x-case: {name}", *fields, "", ""]
    return Case(name, "\r\n".join(lines).encode("latin-1") + body, answers)


def chunked(name: str, body: bytes, *fields: str) -> Case:
    return plain(name, "POST /ok HTTP/1.1", "Transfer-Encoding: chunked", *fields, body=body)


HTTP1 = [
    # Normal
    plain("get"),
    plain("get with a query", "GET /ok?a=1&b=%20 HTTP/1.1"),
    plain("head", "HEAD /ok HTTP/1.1"),
    plain("post with a length", "POST /ok HTTP/1.1", "Content-Length: 5", body=b"hello"),
    plain("post of nothing", "POST /ok HTTP/1.1", "Content-Length: 0"),
    plain("post without framing", "POST /ok HTTP/1.1"),
    plain("get with a body", "GET /ok HTTP/1.1", "Content-Length: 5", body=b"hello"),
    plain("put", "PUT /ok HTTP/1.1", "Content-Length: 2", body=b"{}"),
    plain("patch", "PATCH /ok HTTP/1.1", "Content-Length: 2", body=b"{}"),
    plain("delete", "DELETE /ok HTTP/1.1"),
    plain("options", "OPTIONS /ok HTTP/1.1"),
    plain("options of the server", "OPTIONS * HTTP/1.1"),
    plain("a method of one's own", "PURGE /ok HTTP/1.1"),
    plain("trace", "TRACE /ok HTTP/1.1"),
    plain("absolute form", f"GET http://{HOST}/ok HTTP/1.1"),
    plain("connection close", "GET /ok HTTP/1.1", "Connection: close"),
    plain("http/1.0", "GET /ok HTTP/1.0"),
    plain("http/1.0 keep-alive", "GET /ok HTTP/1.0", "Connection: keep-alive"),
    chunked("chunked", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
    chunked("chunked of nothing", b"0\r\n\r\n"),
    Case("pipelined", plain("pipelined").data * 2, answers=2),
    plain("expect 100-continue", "POST /ok HTTP/1.1", "Expect: 100-continue", "Content-Length: 5", body=b"hello"),
    plain("repeated field", "GET /ok HTTP/1.1", "x-a: 1", "x-a: 2"),
    plain("names in capitals", "GET /ok HTTP/1.1", "X-UPPER: Value"),
    plain("blanks around a value", "GET /ok HTTP/1.1", "x-a: \t  padded \t "),
    plain("empty value", "GET /ok HTTP/1.1", "x-a:"),
    plain("no blank after the colon", "GET /ok HTTP/1.1", "x-a:1"),
    plain("cookie", "GET /ok HTTP/1.1", "Cookie: a=1; b=2"),
    plain("value of 7 KiB", "GET /ok HTTP/1.1", "x-long: " + "v" * 7_000),
    plain("sixty fields", "GET /ok HTTP/1.1", *(f"x-{n}: {n}" for n in range(60))),
    # Answers
    plain("204", "GET /status/204 HTTP/1.1"),
    plain("304", "GET /status/304 HTTP/1.1"),
    plain("404 of the app", "GET /status/404 HTTP/1.1"),
    plain("500 of the app", "GET /status/500 HTTP/1.1"),
    plain("chunked answer", "GET /chunked HTTP/1.1"),
    plain("answer until close", "GET /until-close HTTP/1.1"),
    plain("answer with trailers", "GET /trailers HTTP/1.1", "TE: trailers"),
    plain("answer with two cookies", "GET /cookies HTTP/1.1"),
    plain("early hints", "GET /early-hints HTTP/1.1"),
    plain("head of a length", "HEAD /ok HTTP/1.1", "x-a: 1"),
    # Odd
    plain("hop-by-hop named", "GET /ok HTTP/1.1", "Connection: x-hop", "x-hop: 1"),
    plain("keep-alive field", "GET /ok HTTP/1.1", "Keep-Alive: timeout=5", "Connection: keep-alive"),
    plain("proxy-connection", "GET /ok HTTP/1.1", "Proxy-Connection: keep-alive"),
    plain("te trailers", "GET /ok HTTP/1.1", "TE: trailers", "Connection: te"),
    plain("te gzip", "GET /ok HTTP/1.1", "TE: gzip", "Connection: te"),
    plain("upgrade that the app ignores", "GET /ok HTTP/1.1", "Connection: upgrade", "Upgrade: other"),
    plain("empty lines first", "\r\n\r\nGET /ok HTTP/1.1"),
    plain("lower-case method", "get /ok HTTP/1.1"),
    plain("dot segments", "GET /a/../ok HTTP/1.1"),
    plain("two slashes", "GET //ok HTTP/1.1"),
    plain("encoded slash", "GET /a%2Fok HTTP/1.1"),
    plain("fragment", "GET /ok#part HTTP/1.1"),
    plain("quotes in the target", 'GET /ok?"<>{}|\\^` HTTP/1.1'),
    plain("underscore in a name", "GET /ok HTTP/1.1", "x_a: 1"),
    plain("bytes above 127 in a value", "GET /ok HTTP/1.1", "x-a: caf\xe9"),
    plain("bytes above 127 in the target", "GET /caf\xe9 HTTP/1.1"),
    chunked("chunk extension", b"5;name=value\r\nhello\r\n0\r\n\r\n"),
    chunked("chunk size with zeros", b"0005\r\nhello\r\n0\r\n\r\n"),
    chunked("chunk size in capitals", b"A\r\n0123456789\r\n0\r\n\r\n"),
    chunked("trailers", b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", "Trailer: x-sum"),
    plain("http/1.0 without a host", "GET /ok HTTP/1.0", host=None),
    plain("unknown expectation", "GET /ok HTTP/1.1", "Expect: miracles"),
    # To be refused: lengths and codings
    plain("two lengths alike", "POST /ok HTTP/1.1", "Content-Length: 5", "Content-Length: 5", body=b"hello"),
    plain("two lengths that differ", "POST /ok HTTP/1.1", "Content-Length: 5", "Content-Length: 6", body=b"hello!"),
    plain("list of lengths", "POST /ok HTTP/1.1", "Content-Length: 5, 5", body=b"hello"),
    plain("length with a sign", "POST /ok HTTP/1.1", "Content-Length: +5", body=b"hello"),
    plain("negative length", "POST /ok HTTP/1.1", "Content-Length: -5", body=b"hello"),
    plain("length in hexadecimal", "POST /ok HTTP/1.1", "Content-Length: 0x5", body=b"hello"),
    plain("length beyond all", "POST /ok HTTP/1.1", "Content-Length: 99999999999999999999", body=b"hello"),
    chunked("length and chunked", b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", "Content-Length: 5"),
    chunked("chunked twice", b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    plain("chunked, chunked", "POST /ok HTTP/1.1", "Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    plain("gzip, chunked", "POST /ok HTTP/1.1", "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    plain("identity", "POST /ok HTTP/1.1", "Transfer-Encoding: identity", body=b"hello"),
    plain("xchunked", "POST /ok HTTP/1.1", "Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    plain("chunked in http/1.0", "POST /ok HTTP/1.0", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    plain("blank before the colon of chunked", "POST /ok HTTP/1.1", "Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    chunked("chunk size 0x5", b"0x5\r\nhello\r\n0\r\n\r\n"),
    chunked("negative chunk size", b"-5\r\nhello\r\n0\r\n\r\n"),
    chunked("chunk size of 17 digits", b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    chunked("chunk longer than said", b"3\r\nhello\r\n0\r\n\r\n"),
    chunked("chunk size ends in LF", b"5\nhello\r\n0\r\n\r\n"),
    # To be refused: lines
    plain("folded value", "GET /ok HTTP/1.1", "x-a: 1\r\n 2"),
    plain("blank before a colon", "GET /ok HTTP/1.1", "x-a : 1"),
    plain("field without a colon", "GET /ok HTTP/1.1", "x-a"),
    plain("field without a name", "GET /ok HTTP/1.1", ": 1"),
    plain("blank in a name", "GET /ok HTTP/1.1", "x a: 1"),
    plain("NUL in a value", "GET /ok HTTP/1.1", "x-a: a\x00b"),
    plain("CR in a value", "GET /ok HTTP/1.1", "x-a: a\rb"),
    Case("lines that end in LF", plain("lines that end in LF").data.replace(b"\r\n", b"\n")),
    plain("control byte in the target", "GET /o\x01k HTTP/1.1"),
    plain("blank in the target", "GET /o k HTTP/1.1"),
    plain("two blanks in the request line", "GET  /ok HTTP/1.1"),
    plain("tab in the request line", "GET\t/ok\tHTTP/1.1"),
    plain("relative target", "GET ok HTTP/1.1"),
    plain("http/1.2", "GET /ok HTTP/1.2"),
    plain("http/2.0 in the line", "GET /ok HTTP/2.0"),
    plain("http/3.0 in the line", "GET /ok HTTP/3.0"),
    plain("lower-case protocol", "GET /ok http/1.1"),
    Case("no protocol", b"GET /ok\r\n\r\n"),
    # To be refused: hosts and sizes
    plain("no host", host=None),
    plain("two hosts", "GET /ok HTTP/1.1", "Host: other.bench.svc.cluster.local:80"),
    plain("blank in the host", host="a b"),
    plain("target of 100 KiB", f"GET /{'a' * 100_000} HTTP/1.1"),
    plain("head of 200 KiB", "GET /ok HTTP/1.1", *(f"x-{n}: {'v' * 2_000}" for n in range(100))),
]

PSEUDO = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/ok"), (b":authority", HOST.encode())]


@dataclass(frozen=True)
class Case2:
    """A request on an HTTP/2 connection of its own. `fields` as they go into HPACK, unchecked."""

    name: str
    fields: list[tuple[bytes, bytes]]
    body: bytes | None = None
    trailers: list[tuple[bytes, bytes]] | None = None


def call(name: str, *fields: tuple[bytes, bytes], body: bytes | None = None, **pseudo: bytes | None) -> Case2:
    """`pseudo` replaces a pseudo-header by its name without the colon, None leaves it out."""
    wanted = [(n, pseudo.get(n[1:].decode(), v)) for n, v in PSEUDO]
    present = [(n, v) for n, v in wanted if v is not None]
    return Case2(name, [*present, (b"x-case", name.encode()), *fields], body)


_grpc = call("grpc with trailers", (b"te", b"trailers"), (b"content-type", b"application/grpc"), method=b"POST")
HTTP2 = [
    call("h2 get"),
    call("h2 head", method=b"HEAD"),
    call("h2 post", body=b"hello", method=b"POST"),
    call("h2 post with a length", (b"content-length", b"5"), body=b"hello", method=b"POST"),
    call("h2 post of nothing", (b"content-length", b"0"), body=b"", method=b"POST"),
    Case2("h2 request trailers", call("h2 request trailers", method=b"POST").fields, b"hello", [(b"x-sum", b"1")]),
    Case2(_grpc.name, _grpc.fields, b"\0\0\0\0\5hello"),
    call("h2 cookies in crumbs", (b"cookie", b"a=1"), (b"cookie", b"b=2")),
    call("h2 value of 7 KiB", (b"x-long", b"v" * 7_000)),
    call("h2 sixty fields", *((f"x-{n}".encode(), b"v") for n in range(60))),
    call("h2 answer 204", path=b"/status/204"),
    call("h2 answer 500", path=b"/status/500"),
    call("h2 answer with trailers", (b"te", b"trailers"), path=b"/trailers"),
    call("h2 name in capitals", (b"X-Upper", b"1")),
    call("h2 connection field", (b"connection", b"keep-alive")),
    call("h2 transfer-encoding", (b"transfer-encoding", b"chunked"), body=b"hello", method=b"POST"),
    call("h2 te gzip", (b"te", b"gzip")),
    call("h2 no method", method=None),
    call("h2 no path", path=None),
    call("h2 empty path", path=b""),
    call("h2 no scheme", scheme=None),
    call("h2 unknown pseudo-header", (b":other", b"1")),
    Case2("h2 pseudo-header after a field", [*PSEUDO[:3], (b"x-case", b"h2 pseudo-header after a field"), PSEUDO[3]]),
    call("h2 two methods", (b":method", b"GET")),
    call("h2 length that lies", (b"content-length", b"3"), body=b"hello", method=b"POST"),
    call("h2 CR LF in a value", (b"x-a", b"1\r\nx-b: 2")),
    call("h2 NUL in a value", (b"x-a", b"1\x002")),
    call("h2 blank in a name", (b"x a", b"1")),
    call("h2 another host", (b"host", b"other.bench.svc.cluster.local:80")),
]
