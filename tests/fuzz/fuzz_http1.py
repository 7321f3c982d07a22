"""HTTP/1 readers on generated and damaged messages, judged against h11 and llhttp.

    python tests/fuzz/fuzz_http1.py --inputs 100000 --seed 7

A grammar writes one to three messages, then smuggling mutations and noise are applied. Every input is fed whole,
byte by byte and in random pieces; the three must agree to the byte and to the cause. Then the oracles read it:

- A message that we take must be taken by h11 with the same start line, headers, body and trailers; and by llhttp with
  the same method, target and body. Anything else is a disagreement, unless `EXPLAINED` names it.
- A message that we refuse and h11 takes is no fault, but counted by cause: it is the price of being strict.

An exception other than MessageError is a crash. Disagreements are printed so that they can be pasted into a test.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlsplit

import h11
import httptools

from mesh.proxy.wire.http1 import RequestReader, ResponseReader
from mesh.proxy.wire.http1_fields import MessageError
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

EXPLAINED = {
    "h11: empty lines before a request": "RFC 9112 section 2.2 asks servers to forgive them; h11 does not",
    "h11: ends at HTTP/1.0": "h11 keeps no HTTP/1.0 connection, we do where the client asks for it",
    "h11: ends at an Upgrade": "it waits at every Upgrade header, we at one that Connection names and that is not h2c",
    "h11: lines end with LF": "it takes bare line feeds for line ends; we wait for a real one, or refuse",
    "framing fields in trailers": "both oracles refuse the message, we drop the fields (RFC 9110 section 6.5.1)",
    "llhttp: unknown method": "it knows a list, RFC 9110 allows any token",
    "llhttp: stops at a close or a tunnel": "as h11",
    "llhttp: characters in chunk extensions": "it takes tokens and quoted strings; nothing depends on what is in them",
    "llhttp: authority of CONNECT": "it judges the target by its own grammar",
}
NOT_PASSED_ON = {
    *(b"connection", b"content-length", b"transfer-encoding", b"host", b"te", b"upgrade", b"keep-alive"),
    *(b"expect", b"http2-settings", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate"),
}
IN_RESPONSES = frozenset(NOT_PASSED_ON) - {b"host", b"expect"}
LINE = b"\r\n"
SHOWN = 50
ABOUT_FRAMING = ("transfer-encoding", "content-length")


@dataclass
class Message:
    """What a reader, ours or another, makes of one message."""

    start: tuple[object, ...]
    headers: Headers
    body: bytes = b""
    trailers: Headers | None = None
    ended: bool = False


@dataclass
class Reading:
    """What it makes of an input."""

    messages: list[Message] = field(default_factory=list)
    refused: str = ""
    stopped: str = ""
    """Why it reads no further, though it does not object."""
    surplus: bool = False


@dataclass
class Findings:
    """What a run found."""

    inputs: int = 0
    messages: int = 0
    stricter: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


# ---- ours


class _Requests:
    def __init__(self) -> None:
        self.reading = Reading()

    def request_head(self, head: RequestHead) -> None:
        target = head.authority if head.method == "CONNECT" else head.path
        start = head.method, target, head.authority
        self.reading.messages.append(Message(start, head.headers))

    def request_body(self, data: bytes) -> None:
        self.reading.messages[-1].body += data

    def request_end(self, trailers: Headers | None) -> None:
        self.reading.messages[-1].trailers = trailers
        self.reading.messages[-1].ended = True


class _Responses:
    def __init__(self) -> None:
        self.reading = Reading()
        self.heads: list[ResponseHead] = []

    def response_interim(self, head: ResponseHead) -> None:
        self.reading.messages.append(Message((head.status,), head.headers, ended=True))

    def response_head(self, head: ResponseHead) -> None:
        self.heads.append(head)
        self.reading.messages.append(Message((head.status,), head.headers))

    def response_body(self, data: bytes) -> None:
        self.reading.messages[-1].body += data

    def response_end(self, trailers: Headers | None) -> None:
        self.reading.messages[-1].trailers = trailers
        self.reading.messages[-1].ended = True


def read_requests(pieces: list[bytes]) -> Reading:
    sink = _Requests()
    reader = RequestReader(sink)
    try:
        for piece in pieces:
            reader.feed(piece)
    except MessageError as error:
        sink.reading.refused = error.cause.value
    return sink.reading


def read_response(pieces: list[bytes], asked: RequestHead, closed: bool) -> Reading:
    sink = _Responses()
    reader = ResponseReader(sink)
    reader.expect(asked)
    try:
        for piece in pieces:
            reader.feed(piece)
        if closed:
            reader.end_of_stream()
    except MessageError as error:
        sink.reading.refused = str(error)
    return sink.reading


# ---- h11


def _kept(headers: Headers, means: frozenset[bytes] = frozenset(NOT_PASSED_ON)) -> Headers:
    """What a proxy passes on of them."""
    named = {
        token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
    } - {b"te"}
    return [entry for entry in headers if entry[0] not in means and entry[0] not in named]


def _plain(headers: object) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in headers]  # type: ignore[attr-defined]


def _authority_and_path(target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """By another way than ours: the standard library's idea of a URL."""
    text = target.decode("latin-1")
    if text.lower().startswith("http://"):
        parts = urlsplit(text)
        path = parts.path or "/"
        return parts.netloc.encode("latin-1"), (path + ("?" + text.split("?", 1)[1] if "?" in text else "")).encode(
            "latin-1"
        )
    return host, target


def h11_requests(data: bytes) -> Reading:
    """Reads as a server that answers each request at once."""
    reading = Reading()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    if not data:
        return reading  # which h11 would take for the end of the stream
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                break
            if event is h11.PAUSED:
                reading.stopped = "pause"
                break
            if isinstance(event, h11.Request):
                headers = _plain(event.headers)
                host = next((value for name, value in headers if name == b"host"), b"")
                method, target = event.method.decode(), bytes(event.target)
                authority, path = (target, target) if method == "CONNECT" else _authority_and_path(target, host)
                if method == "OPTIONS" and path == b"/" and target.lower().startswith(b"http://"):
                    path = b"*" if target.count(b"/") == 2 and b"?" not in target else path
                reading.messages.append(Message((method, path, authority), _kept(headers)))
                old = event.http_version != b"1.1"
                options = b",".join(value for name, value in headers if name == b"connection").lower()
                offers = [value.strip().lower() for name, value in headers if name == b"upgrade"]
                offered = {offer.strip() for value in offers for offer in value.split(b",")} - {b"h2c", b""}
                named = b"upgrade" in {option.strip() for option in options.split(b",")}
                tunnel = method == "CONNECT" or bool(offered and named and not old)
            elif isinstance(event, h11.Data):
                reading.messages[-1].body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reading.messages[-1].trailers = _plain(event.headers)
                reading.messages[-1].ended = True
                if tunnel or connection.their_state is not h11.DONE:
                    reading.stopped = (
                        "a tunnel" if tunnel else "an Upgrade" if offers else "HTTP/1.0" if old else "a close"
                    )
                    break
                if connection.our_state is h11.SEND_RESPONSE:
                    connection.send(h11.Response(status_code=204, headers=[]))
                    connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        reading.refused = str(error) or "h11 refuses"
    return reading


def h11_response(data: bytes, asked: RequestHead, closed: bool) -> Reading:
    reading = Reading()
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    upgrade = [("connection", "upgrade"), ("upgrade", "websocket")] if asked.upgrade else []
    connection.send(h11.Request(method=asked.method, target="a:1", headers=[("host", "a"), *upgrade]))
    connection.send(h11.EndOfMessage())
    try:
        if data:
            connection.receive_data(data)
        if closed:
            connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                break
            if event is h11.PAUSED:
                if reading.messages and connection.their_state is h11.SWITCHED_PROTOCOL:
                    reading.messages[-1].body = connection.trailing_data[0]
                    reading.messages[-1].ended = closed
                break
            if isinstance(event, h11.InformationalResponse):
                if event.status_code != 100:
                    ended = event.status_code != 101
                    reading.messages.append(
                        Message((event.status_code,), _kept(_plain(event.headers), IN_RESPONSES), ended=ended)
                    )
            elif isinstance(event, h11.Response):
                reading.messages.append(Message((event.status_code,), _kept(_plain(event.headers), IN_RESPONSES)))
            elif isinstance(event, h11.Data):
                reading.messages[-1].body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reading.messages[-1].trailers = _plain(event.headers)
                reading.messages[-1].ended = True
                break
    except h11.RemoteProtocolError as error:
        # The close may come too early for a response to be complete, which we say by not ending it.
        reading.refused = "" if "clos" in str(error).lower() else str(error) or "h11 refuses"
    return reading


# ---- llhttp


class _Llhttp:
    def __init__(self) -> None:
        self.reading = Reading()
        self.parser = httptools.HttpRequestParser(self)
        self._url = b""

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        self.reading.messages.append(Message((self.parser.get_method().decode(), self._url), []))

    def on_body(self, data: bytes) -> None:
        self.reading.messages[-1].body += data

    def on_message_complete(self) -> None:
        self.reading.messages[-1].ended = True


def llhttp_requests(data: bytes) -> Reading:
    oracle = _Llhttp()
    try:
        oracle.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        oracle.reading.stopped = "a tunnel"
    except httptools.HttpParserError as error:
        oracle.reading.refused = str(error)
    return oracle.reading


# ---- judging


def _ways(data: bytes, rng: random.Random) -> list[list[bytes]]:
    cuts = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 8)))})
    return [
        [data] if data else [],
        [data[at : at + 1] for at in range(len(data))],
        [data[start:end] for start, end in pairwise(cuts)],
    ]


def _agree(
    data: bytes, read: Callable[[list[bytes]], Reading], rng: random.Random, findings: Findings
) -> Reading | None:
    findings.inputs += 1
    try:
        readings = [read(pieces) for pieces in _ways(data, rng)]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a crash, and the run goes on
        findings.faults.append(f"crash {error!r}: {data!r}")
        return None
    if readings[0] != readings[1] or readings[0] != readings[2]:
        findings.faults.append(f"cut matters: {data!r}\n  {readings}")
        return None
    findings.messages += len(readings[0].messages)
    if readings[0].refused:
        findings.refused[readings[0].refused] += 1
    return readings[0]


def _passable(trailers: Headers | None, ours: Headers | None) -> bool:
    """Whether ours are among theirs, in their order; what is dropped is dropped on purpose."""
    theirs = iter(trailers or [])
    return all(entry in theirs for entry in ours or [])


def _same(ours: Message, theirs: Message) -> str:
    """In what they differ; what we have not ended may still be the beginning of theirs, or the other way round."""
    if ours.start != theirs.start:
        return "start line"
    if ours.headers != theirs.headers:
        return "headers"
    if ours.ended and not (theirs.ended and ours.body == theirs.body):
        return "body"
    if not ours.body.startswith(theirs.body) and not theirs.body.startswith(ours.body):
        return "body"
    if ours.ended and not _passable(theirs.trailers, ours.trailers):
        return "trailers"
    return ""


def _judge(data: bytes, ours: Reading, theirs: Reading, findings: Findings) -> None:
    """Whether h11 takes what we take."""
    for index, message in enumerate(ours.messages):
        if index >= len(theirs.messages):
            reason = f"h11: ends at {theirs.stopped}" if theirs.stopped else ""
            if theirs.refused == "no request line received":
                reason = "h11: empty lines before a request"
            if reason in EXPLAINED:
                findings.explained[reason] += 1
            else:
                findings.faults.append(
                    f"h11 takes no message {index} ({theirs.refused or theirs.stopped}): {data!r}\n  {ours}\n  {theirs}"
                )
            return
        difference = _same(message, theirs.messages[index])
        if difference == "body" and _in_trailers(theirs) and message.body == theirs.messages[index].body:
            findings.explained["framing fields in trailers"] += 1
            return
        if difference:
            findings.faults.append(f"{difference} of message {index}: {data!r}\n  {ours}\n  {theirs}")
            return
    if ours.refused:
        if not theirs.refused:
            findings.stricter[ours.refused] += 1
    elif len(theirs.messages) > len(ours.messages):
        if data.count(b"\n") != data.count(LINE):
            findings.explained["h11: lines end with LF"] += 1
        else:
            findings.faults.append(f"h11 takes more messages: {data!r}\n  {ours}\n  {theirs}")


def _in_trailers(theirs: Reading) -> bool:
    """Whether an oracle refuses fields about framing in trailers: those of the head have passed."""
    text = theirs.refused.lower()
    return any(name in text for name in ABOUT_FRAMING) and bool(theirs.messages) and not theirs.messages[-1].ended


def _judge_by_llhttp(data: bytes, ours: Reading, findings: Findings) -> None:
    theirs = llhttp_requests(data)
    for index, message in enumerate(ours.messages):
        if index >= len(theirs.messages):
            reason = _llhttp_reason(theirs)
            if reason:
                findings.explained[reason] += 1
            else:
                findings.faults.append(f"llhttp takes no message {index} ({theirs.refused}): {data!r}\n  {ours}")
            return
        other = theirs.messages[index]
        method, target = other.start
        path = message.start[1]
        assert isinstance(target, bytes)
        assert isinstance(path, bytes)
        same_target = target.endswith(path) or target.lower().startswith(b"http://")
        if message.start[0] != method or not same_target:
            findings.faults.append(f"llhttp: start line of {index}: {data!r}\n  {ours}\n  {theirs}")
            return
        both = message.ended and other.ended
        if both and message.body != other.body and theirs.stopped != "a tunnel":
            findings.faults.append(f"llhttp: body of {index}: {data!r}\n  {ours}\n  {theirs}")
            return


def _llhttp_reason(theirs: Reading) -> str:
    if theirs.stopped:
        return "llhttp: stops at a close or a tunnel"
    if _in_trailers(theirs):
        return "framing fields in trailers"
    text = theirs.refused.lower()
    if "method" in text:
        return "llhttp: unknown method"
    if "after `connection: close`" in text:
        return "llhttp: stops at a close or a tunnel"
    if "extension" in text:
        return "llhttp: characters in chunk extensions"
    if "connect" in text or "url" in text:
        return "llhttp: authority of CONNECT"
    return ""


# ---- generating

METHODS = [b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"PROPFIND", b"FOO", b"CONNECT", b"PRI"]
TARGETS = [b"/", b"/a/b?c=d", b"http://h:80/x", b"http://h", b"http://h?q", b"*", b"h:443", b"/%20", b"//x", b"/a@b:1"]
HOSTS = [b"a", b"a.b:80", b"[::1]:8080", b"A-b_c.~d", b"10.0.0.1", b""]
OTHER = [
    *(b"X-A: 1", b"x-a: 2", b"Accept: */*", b"Cookie: a=b; c", b"X-Empty:", b"X-Tab:\ta\tb\t", b"User-Agent: f (g)"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: x-a, te", b"Connection: Upgrade", b"TE: trailers"),
    *(b"Upgrade: websocket", b"Upgrade: h2c", b"Expect: 100-continue", b"Trailer: x-sum", b"traceparent: 00-1-2-03"),
    *(b"Keep-Alive: 5", b"X-Obs: \xe4\xf6", b"Proxy-Connection: close", b"X-Long: " + b"y" * 150),
]
TRAILERS = [b"X-Sum: 1", b"Grpc-Status: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Host: b", b"X-T:"]
BODIES = [b"", b"a", b"hello", b"0\r\n\r\n", b"GET /evil HTTP/1.1\r\nHost: e\r\n\r\n", b"\x00\xff" * 20]
DUBIOUS = [
    *(
        b"Content-Length: 3",
        b"Content-Length: 0",
        b"Content-Length: +1",
        b"Content-Length: 1, 1",
        b"Content-Length: 0x1",
    ),
    *(
        b"Content-Length : 1",
        b"Content-Length\t: 1",
        b"Content-Length:\x0b1",
        b"Content-Length: 1 ",
        b"content-length:1",
    ),
    *(b"Content-Length: 00000000000000000000001", b"Content-Length: 99999999999999999999", b"Content-Length: 1\x00"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked ", b"Transfer-Encoding: xchunked", b" folded: x"),
    *(b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: chunked\x0b", b"Transfer-Encoding:\x0bchunked"),
    *(b"Transfer-Encoding : chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked", b"\tx: y"),
    *(b"Transfer_Encoding: chunked", b"Transfer-Encoding:\r\n chunked", b"X: y\rTransfer-Encoding: chunked", b"x y: z"),
    *(b"X: y\nTransfer-Encoding: chunked", b"Transfer-Encoding: 'chunked'", b"Host: b", b"Host: a, b", b"Host: a b"),
    *(
        b"X: \x00",
        b": novalue",
        b"nocolon",
        b"",
        b"X\x00: y",
        b"X:\x7f",
        b"Connection: content-length, host",
        b"X: \x01",
    ),
]
CHUNK_SIZES = [
    *(b"%x", b"%X", b"0%x", b"000%x", b"%x;a", b"%x;a=b;c", b'%x;a="b"', b"%x;", b"%x;a\x0bb", b"0x%x", b"+%x", b"-%x"),
    *(b" %x", b"%x ", b"%x\t", b"%x ;a", b"%x;a\nb", b"%x\n", b"1%x", b"%xg", b"0000000000000000000%x", b"%x;\xff"),
]
STATUSES = [
    b"200 OK",
    b"204 No",
    b"304 Not",
    b"404",
    b"500 ",
    b"100 Continue",
    b"103 Hints",
    b"101 Switch",
    b"206 a\tb",
]
VERSIONS = [b"HTTP/1.1"] * 12 + [b"HTTP/1.0"] * 3 + [b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/0.9", b"HTTP/1.1 "]


def _chunked(body: bytes, rng: random.Random, dubious: bool) -> bytes:
    out = b""
    while body:
        size = rng.randrange(1, len(body) + 1)
        part, body = body[:size], body[size:]
        shape = rng.choice(CHUNK_SIZES if dubious and rng.random() < 0.3 else CHUNK_SIZES[:7])
        out += shape % size + LINE + part + LINE
    trailers = [rng.choice(TRAILERS) for _ in range(rng.choice([0, 0, 0, 1, 2]))]
    if dubious and rng.random() < 0.2:
        trailers.append(rng.choice(DUBIOUS))
    return out + rng.choice([b"0", b"0", b"00", b"0;x"]) + LINE + b"".join(line + LINE for line in trailers) + LINE


def _message(start: bytes, lines: list[bytes], rng: random.Random, dubious: bool) -> bytes:
    lines += [rng.choice(OTHER) for _ in range(rng.randrange(5))]
    framing = rng.randrange(4)
    body = rng.choice(BODIES)
    if framing == 1:
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == 2:
        lines.append(b"Transfer-Encoding: chunked")
        body = _chunked(body, rng, dubious)
    elif framing == 0:
        body = b""
    if dubious:
        for _ in range(rng.randrange(3)):
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(DUBIOUS))
    rng.shuffle(lines)
    return start + LINE + b"".join(line + LINE for line in lines) + LINE + body


def requests(rng: random.Random) -> bytes:
    """One to three requests on a connection."""
    dubious = rng.random() < 0.4
    data = b""
    for _ in range(rng.choice([1, 1, 2, 3])):
        version = rng.choice(VERSIONS) if rng.random() < 0.15 else b"HTTP/1.1"
        method, target = (rng.choice(METHODS), rng.choice(TARGETS)) if rng.random() < 0.3 else (b"POST", b"/")
        lines = [] if rng.random() < 0.05 else [b"Host: " + rng.choice(HOSTS)]
        space = b" " if rng.random() < 0.98 else rng.choice([b"  ", b"\t", b"\x0b", b""])
        data += (LINE if rng.random() < 0.02 else b"") + _message(
            method + b" " + target + space + version, lines, rng, dubious
        )
    return damaged(data, rng) if rng.random() < 0.3 else data


def response(rng: random.Random) -> bytes:
    """A response, perhaps with interim ones before it and something after it."""
    dubious = rng.random() < 0.4
    data = b""
    for _ in range(rng.choice([1, 1, 1, 2])):
        version = rng.choice(VERSIONS[:-1]) if rng.random() < 0.15 else b"HTTP/1.1"
        data += _message(version + b" " + rng.choice(STATUSES), [], rng, dubious)
    return damaged(data, rng) if rng.random() < 0.3 else data


def damaged(data: bytes, rng: random.Random) -> bytes:
    """With bytes changed, taken out, put in or cut off."""
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + rng.randrange(1, 4) :]
        elif kind == 2:
            data = (
                data[:at] + rng.choice([b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b"0", b"\r\n "]) + data[at:]
            )
        elif kind == 3:
            data = data[:at]
        else:
            end = min(len(data), at + rng.randrange(1, 30))
            data = data[:end] + data[at:]
    return data


# ---- running


def _fuzz_requests(rng: random.Random, findings: Findings) -> None:
    data = requests(rng)
    ours = _agree(data, read_requests, rng, findings)
    if ours is None:
        return
    _judge(data, ours, h11_requests(data), findings)
    _judge_by_llhttp(data, ours, findings)


def _fuzz_response(rng: random.Random, findings: Findings) -> None:
    data = response(rng)
    asked = RequestHead()
    asked.method = rng.choice(["GET", "GET", "HEAD", "POST", "CONNECT"])
    asked.upgrade = rng.choice([b"", b"websocket"]) if asked.method == "GET" else b""
    closed = rng.random() < 0.5
    ours = _agree(data, lambda pieces: read_response(pieces, asked, closed), rng, findings)
    if ours is not None:
        _judge(data, ours, h11_response(data, asked, closed), findings)


def run(inputs: int, seed: int) -> Findings:
    """Runs `inputs` inputs; the same seed finds the same."""
    findings = Findings()
    rng = random.Random(seed)
    for number in range(inputs):
        if number % 3:
            _fuzz_requests(rng, findings)
        else:
            _fuzz_response(rng, findings)
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.monotonic()
    findings = run(arguments.inputs, arguments.seed)
    print(
        f"http1: {findings.inputs} inputs, {findings.messages} messages taken, {findings.refused.total()} refused, "
        f"{len(findings.faults)} faults, {time.monotonic() - started:.0f} s"
    )
    for title, counts in (("we refuse, h11 takes", findings.stricter), ("explained", findings.explained)):
        for reason, count in counts.most_common():
            print(f"  {title}: {reason}: {count}")
    for fault in findings.faults[:SHOWN]:
        print(f"FAULT {fault}")
    return 1 if findings.faults else 0


if __name__ == "__main__":
    sys.exit(main())
