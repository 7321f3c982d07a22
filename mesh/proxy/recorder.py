"""The flight recorder: the last failures of this proxy, with their cause, as `/failures.json` shows them.

    request     the proxy answered by itself or broke off, or the answer is a 5xx or a failed gRPC call
    connection  it could not be opened or used: refused, timed out, a TLS handshake that failed, and why

A ring of fixed length: old failures fall out. What is stored is text that was ready, and at most one short string off
the wire each, so the ring has a known size in memory; nothing is stored for what succeeds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic, time

import msgspec

from mesh.proxy.observe import Observed
from mesh.proxy.trace import trace_id_of

DEFAULT_SIZE = 256
MAX_TEXT = 256
"""Of a path: enough to know the request again."""
GRPC_FAILURES = frozenset({2, 4, 7, 13, 14, 15})
"""UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS: Linkerd's classification."""


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of them. Seconds; `time` is Unix time."""

    time: float
    direction: str
    kind: str
    cause: str
    reason: str = ""
    method: str = ""
    authority: str = ""
    path: str = ""
    route: str = ""
    status: int = 0
    grpc_status: int | None = None
    attempts: int = 0
    retries_exhausted: bool = False
    endpoint: str = ""
    pod: str = ""
    peer: str = ""
    peer_identity: str = ""
    latency_seconds: float | None = None
    trace_id: str = ""


class Recorder:
    """An observer of requests, and the witness of connections."""

    def __init__(self, size: int = DEFAULT_SIZE, clock: Callable[[], float] = time) -> None:
        self._ring: deque[Failure] = deque(maxlen=size)
        self._clock = clock
        self.total = 0

    def failures(self, limit: int | None = None) -> list[Failure]:
        """The newest first."""
        newest = list(reversed(self._ring))
        return newest if limit is None else newest[:limit]

    def ended(self, request: Observed) -> None:
        """A request ended; kept where it failed."""
        if request.cause is None and request.status < 500 and request.grpc_status not in GRPC_FAILURES:
            return
        head, session, endpoint = request.head, request.session, request.endpoint
        cause = request.cause
        spec = endpoint.spec if endpoint is not None else None
        self._add(
            Failure(
                time=self._clock(),
                direction=request.owner.direction,
                kind="request",
                cause=cause.value if cause is not None else _of_the_app(request),
                method=head.method[:32],
                authority=(request.authority or head.authority.decode("latin-1"))[:MAX_TEXT],
                path=head.path[:MAX_TEXT].decode("latin-1"),
                route=request.route_name,
                status=request.status,
                grpc_status=request.grpc_status,
                attempts=request.attempts,
                retries_exhausted=request.attempts > 1,
                endpoint=spec.address if spec is not None else "",
                pod=spec.pod if spec is not None else "",
                peer=session.peer,
                peer_identity=session.peer_identity or "",
                latency_seconds=round(monotonic() - request.started_at, 6) if request.started_at else None,
                trace_id=trace_id_of(head.headers),
            )
        )

    # ---- witness of connections (`mesh.proxy.telemetry`)

    def connection_failed(self, direction: str, cause: str, reason: str, peer: str) -> None:
        self._add(
            Failure(time=self._clock(), direction=direction, kind="connection", cause=cause, reason=reason, peer=peer)
        )

    def _add(self, failure: Failure) -> None:
        self.total += 1
        self._ring.append(failure)


def _of_the_app(request: Observed) -> str:
    if request.grpc_status is not None and request.status < 500:
        return "grpc status of the server"
    return "status of the server"
