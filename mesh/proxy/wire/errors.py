"""Every answer that the proxy makes itself, in one table.

A cause has one HTTP status, one gRPC code, one metric label, one `l5d-proxy-error` text, and says whether the client's
connection can go on. Statuses, codes and labels are linkerd2-proxy's (`app/core/src/errors/respond.rs`, each side's
`http/server.rs` and `metrics/error/`), with two differences that mesh.md explains: a failed connection and a fail-fast
are told apart from what is merely unexpected, and a busy client keeps its connection where nothing is wrong with it.

What a client sent that is no HTTP has no counterpart in Linkerd, where hyper answers by itself. All of it is `bad
request` in `*_http_errors_total`; which of the shapes it was stands in `*_http_refused_total{cause}`, for the status is
the same and someone will ask.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from mesh.behavior.outcome import STATUS_OF, Cause
from mesh.proxy.wire.message import ResponseHead


class Refused(enum.Enum):
    """Why the proxy itself will not carry a request, beyond the `Cause`s that it shares with the twin."""

    # What a client sent. The values are the labels of `*_http_refused_total`.
    BAD_REQUEST = "other"
    METHOD = "method"
    TARGET = "target"
    VERSION = "version"
    REQUEST_LINE = "request line"
    HEADER_NAME = "header name"
    HEADER_VALUE = "header value"
    SPACE_BEFORE_COLON = "space before colon"
    OBS_FOLD = "obs-fold"
    BARE_LINE_BREAK = "bare line break"
    LENGTH = "content length"
    LENGTH_REPEATED = "repeated length"
    LENGTH_CONFLICT = "conflicting lengths"
    LENGTH_AND_CHUNKED = "length and chunked"
    CODING = "transfer coding"
    CODING_REPEATED = "repeated transfer coding"
    CODING_HTTP_1_0 = "transfer coding in http/1.0"
    CHUNK_SIZE = "chunk size"
    CHUNK_EXTENSION = "chunk extension"
    CHUNK_END = "chunk end"
    HOST_MISSING = "no host"
    HOST_REPEATED = "repeated host"
    HOST_INVALID = "invalid host"
    TUNNEL_BODY = "connect with a body"
    TUNNEL_OVERRUN = "tunnel not awaited"
    EXPECTATION = "expectation"
    URI_TOO_LONG = "uri too long"
    HEAD_TOO_LARGE = "head too large"
    TOO_MANY_HEADERS = "too many headers"
    HEAD_TIMEOUT = "head timeout"
    BODY_TIMEOUT = "body timeout"
    UNSUPPORTED = "unsupported"
    UPGRADE_UNSUPPORTED = "upgrade unsupported"

    # What policy says.
    FORBIDDEN = "unauthorized"
    UNAUTHENTICATED = "unauthenticated"
    RATE_LIMITED = "rate limited"
    NO_ROUTE = "no route"
    IDENTITY_REQUIRED = "identity required"
    LOOP = "gateway loop"
    GATEWAY_DOMAIN_INVALID = "gateway domain invalid"
    GATEWAY_IDENTITY_REQUIRED = "gateway identity required"

    # What went wrong behind us, or in us.
    NO_APP = "no app"
    RESPONSE_INVALID = "invalid response"
    IDLE_TIMEOUT = "idle timeout"
    TLS_DETECT_TIMEOUT = "tls detection timeout"
    UNEXPECTED = "unexpected"


AnyCause = Cause | Refused


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client sees of a cause."""

    status: int
    grpc_code: int
    label: str
    """Value of `error` in `*_http_errors_total`; empty where Linkerd counts the cause elsewhere (denials, limits)."""
    text: str
    """Value of the `l5d-proxy-error` header, and of `grpc-message`."""
    close: bool = False
    """Whether the client's connection ends with this answer: its framing cannot be trusted any more."""
    refused: str = ""
    """Value of `cause` in `*_http_refused_total`; empty where it is not the client's message that is at fault."""


class Grpc(enum.IntEnum):
    """The gRPC codes that a proxy has use for."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


def _shared(cause: Cause, grpc_code: Grpc, label: str, text: str) -> Answer:
    return Answer(STATUS_OF[cause], grpc_code, label, text)


def _malformed(cause: Refused, text: str, status: int = 400, grpc_code: Grpc = Grpc.INVALID_ARGUMENT) -> Answer:
    return Answer(status, grpc_code, "bad request", text, close=True, refused=cause.value)


_MALFORMED: dict[Refused, str] = {
    Refused.BAD_REQUEST: "malformed request",
    Refused.METHOD: "malformed request: method",
    Refused.TARGET: "malformed request: target",
    Refused.VERSION: "malformed request: version",
    Refused.REQUEST_LINE: "malformed request: request line",
    Refused.HEADER_NAME: "malformed request: header name",
    Refused.HEADER_VALUE: "malformed request: header value",
    Refused.SPACE_BEFORE_COLON: "malformed request: space before a colon",
    Refused.OBS_FOLD: "malformed request: folded header",
    Refused.BARE_LINE_BREAK: "malformed request: bare CR or LF",
    Refused.LENGTH: "malformed request: content-length",
    Refused.LENGTH_REPEATED: "malformed request: content-length twice",
    Refused.LENGTH_CONFLICT: "malformed request: conflicting content-lengths",
    Refused.LENGTH_AND_CHUNKED: "malformed request: content-length beside transfer-encoding",
    Refused.CODING: "malformed request: transfer-encoding",
    Refused.CODING_REPEATED: "malformed request: transfer-encoding twice",
    Refused.CODING_HTTP_1_0: "malformed request: transfer-encoding in HTTP/1.0",
    Refused.CHUNK_SIZE: "malformed request: chunk size",
    Refused.CHUNK_EXTENSION: "malformed request: chunk extension",
    Refused.CHUNK_END: "malformed request: end of chunk",
    Refused.HOST_MISSING: "malformed request: no host",
    Refused.HOST_REPEATED: "malformed request: host twice",
    Refused.HOST_INVALID: "malformed request: host",
    Refused.TUNNEL_BODY: "malformed request: CONNECT with a body",
    Refused.TUNNEL_OVERRUN: "malformed request: too much before the upgrade was answered",
}

_TOO_LARGE = "request head too large"

ANSWERS: dict[AnyCause, Answer] = {
    Cause.CONNECT: _shared(Cause.CONNECT, Grpc.UNAVAILABLE, "i/o", "connection failed"),
    Cause.CONNECT_TIMEOUT: _shared(Cause.CONNECT_TIMEOUT, Grpc.UNAVAILABLE, "connect timeout", "connect timed out"),
    Cause.FAILFAST: _shared(Cause.FAILFAST, Grpc.UNAVAILABLE, "failfast", "service in fail-fast"),
    Cause.LOADSHED: _shared(Cause.LOADSHED, Grpc.UNAVAILABLE, "loadshed", "service unavailable"),
    Cause.RESPONSE_TIMEOUT: _shared(
        Cause.RESPONSE_TIMEOUT, Grpc.DEADLINE_EXCEEDED, "response timeout", "response timed out"
    ),
    Cause.REQUEST_TIMEOUT: _shared(
        Cause.REQUEST_TIMEOUT, Grpc.DEADLINE_EXCEEDED, "request timeout", "request timed out"
    ),
    Cause.DISCOVERY_TIMEOUT: _shared(
        Cause.DISCOVERY_TIMEOUT, Grpc.UNAVAILABLE, "discovery timeout", "discovery timed out"
    ),
    Cause.UNKNOWN_DESTINATION: _shared(
        Cause.UNKNOWN_DESTINATION, Grpc.UNAVAILABLE, "unknown destination", "unknown destination"
    ),
    Cause.REFUSED: _shared(Cause.REFUSED, Grpc.UNAVAILABLE, "unexpected", "stream refused by the server"),
    Cause.NO_BACKEND: _shared(Cause.NO_BACKEND, Grpc.INTERNAL, "unexpected", "no usable backend"),
    Cause.EGRESS_DENIED: _shared(Cause.EGRESS_DENIED, Grpc.PERMISSION_DENIED, "", "traffic not allowed"),
    **{cause: _malformed(cause, text) for cause, text in _MALFORMED.items()},
    Refused.EXPECTATION: _malformed(Refused.EXPECTATION, "expectation other than 100-continue", 417),
    Refused.URI_TOO_LONG: _malformed(Refused.URI_TOO_LONG, "request target too long", 414),
    Refused.HEAD_TOO_LARGE: _malformed(Refused.HEAD_TOO_LARGE, _TOO_LARGE, 431),
    Refused.TOO_MANY_HEADERS: _malformed(Refused.TOO_MANY_HEADERS, "too many request headers", 431),
    Refused.HEAD_TIMEOUT: _malformed(Refused.HEAD_TIMEOUT, "request head timed out", 408, Grpc.DEADLINE_EXCEEDED),
    Refused.BODY_TIMEOUT: _malformed(Refused.BODY_TIMEOUT, "request body timed out", 408, Grpc.DEADLINE_EXCEEDED),
    Refused.UNSUPPORTED: _malformed(Refused.UNSUPPORTED, "method not supported", 501, Grpc.UNIMPLEMENTED),
    Refused.UPGRADE_UNSUPPORTED: _malformed(
        Refused.UPGRADE_UNSUPPORTED, "upgrade not supported", 501, Grpc.UNIMPLEMENTED
    ),
    Refused.FORBIDDEN: Answer(403, Grpc.PERMISSION_DENIED, "", "unauthorized request on route"),
    Refused.UNAUTHENTICATED: Answer(403, Grpc.UNAUTHENTICATED, "", "unauthenticated client"),
    Refused.RATE_LIMITED: Answer(429, Grpc.RESOURCE_EXHAUSTED, "", "rate limit exceeded"),
    Refused.NO_ROUTE: Answer(404, Grpc.NOT_FOUND, "", "no route found for request"),
    Refused.IDENTITY_REQUIRED: Answer(502, Grpc.UNAVAILABLE, "identity required", "required identity not met"),
    Refused.LOOP: Answer(508, Grpc.ABORTED, "gateway loop", "loop detected", close=True),
    Refused.GATEWAY_DOMAIN_INVALID: Answer(404, Grpc.NOT_FOUND, "gateway domain invalid", "invalid gateway domain"),
    Refused.GATEWAY_IDENTITY_REQUIRED: Answer(
        403, Grpc.UNAUTHENTICATED, "gateway identity required", "gateway requires an identity"
    ),
    Refused.NO_APP: Answer(502, Grpc.UNAVAILABLE, "i/o", "no application behind this proxy"),
    Refused.RESPONSE_INVALID: Answer(502, Grpc.INTERNAL, "unexpected", "invalid response from the server"),
    Refused.IDLE_TIMEOUT: Answer(504, Grpc.DEADLINE_EXCEEDED, "response timeout", "stream idle for too long"),
    Refused.TLS_DETECT_TIMEOUT: Answer(
        408, Grpc.DEADLINE_EXCEEDED, "tls detection timeout", "TLS detection timed out", close=True
    ),
    Refused.UNEXPECTED: Answer(500, Grpc.INTERNAL, "unexpected", "unexpected error", close=True),
}

REASONS: dict[int, bytes] = {status.value: status.phrase.encode() for status in HTTPStatus}


_GRPC_MESSAGE_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if code != ord("%"))
"""What gRPC leaves as it is in `grpc-message`."""


def answer_head(answer: Answer, *, informational: bool) -> ResponseHead:
    """The response for `answer`, without a body. `informational`: the client may see the proxy's own headers."""
    head = ResponseHead()
    head.status = answer.status
    head.reason = REASONS[answer.status]
    head.content_length = 0
    head.keep_alive = not answer.close
    if informational:
        head.headers.append((b"l5d-proxy-error", answer.text.encode()))
        if answer.close:
            # Tells an outbound proxy to close its client's connection, so that this may choose another replica.
            head.headers.append((b"l5d-proxy-connection", b"close"))
    return head


def grpc_answer_head(answer: Answer, *, informational: bool) -> ResponseHead:
    """The same for a gRPC call: trailers only, that is a head that says all and ends the stream."""
    head = answer_head(answer, informational=informational)
    head.status = 200
    head.reason = b"OK"
    head.content_length = None
    head.bodyless = True
    own = [(b"content-type", b"application/grpc"), (b"grpc-status", b"%d" % answer.grpc_code)]
    if informational:
        own.append((b"grpc-message", quote(answer.text, safe=_GRPC_MESSAGE_SAFE).encode()))
    head.headers[:0] = own
    return head


def answer_bytes(answer: Answer, *, informational: bool, close: bool) -> bytes:
    """The HTTP/1.1 response for `answer`."""
    head = answer_head(answer, informational=informational)
    fields = b"".join(b"%b: %b\r\n" % entry for entry in head.headers)
    connection = b"connection: close\r\n" if close or answer.close else b""
    return b"HTTP/1.1 %d %b\r\n%b%bcontent-length: 0\r\n\r\n" % (answer.status, head.reason, fields, connection)
