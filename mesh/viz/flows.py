"""What a proxy's series mean: which of them are added up under which key, and as what.

    response_total, response_latency_ms {direction="inbound"}    Inbound    by client, as the server saw it
    response_total, response_latency_ms {direction="outbound"}   Outbound   by endpoint, each try counts
    outbound_{http,grpc}_route_request_*                         Route      by parent and route, as the client saw it
    outbound_{http,grpc}_route_backend_*                         Backend    by route and backend, each try counts
    route_response_*, route_actual_response_total                Profile    by route of a ServiceProfile
    inbound_http_authz_{allow,deny}_total, …_ratelimit_total     Permission by Server, route, client
    outbound_tcp_balancer_queue_requests_total                   Tcp        by parent: opaque connections
    tcp_{read,write}_bytes_total                                 Transport  by direction and end

A key is a tuple of label values, so that a pod's ten statuses are one flow. What is added up is a `Tally`; the names of
its counts stand below. Everything else of an exposition is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mesh.behavior.outcome import GRPC_FAILURES
from mesh.viz.exposition import SeriesKey, parse_labels

SUCCESS, FAILURE = "success", "failure"
"""Classified responses."""
TIMEOUT = "timeout"
"""Of the failures: a deadline of the route passed."""
OWN = "own"
"""Of the failures: answered by the client's proxy itself, for no endpoint could be reached; no try counts them."""
RETRIES = "retries"
ACTUAL_SUCCESS, ACTUAL_FAILURE = "actual_success", "actual_failure"
"""Of a ServiceProfile's route: each try counts."""
ALLOWED, DENIED, LIMITED = "allowed", "denied", "limited"
CONNECTIONS = "connections"
READ, WRITTEN = "read_bytes", "written_bytes"

GRPC_FAILURE_NAMES = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
assert len(GRPC_FAILURE_NAMES) == len(GRPC_FAILURES)
TIMEOUT_ERRORS = frozenset({"REQUEST_TIMEOUT", "RESPONSE_HEADERS_TIMEOUT"})
UNREACHED_ERRORS = frozenset({"FAIL_FAST", "LOAD_SHED", "IO"})


class Inbound(NamedTuple):
    """Requests that arrived at a pod, and by which Server and route they were let in."""

    client_id: str
    tls: str
    no_tls_reason: str
    target_addr: str
    server_kind: str = ""
    server: str = ""
    server_port: str = ""
    route_kind: str = ""
    route: str = ""


class Outbound(NamedTuple):
    """Tries that a pod sent to an endpoint."""

    dst_namespace: str
    dst_service: str
    dst_pod: str
    target_addr: str
    authority: str
    server_id: str
    tls: str
    no_tls_reason: str


class Parent(NamedTuple):
    """What a route is attached to."""

    kind: str
    namespace: str
    name: str
    port: str


class Route(NamedTuple):
    """Requests that a pod's clients made by a route."""

    protocol: str
    parent: Parent
    kind: str
    namespace: str
    name: str


class Backend(NamedTuple):
    """Tries of a route at one of its backends."""

    route: Route
    target: Parent


class Profile(NamedTuple):
    """Requests by a route of a ServiceProfile."""

    dst: str
    route: str


class Permission(NamedTuple):
    """Verdicts of the inbound policy."""

    server_kind: str
    server: str
    server_port: str
    route_kind: str
    route: str
    target_addr: str
    client_id: str
    tls: str


class Tcp(NamedTuple):
    """Opaque connections that a pod opened."""

    parent: Parent


class Transport(NamedTuple):
    """Bytes. `peer`: src for connections that clients opened, dst for those that the proxy opened."""

    direction: str
    peer: str
    tls: str


Flow = Inbound | Outbound | Route | Backend | Profile | Permission | Tcp | Transport


class Meaning(NamedTuple):
    """Where a series is added. `counts` is empty for histograms."""

    flow: Flow
    counts: tuple[str, ...]


Labels = Mapping[str, str]


def _endpoint(labels: Labels) -> Flow | None:
    get = labels.get
    if get("direction") == "inbound":
        names = ("client_id", "tls", "no_tls_reason", "target_addr", "srv_kind", "srv_name", "srv_port")
        return Inbound(*(get(name, "") for name in (*names, "route_kind", "route_name")))
    if get("direction") == "outbound":
        return Outbound(
            get("dst_namespace", ""),
            get("dst_service", ""),
            get("dst_pod", ""),
            get("target_addr", ""),
            get("authority", ""),
            get("server_id", ""),
            get("tls", ""),
            get("no_tls_reason", ""),
        )
    return None


def _parent(labels: Labels, prefix: str = "parent") -> Parent:
    return Parent(*(labels.get(f"{prefix}_{part}", "") for part in ("kind", "namespace", "name", "port")))


def _route(labels: Labels, protocol: str) -> Route:
    kind, namespace, name = (labels.get(f"route_{part}", "") for part in ("kind", "namespace", "name"))
    return Route(protocol, _parent(labels), kind, namespace, name)


def _backend(labels: Labels, protocol: str) -> Backend:
    return Backend(_route(labels, protocol), _parent(labels, "backend"))


def _permission(labels: Labels) -> Permission:
    names = ("srv_kind", "srv_name", "srv_port", "route_kind", "route_name", "target_addr", "client_id", "tls")
    return Permission(*(labels.get(name, "") for name in names))


def _classified(labels: Labels) -> tuple[str, ...]:
    return (SUCCESS,) if labels.get("classification") == "success" else (FAILURE,)


def _answered(labels: Labels) -> tuple[str, ...]:
    """What an answer counts as whose class is no label: by status, as the proxies do where no route says otherwise."""
    error = labels.get("error", "")
    http, grpc = labels.get("http_status", ""), labels.get("grpc_status", "")
    failed = grpc in GRPC_FAILURE_NAMES or http[:1] == "5" or (not http and not grpc)
    counts = [FAILURE if failed else SUCCESS]
    if error in TIMEOUT_ERRORS:
        counts.append(TIMEOUT)
    if error in UNREACHED_ERRORS:
        counts.append(OWN)
    return tuple(counts)


Reader = Callable[[Labels], Meaning | None]


def _endpoint_reader(counts: Callable[[Labels], tuple[str, ...]]) -> Reader:
    def meaning(labels: Labels) -> Meaning | None:
        flow = _endpoint(labels)
        return Meaning(flow, counts(labels)) if flow is not None else None

    return meaning


def _profile_reader(counts: Callable[[Labels], tuple[str, ...]]) -> Reader:
    return lambda labels: Meaning(Profile(labels.get("dst", ""), labels.get("rt_route", "")), counts(labels))


def _actual(labels: Labels) -> tuple[str, ...]:
    return (ACTUAL_SUCCESS,) if labels.get("classification") == "success" else (ACTUAL_FAILURE,)


def _fixed(*counts: str) -> Callable[[Labels], tuple[str, ...]]:
    return lambda _: counts


def _permission_reader(count: str) -> Reader:
    return lambda labels: Meaning(_permission(labels), (count,))


def _transport_reader(count: str) -> Reader:
    def meaning(labels: Labels) -> Meaning:
        return Meaning(Transport(*(labels.get(name, "") for name in ("direction", "peer", "tls"))), (count,))

    return meaning


def _route_reader(protocol: str, counts: Callable[[Labels], tuple[str, ...]]) -> Reader:
    return lambda labels: Meaning(_route(labels, protocol), counts(labels))


def _backend_reader(protocol: str, counts: Callable[[Labels], tuple[str, ...]]) -> Reader:
    return lambda labels: Meaning(_backend(labels, protocol), counts(labels))


COUNTERS: dict[str, Reader] = {
    "response_total": _endpoint_reader(_classified),
    "route_response_total": _profile_reader(_classified),
    "route_actual_response_total": _profile_reader(_actual),
    "inbound_http_authz_allow_total": _permission_reader(ALLOWED),
    "inbound_http_authz_deny_total": _permission_reader(DENIED),
    "inbound_http_local_ratelimit_total": _permission_reader(LIMITED),
    "outbound_tcp_balancer_queue_requests_total": lambda labels: Meaning(Tcp(_parent(labels)), (CONNECTIONS,)),
    "tcp_read_bytes_total": _transport_reader(READ),
    "tcp_write_bytes_total": _transport_reader(WRITTEN),
}
HISTOGRAMS: dict[str, Reader] = {
    "response_latency_ms": _endpoint_reader(_fixed()),
    "route_response_latency_ms": _profile_reader(_fixed()),
}
for _protocol in ("http", "grpc"):
    _name = f"outbound_{_protocol}_route"
    COUNTERS[f"{_name}_request_statuses_total"] = _route_reader(_protocol, _answered)
    COUNTERS[f"{_name}_retry_requests_total"] = _route_reader(_protocol, _fixed(RETRIES))
    COUNTERS[f"{_name}_backend_response_statuses_total"] = _backend_reader(_protocol, _answered)
    HISTOGRAMS[f"{_name}_request_duration_seconds"] = _route_reader(_protocol, _fixed())
    HISTOGRAMS[f"{_name}_backend_response_duration_seconds"] = _backend_reader(_protocol, _fixed())

STARTED = "process_start_time_seconds"
OPEN = "tcp_open_connections"
LEAF_EXPIRES = "control_identity_cert_expiration_timestamp_seconds"
LEAF_REFRESHED = "control_identity_cert_refresh_timestamp_seconds"
LEAF_REFRESHES = "control_identity_cert_refreshes_total"
ANCHORS_EXPIRE = "control_identity_trust_anchors_expiration_timestamp_seconds"
GAUGES = (STARTED, OPEN, LEAF_EXPIRES, LEAF_REFRESHED, LEAF_REFRESHES, ANCHORS_EXPIRE)
"""Kept as they were last scraped."""

MILLISECONDS_PER_UNIT = {"response_latency_ms": 1.0, "route_response_latency_ms": 1.0}
"""Of a histogram's bounds; the others are in seconds."""


class Meanings:
    """Meaning by series, each label text parsed once. `capacity` bounds what is remembered, not what is understood."""

    def __init__(self, capacity: int = 100_000) -> None:
        self._known: dict[SeriesKey, Meaning | None] = {}
        self._capacity = capacity
        self.unreadable = 0

    def of(self, key: SeriesKey) -> Meaning | None:
        """None: a series that does not matter here, or whose labels make no sense (counted)."""
        if key in self._known:
            return self._known[key]
        if len(self._known) >= self._capacity:
            self._known.clear()
        name, text = key
        reader = COUNTERS.get(name) or HISTOGRAMS.get(name)
        try:
            labels = parse_labels(text)
        except ValueError:
            self.unreadable += 1
            meaning = None
        else:
            # What a proxy folded away past its cap has no labels to add it under.
            meaning = reader(labels) if reader is not None and "other" not in labels else None
        self._known[key] = meaning
        return meaning
