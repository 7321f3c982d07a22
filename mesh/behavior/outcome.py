"""How one try of a request ended, in the few words that decisions need.

A try ends with an HTTP status from the peer, or with a cause why there is none. The causes are Linkerd's; what a client
sees of each (status, gRPC code, `l5d-proxy-error`, metric label) stands in one table in `mesh.proxy.wire.errors`.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime


class Cause(enum.Enum):
    """Why a try has no response of the app's."""

    CONNECT = "connect"
    """Refused or reset before a response: answered 502."""
    CONNECT_TIMEOUT = "connect timeout"
    """Answered 504."""
    FAILFAST = "failfast"
    """Waited in the queue until the fail-fast gate shut: answered 504."""
    LOADSHED = "loadshed"
    """Arrived with the gate shut, or with the queue or the in-flight cap full: answered 503, never retried."""
    RESPONSE_TIMEOUT = "response timeout"
    """No response headers within the try's or the response's limit: answered 504."""
    REQUEST_TIMEOUT = "request timeout"
    """The whole exchange, retries included, took too long: answered 504."""
    DISCOVERY_TIMEOUT = "discovery timeout"
    """Neither a live watch nor a cached snapshot told where to send it: answered 504."""
    UNKNOWN_DESTINATION = "unknown destination"
    """The registry knows no such service and there is no original address: answered 502."""
    REFUSED = "refused"
    """The peer refused the HTTP/2 stream (REFUSED_STREAM) and so never began the request: answered 502."""
    NO_BACKEND = "no backend"
    """The route has no backend that could be used, or none with a weight: answered 500, as the Gateway API says."""
    EGRESS_DENIED = "egress denied"
    """An EgressNetwork denies addresses outside the cluster: answered 403."""


STATUS_OF: dict[Cause, int] = {
    Cause.CONNECT: 502,
    Cause.CONNECT_TIMEOUT: 504,
    Cause.FAILFAST: 504,
    Cause.LOADSHED: 503,
    Cause.RESPONSE_TIMEOUT: 504,
    Cause.REQUEST_TIMEOUT: 504,
    Cause.DISCOVERY_TIMEOUT: 504,
    Cause.UNKNOWN_DESTINATION: 502,
    Cause.REFUSED: 502,
    Cause.NO_BACKEND: 500,
    Cause.EGRESS_DENIED: 403,
}
"""Status a client gets for each cause (linkerd2-proxy `http/server.rs`, `endpoint.rs`)."""


GRPC_FAILURES = frozenset({2, 4, 7, 13, 14, 15})
"""UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS (linkerd2-proxy
`client-policy/src/grpc.rs`; its documentation leaves UNKNOWN out)."""
GRPC_RESOURCE_EXHAUSTED = 8


def is_failure(status: int, grpc_status: int | None = None) -> bool:
    """Linkerd's default classification: 5xx fails and so do some gRPC codes; all else (429 included) succeeds."""
    return status >= 500 or grpc_status in GRPC_FAILURES


def is_rate_limited(status: int, grpc_status: int | None = None) -> bool:
    """Whether the peer asked for less: a success to most policies, a failure to `unified` and the load bias."""
    return status == 429 or grpc_status == GRPC_RESOURCE_EXHAUSTED


def pushback_of(
    status: int, grpc_status: int | None, headers: list[tuple[bytes, bytes]], wall_clock: float
) -> float | None:
    """For a rate-limited answer the seconds of quiet that it asks for (0.0: it does not say); None for any other.

    `headers`: names in lower case; a gRPC answer's trailers with them. Read are `retry-after` (seconds, or a date, for
    which `wall_clock` is needed: Unix seconds) and `grpc-retry-pushback-ms`. What cannot be read asks for nothing.
    """
    if not is_rate_limited(status, grpc_status):
        return None
    seconds = 0.0
    for name, value in headers:
        if name == b"retry-after":
            seconds = max(seconds, _retry_after(value.decode("latin-1"), wall_clock))
        elif name == b"grpc-retry-pushback-ms" and value.isdigit() and len(value) <= 12:
            seconds = max(seconds, int(value) / 1000.0)
    return seconds


def _retry_after(text: str, wall_clock: float) -> float:
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        at = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return 0.0
    return max(0.0, at.timestamp() - wall_clock)
