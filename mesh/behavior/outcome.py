"""How one try of a request ended, in the few words that decisions need.

A try ends with an HTTP status from the peer, or with a cause why there is none. The causes are Linkerd's; what a client
sees of each (status, gRPC code, `l5d-proxy-error`, metric label) stands in one table in `mesh.proxy.wire.errors`.
"""

from __future__ import annotations

import enum


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


STATUS_OF: dict[Cause, int] = {
    Cause.CONNECT: 502,
    Cause.CONNECT_TIMEOUT: 504,
    Cause.FAILFAST: 504,
    Cause.LOADSHED: 503,
    Cause.RESPONSE_TIMEOUT: 504,
    Cause.REQUEST_TIMEOUT: 504,
    Cause.DISCOVERY_TIMEOUT: 504,
    Cause.UNKNOWN_DESTINATION: 502,
}
"""Status a client gets for each cause (linkerd2-proxy `http/server.rs`, `endpoint.rs`)."""


def is_failure(status: int) -> bool:
    """Linkerd's default classification: 5xx fails, all else (429 included) succeeds."""
    return status >= 500
