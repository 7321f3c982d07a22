"""Tap: who may, watches requests live as they pass (port 4190, as in Linkerd).

    POST /v1/tap  {"match": …, "limit": …, "sampleRate": …, "maxRps": …, "headers": …}
        ──► one JSON object a line: requestInit, responseInit, responseEnd of each request that matches

Mutual TLS, and only the identity named by LINKERD2_PROXY_TAP_SVC_NAME is served; anybody else gets 403. At most
`MAX_SESSIONS` at a time, each with a bounded queue: a reader that lags loses events, which are counted, and never slows
a request. While nobody taps, nothing of this is called: the observer is plugged in with the first session and out with
the last.

A filter may ask for what is known only later: the status, or the endpoint that balancing chose. Then a request's
`requestInit` waits for the first moment at which the filter can be judged; without such terms it goes out at once.

Filters are of `tap_filter`, the listener is `tap_server`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic

import msgspec

from mesh.proxy.metrics import Registry
from mesh.proxy.observe import Observed, Watched, plug, unplug
from mesh.proxy.tap_filter import TapRequest, compile_match, judged_at
from mesh.proxy.wire.message import Headers

MAX_SESSIONS = 8
QUEUE_EVENTS = 1024
MAX_WATCHED = 10_000
"""Requests that one session follows at a time."""
MAX_TEXT = 4096
"""Of a path or a header's value."""
SECRET_HEADERS = frozenset({b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"})


class _Followed:
    """A request that a session follows."""

    __slots__ = ("id", "responded_at", "shown", "started_at")

    def __init__(self, number: int, now: float) -> None:
        self.id = number
        self.started_at = now
        self.responded_at = 0.0
        self.shown = False


class Session:
    """One stream of events."""

    def __init__(self, wanted: TapRequest, rng: Random, clock: Callable[[], float] = monotonic) -> None:
        self.events: deque[bytes] = deque()
        self.filled = asyncio.Event()
        self.dropped = 0
        self._wanted = wanted
        self._matches = compile_match(wanted.match)
        self._moment = judged_at(wanted.match)
        self._rng = rng
        self._clock = clock
        self._followed: dict[Observed, _Followed] = {}
        self._number = 0
        self._taken = 0
        self._window = 0.0
        self._in_window = 0

    @property
    def over(self) -> bool:
        """Its limit is reached and every request that it shows has ended."""
        limit = self._wanted.limit
        return bool(limit) and self._taken >= limit and not any(f.shown for f in self._followed.values())

    def began(self, request: Observed) -> None:
        if self._full() or len(self._followed) >= MAX_WATCHED:
            return
        if self._wanted.sample_rate < 1.0 and self._rng.random() >= self._wanted.sample_rate:
            return
        followed = _Followed(self._number, self._clock())
        self._number += 1
        if self._moment != "began":
            self._followed[request] = followed
        elif self._matches(request) and self._admit():
            self._followed[request] = followed
            self._show(request, followed)

    def responded(self, request: Observed, status: int) -> None:
        followed = self._followed.get(request)
        if followed is None:
            return
        followed.responded_at = self._clock()
        if not followed.shown and self._moment == "responded":
            if not (self._matches(request) and self._admit()):
                del self._followed[request]
                return
            self._show(request, followed)
        if followed.shown:
            self._response_init(request, followed, status)

    def ended(self, request: Observed) -> None:
        followed = self._followed.pop(request, None)
        if followed is None:
            return
        if not followed.shown:
            if not (self._matches(request) and self._admit()):
                return
            self._show(request, followed)
            if followed.responded_at:
                self._response_init(request, followed, request.status)
        now = self._clock()
        end: dict[str, object] = {"sinceRequestInitUs": _micros(now - followed.started_at)}
        if followed.responded_at:
            end["sinceResponseInitUs"] = _micros(now - followed.responded_at)
        end.update(httpStatus=request.status, requestBytes=request.received, responseBytes=request.returned)
        if request.grpc_status is not None:
            end["grpcStatus"] = request.grpc_status
        if request.cause is not None:
            end["error"] = request.cause.value
        self._emit("responseEnd", request, followed, end)
        if self.over:
            self.filled.set()

    # ---- inside

    def _full(self) -> bool:
        return bool(self._wanted.limit) and self._taken >= self._wanted.limit

    def _admit(self) -> bool:
        """Counts a request against the limit and the rate."""
        if self._full():
            return False
        if self._wanted.max_rps:
            now = self._clock()
            if now - self._window >= 1.0:
                self._window, self._in_window = now, 0
            if self._in_window >= self._wanted.max_rps:
                return False
            self._in_window += 1
        self._taken += 1
        return True

    def _show(self, request: Observed, followed: _Followed) -> None:
        head = request.head
        followed.shown = True
        event: dict[str, object] = {
            "method": head.method,
            "scheme": head.scheme.decode("latin-1"),
            "authority": head.authority.decode("latin-1")[:MAX_TEXT],
            "path": head.path.decode("latin-1")[:MAX_TEXT],
        }
        if self._wanted.headers:
            event["headers"] = _shown(head.headers)
        self._emit("requestInit", request, followed, event)

    def _response_init(self, request: Observed, followed: _Followed, status: int) -> None:
        since = _micros(followed.responded_at - followed.started_at)
        self._emit("responseInit", request, followed, {"sinceRequestInitUs": since, "httpStatus": status})

    def _emit(self, name: str, request: Observed, followed: _Followed, event: dict[str, object]) -> None:
        if len(self.events) >= QUEUE_EVENTS:
            self.dropped += 1
            return
        session = request.session
        line = {
            "event": name,
            "id": followed.id,
            "proxyDirection": request.owner.direction,
            "source": _end(session.peer, identity=session.peer_identity or ""),
            "destination": _where(request),
            "tls": session.tls,
            "route": request.route_name,
            **event,
        }
        self.events.append(msgspec.json.encode(line) + b"\n")
        self.filled.set()


def _micros(seconds: float) -> int:
    return int(seconds * 1e6)


def _where(request: Observed) -> dict[str, object]:
    endpoint = request.endpoint
    if endpoint is None:
        return _end(request.session.local, authority=request.authority)
    spec = endpoint.spec
    return _end(spec.address, pod=spec.pod, namespace=spec.namespace, identity=spec.identity or "")


def _end(address: str, **labels: str) -> dict[str, object]:
    host, _, port = address.rpartition(":")
    known: dict[str, object] = {name: value for name, value in labels.items() if value}
    return {"ip": host.strip("[]"), "port": int(port) if port.isdecimal() else 0, **known}


def _shown(headers: Headers) -> list[tuple[str, str]]:
    return [
        (name.decode("latin-1"), value.decode("latin-1")[:MAX_TEXT])
        for name, value in headers
        if name not in SECRET_HEADERS
    ]


class Tap:
    """The sessions, and the observer behind them."""

    def __init__(self, owners: Sequence[Watched], registry: Registry, rng: Random) -> None:
        self._owners = owners
        self._rng = rng
        self._sessions: list[Session] = []
        self._dropped = registry.counters(
            "tap_events_dropped_total", "Events lost because a tap's reader lagged."
        ).counter()
        registry.collect("tap_sessions", "gauge", "Taps now open.", lambda: [({}, float(len(self._sessions)))])

    def open(self, wanted: TapRequest) -> Session | None:
        """A session for that request; None: there are too many."""
        if len(self._sessions) >= MAX_SESSIONS:
            return None
        session = Session(wanted, self._rng)
        self._sessions.append(session)
        plug(self._owners, self)
        return session

    def close(self, session: Session) -> None:
        self._count(session)
        self._sessions.remove(session)
        if not self._sessions:
            unplug(self._owners, self)

    # ---- observer

    def began(self, request: Observed) -> None:
        for session in self._sessions:
            session.began(request)
            self._count(session)

    def responded(self, request: Observed, status: int) -> None:
        for session in self._sessions:
            session.responded(request, status)
            self._count(session)

    def ended(self, request: Observed) -> None:
        for session in self._sessions:
            session.ended(request)
            self._count(session)

    def _count(self, session: Session) -> None:
        if session.dropped:
            self._dropped.value += session.dropped
            session.dropped = 0
