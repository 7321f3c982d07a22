"""Every answer that the proxy makes itself, in one table.

A cause has one HTTP status, one gRPC code, one metric label, one `l5d-proxy-error` text, and says whether the client's
connection can go on. Statuses and labels are linkerd2-proxy's (`app/core/src/errors/respond.rs`,
`http/server.rs`, `endpoint.rs`); what is ours has no counterpart there because hyper answers those shapes by itself.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mesh.behavior.outcome import STATUS_OF, Cause


class Refused(enum.Enum):
    """Why the proxy itself will not carry a request, beyond the `Cause`s that it shares with the twin."""

    BAD_REQUEST = "bad request"
    HEAD_TOO_LARGE = "request head too large"
    UNSUPPORTED = "method not supported"
    FORBIDDEN = "unauthorized"
    NO_APP = "no app"
    RESPONSE_INVALID = "invalid response"


AnyCause = Cause | Refused


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client sees of a cause."""

    status: int
    grpc_code: int
    label: str
    """Value of `error` in `*_http_errors_total`."""
    text: str
    """Value of the `l5d-proxy-error` header."""
    close: bool
    """Whether the client's connection ends with this answer: its framing cannot be trusted any more."""


GRPC_INTERNAL, GRPC_UNAVAILABLE, GRPC_DEADLINE_EXCEEDED = 13, 14, 4
GRPC_PERMISSION_DENIED, GRPC_INVALID_ARGUMENT, GRPC_UNIMPLEMENTED = 7, 3, 12


def _shared(cause: Cause, grpc_code: int, label: str, text: str) -> Answer:
    return Answer(STATUS_OF[cause], grpc_code, label, text, close=False)


ANSWERS: dict[AnyCause, Answer] = {
    Cause.CONNECT: _shared(Cause.CONNECT, GRPC_UNAVAILABLE, "i/o", "connection failed"),
    Cause.CONNECT_TIMEOUT: _shared(Cause.CONNECT_TIMEOUT, GRPC_UNAVAILABLE, "connect timeout", "connect timed out"),
    Cause.FAILFAST: _shared(Cause.FAILFAST, GRPC_UNAVAILABLE, "failfast", "service in fail-fast"),
    Cause.LOADSHED: _shared(Cause.LOADSHED, GRPC_UNAVAILABLE, "loadshed", "service unavailable"),
    Cause.RESPONSE_TIMEOUT: _shared(
        Cause.RESPONSE_TIMEOUT, GRPC_DEADLINE_EXCEEDED, "response timeout", "response timed out"
    ),
    Cause.REQUEST_TIMEOUT: _shared(
        Cause.REQUEST_TIMEOUT, GRPC_DEADLINE_EXCEEDED, "request timeout", "request timed out"
    ),
    Cause.DISCOVERY_TIMEOUT: _shared(
        Cause.DISCOVERY_TIMEOUT, GRPC_UNAVAILABLE, "discovery timeout", "discovery timed out"
    ),
    Cause.UNKNOWN_DESTINATION: _shared(
        Cause.UNKNOWN_DESTINATION, GRPC_UNAVAILABLE, "unknown destination", "unknown destination"
    ),
    Refused.BAD_REQUEST: Answer(400, GRPC_INVALID_ARGUMENT, "bad request", "malformed request", close=True),
    Refused.HEAD_TOO_LARGE: Answer(431, GRPC_INVALID_ARGUMENT, "bad request", "request head too large", close=True),
    Refused.UNSUPPORTED: Answer(501, GRPC_UNIMPLEMENTED, "unsupported", "method not supported", close=True),
    Refused.FORBIDDEN: Answer(403, GRPC_PERMISSION_DENIED, "unauthorized", "unauthorized connection", close=False),
    Refused.NO_APP: Answer(502, GRPC_UNAVAILABLE, "i/o", "no application behind this proxy", close=False),
    Refused.RESPONSE_INVALID: Answer(502, GRPC_INTERNAL, "unexpected", "invalid response from the server", close=False),
}

REASONS: dict[int, bytes] = {
    400: b"Bad Request",
    403: b"Forbidden",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


def answer_bytes(answer: Answer, *, informational: bool, close: bool) -> bytes:
    """The HTTP/1.1 response for `answer`. `informational`: the client may see the proxy's own headers."""
    error = b"l5d-proxy-error: %b\r\n" % answer.text.encode() if informational else b""
    connection = b"connection: close\r\n" if close or answer.close else b""
    return b"HTTP/1.1 %d %b\r\n%b%bcontent-length: 0\r\n\r\n" % (
        answer.status,
        REASONS[answer.status],
        error,
        connection,
    )
