"""What the hot path counts with: objects that were given their labels once and are only added to.

    TcpSeries        connections of one direction, end and TLS state
    EndpointSeries   tries at one endpoint (outbound), requests of one client (inbound)
    RouteSeries      logical requests of one route: answers, durations, retries; `route_*` where a ServiceProfile rules
    BackendSeries    tries of one route at one of its backends
    BalancerSeries   queue, gate, endpoints and discovery updates of one balancer

Who serves a request holds the series that it needs; series by status are found in a small dict of their owner. The
families (names, help, buckets) are made by `mesh.proxy.telemetry`. Labels are Linkerd's: `parent_*`, `route_*` and
`backend_*` name the control plane's resources. The five are one file because they are one shape.
"""

from __future__ import annotations

import errno as errnos
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from mesh.behavior.outcome import Cause
from mesh.behavior.routes import Route
from mesh.proxy.metrics import LATENCY_BUCKETS_MS, Counter, Family, Histogram, Registry, Sample, render_labels
from mesh.proxy.wire.errors import AnyCause

ROUTE_BUCKETS = (0.05, 0.5, 1.0, 10.0)
"""Linkerd's `outbound_*_route_request_duration_seconds`."""
BACKEND_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0)
"""Linkerd's `outbound_*_route_backend_response_duration_seconds`."""
QUEUE_BUCKETS = (0.0005, 0.005, 0.05, 0.5, 1.0, 3.0)
"""Linkerd's `outbound_http_balancer_queue_latency_seconds`."""

GRPC_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)

ROUTE_ERRORS: dict[AnyCause, str] = {
    Cause.FAILFAST: "FAIL_FAST",
    Cause.LOADSHED: "LOAD_SHED",
    Cause.REQUEST_TIMEOUT: "REQUEST_TIMEOUT",
    Cause.RESPONSE_TIMEOUT: "RESPONSE_HEADERS_TIMEOUT",
    Cause.CONNECT: "IO",
    Cause.CONNECT_TIMEOUT: "IO",
}
"""`error` of `*_statuses_total` as Linkerd spells it there; any other cause is UNKNOWN."""


def grpc_code(status: int | None) -> str:
    """The name of a gRPC status; what no server should send is UNKNOWN."""
    return GRPC_CODES[status] if status is not None and 0 <= status < len(GRPC_CODES) else "UNKNOWN"


def errno_label(error: BaseException | None) -> str:
    """`errno` of `tcp_close_total`: ECONNRESET and the like; empty for an orderly end."""
    number = error.errno if isinstance(error, OSError) else None
    return errnos.errorcode.get(number, "UNKNOWN") if number is not None else ""


def parent_labels(
    name: str, namespace: str = "", port: int | None = None, kind: str = "Service", section: str = ""
) -> dict[str, str]:
    """`parent_*` of a route or balancer. Without a namespace there is no resource: `kind` is Linkerd's `default`."""
    return {
        "parent_group": "core" if namespace else "",
        "parent_kind": kind if namespace else "default",
        "parent_namespace": namespace,
        "parent_name": name,
        "parent_port": str(port) if port else "",
        "parent_section_name": section,
    }


def route_labels(name: str, namespace: str = "", kind: str = "") -> dict[str, str]:
    """`route_*`. `kind` is HTTPRoute or GRPCRoute; empty: the route that applies where none is configured."""
    return {
        "route_group": "gateway.networking.k8s.io" if kind else "",
        "route_kind": kind or "default",
        "route_namespace": namespace,
        "route_name": name,
    }


def backend_labels(name: str, namespace: str = "", port: int | None = None, kind: str = "Service") -> dict[str, str]:
    """`backend_*` of one of a route's backends."""
    return {
        "backend_group": "core" if namespace else "",
        "backend_kind": kind if namespace else "default",
        "backend_namespace": namespace,
        "backend_name": name,
        "backend_port": str(port) if port else "",
    }


class TcpSeries:
    """Connections of one kind: direction, which end, TLS or not."""

    __slots__ = ("_closes", "_errors", "_text", "closed", "labels", "opened", "read", "written")

    def __init__(self, labels: dict[str, str], opened: Family, closes: Family, read: Family, written: Family) -> None:
        self.labels = labels
        self._text = render_labels(labels)
        self._closes = closes
        self._errors: dict[str, Counter] = {}
        self.opened = opened.counter(self._text)
        self.closed = closes.counter(self._text)
        """Closed in order, without an errno."""
        self.read = read.counter(self._text)
        self.written = written.counter(self._text)

    def ended(self, error: BaseException | None = None) -> None:
        """A connection is closed; `error` as asyncio gives it to `connection_lost`."""
        label = errno_label(error)
        if not label:
            self.closed.value += 1
            return
        series = self._errors.get(label)
        if series is None:
            series = self._errors[label] = self._closes.counter(f'{self._text},errno="{label}"')
        series.value += 1

    @property
    def open(self) -> float:
        """Connections now open."""
        return self.opened.value - self.closed.value - sum(series.value for series in self._errors.values())


class EndpointSeries:
    """Requests of one endpoint (outbound) or one client (inbound)."""

    __slots__ = ("_ends", "_heads", "_labels", "_latency", "_responses", "requests")

    def __init__(self, labels: str, requests: Family, responses: Family, latency: Family) -> None:
        self._labels = labels
        self._responses = responses
        self._latency = latency
        self._heads: dict[int, Histogram] = {}
        self._ends: dict[tuple[int, bool, int | None, str], Counter] = {}
        self.requests = requests.counter(labels)

    def observe(self, status: int, failed: bool, rtt: float) -> None:
        """`head` and `ended` at once, for a response whose verdict is its status."""
        self.head(status, rtt)
        self.ended(status, failed)

    def head(self, status: int, rtt: float) -> None:
        """Response headers came `rtt` seconds after the request was sent."""
        series = self._heads.get(status)
        if series is None:
            series = self._heads[status] = self._latency.histogram(f'{self._labels},status_code="{status}"')
        series.observe(rtt * 1000.0)

    def ended(self, status: int, failed: bool, grpc_status: int | None = None, error: str = "") -> None:
        """The response is over and classified. `error`: what broke it off after its head."""
        key = (status, failed, grpc_status, error)
        series = self._ends.get(key)
        if series is None:
            series = self._ends[key] = self._responses.counter(classified(self._labels, *key))
        series.value += 1

    def broken(self, error: str = "i/o") -> None:
        """No response will come."""
        self.ended(0, True, None, error)


class RouteFamilies:
    """`outbound_http_route_*` or `outbound_grpc_route_*`."""

    def __init__(self, registry: Registry, protocol: str) -> None:
        name = f"outbound_{protocol}_route"
        self.grpc = protocol == "grpc"
        self.durations = registry.histograms(
            f"{name}_request_duration_seconds",
            "From a request to the end of its answer, retries included.",
            ROUTE_BUCKETS,
        )
        self.statuses = registry.counters(
            f"{name}_request_statuses_total", "Answers given to clients, by route and status."
        )
        self.retry_requests = registry.counters(f"{name}_retry_requests_total", "Retries sent.")
        self.retry_successes = registry.counters(f"{name}_retry_successes_total", "Requests that a retry saved.")
        self.retry_limit_exceeded = registry.counters(
            f"{name}_retry_limit_exceeded_total",
            "Requests whose last answer would have been retried but for the limit.",
        )
        self.retry_overflow = registry.counters(
            f"{name}_retry_overflow_total", "Retries not sent because no endpoint was ready."
        )
        self.backend_requests = registry.counters(f"{name}_backend_requests_total", "Tries sent to a backend.")
        self.backend_durations = registry.histograms(
            f"{name}_backend_response_duration_seconds", "From a try to the end of its response.", BACKEND_BUCKETS
        )
        self.backend_statuses = registry.counters(
            f"{name}_backend_response_statuses_total", "Responses of a backend, by status."
        )


class ProfileFamilies:
    """`route_*` and `route_actual_*`: routes of ServiceProfiles."""

    def __init__(self, registry: Registry) -> None:
        self.requests = registry.counters("route_request_total", "Logical requests of a ServiceProfile's route.")
        self.responses = registry.counters("route_response_total", "Logical responses, classified.")
        self.latency = registry.histograms(
            "route_response_latency_ms", "From a logical request to its answer.", LATENCY_BUCKETS_MS
        )
        self.actual_requests = registry.counters("route_actual_request_total", "Requests, retries included.")
        self.actual_responses = registry.counters("route_actual_response_total", "Responses, retried ones included.")
        self.retryable = registry.counters("route_retryable_total", "Responses that were retried.")
        self.retry_skipped = registry.counters(
            "route_retry_skipped_total", "Responses that would have been retried but for the budget."
        )


class BackendSeries:
    """Tries of one route at one backend."""

    __slots__ = ("_durations", "_families", "_labels", "_profile", "_profile_families", "_seen", "requests")

    def __init__(
        self, families: RouteFamilies, labels: str, profile_families: ProfileFamilies, profile: str | None
    ) -> None:
        self._families = families
        self._labels = labels
        self._profile_families = profile_families
        self._profile = profile
        self._seen: dict[tuple[int, bool, int | None, str], tuple[Counter, Counter | None]] = {}
        self.requests = families.backend_requests.counter(labels)
        self._durations = families.backend_durations.histogram(labels)

    def sent(self) -> None:
        """A try is on its way."""
        self.requests.value += 1

    def ended(self, status: int, failed: bool, seconds: float, grpc_status: int | None = None, error: str = "") -> None:
        """It is over, `seconds` after it was sent. `status` 0: no response; then `error` says why."""
        self._durations.observe(seconds)
        key = (status, failed, grpc_status, error)
        series = self._seen.get(key)
        if series is None:
            series = self._seen[key] = self._resolve(status, failed, grpc_status, error)
        series[0].value += 1
        if series[1] is not None:
            series[1].value += 1

    def _resolve(
        self, status: int, failed: bool, grpc_status: int | None, error: str
    ) -> tuple[Counter, Counter | None]:
        families, profile = self._families, self._profile
        answers = families.backend_statuses.counter(_outcome(self._labels, families.grpc, status, grpc_status, error))
        if profile is None:
            return answers, None
        text = classified(profile, status, failed, grpc_status, error)
        return answers, self._profile_families.actual_responses.counter(text)


class RouteSeries:
    """Logical requests of one route of one destination."""

    __slots__ = (
        "_backends",
        "_durations",
        "_families",
        "_labels",
        "_profile",
        "_profile_families",
        "_retries",
        "_seen",
    )

    def __init__(
        self, families: RouteFamilies, labels: str, profile_families: ProfileFamilies, profile_labels: str | None
    ) -> None:
        self._families = families
        self._labels = labels
        self._profile_families = profile_families
        self._profile = _ProfileSeries(profile_families, profile_labels) if profile_labels is not None else None
        self._durations = families.durations.histogram(labels)
        self._seen: dict[tuple[int, int | None, AnyCause | None], Counter] = {}
        self._retries: _RetrySeries | None = None
        self._backends: dict[str, BackendSeries] = {}

    def backend(self, labels: Mapping[str, str]) -> BackendSeries:
        """The tries at the backend with these labels (`backend_labels`); the same object every time."""
        text = render_labels(labels)
        series = self._backends.get(text)
        if series is None:
            joined = f"{self._labels},{text}" if text else self._labels
            profile = self._profile.labels if self._profile is not None else None
            series = BackendSeries(self._families, joined, self._profile_families, profile)
            self._backends[text] = series
        return series

    def answered(
        self,
        route: Route,
        status: int,
        cause: AnyCause | None,
        attempts: int,
        retries: int,
        over: bool,
        *,
        seconds: float | None = None,
        grpc_status: int | None = None,
        failed: bool | None = None,
        overflow: bool = False,
    ) -> None:
        """A client has its answer, `seconds` after its request came.

        `over`: a retry was wanted and the limit or budget did not allow it; `overflow`: a granted one found no endpoint
        ready. `failed`: the verdict, where the status alone does not give it (gRPC).
        """
        key = (status, grpc_status, cause)
        series = self._seen.get(key)
        if series is None:
            error = ROUTE_ERRORS.get(cause, "UNKNOWN") if cause is not None else ""
            text = _outcome(self._labels, self._families.grpc, status, grpc_status, error)
            series = self._seen[key] = self._families.statuses.counter(text)
        series.value += 1
        if seconds is not None:
            self._durations.observe(seconds)
        if self._profile is not None:
            verdict = route.failed(status) if failed is None else failed
            self._profile.answered(status, verdict, grpc_status, attempts, retries, over, seconds)
        elif route.retry is not None or retries or over or overflow:
            counted = self._retries
            if counted is None:
                counted = self._retries = _RetrySeries(self._families, self._labels)
            if retries:
                counted.requests.value += retries
                if not (route.failed(status) if failed is None else failed):
                    counted.successes.value += 1
            if over:
                counted.limit_exceeded.value += 1
            if overflow:
                counted.overflow.value += 1


class _RetrySeries:
    """Made at the first answer of a route that may retry, so that scrapes see its zeros before its first retry."""

    __slots__ = ("limit_exceeded", "overflow", "requests", "successes")

    def __init__(self, families: RouteFamilies, labels: str) -> None:
        self.requests = families.retry_requests.counter(labels)
        self.successes = families.retry_successes.counter(labels)
        self.limit_exceeded = families.retry_limit_exceeded.counter(labels)
        self.overflow = families.retry_overflow.counter(labels)


class _ProfileSeries:
    """One route of a ServiceProfile."""

    __slots__ = ("_actual", "_families", "_requests", "_retryable", "_seen", "_skipped", "labels")

    def __init__(self, families: ProfileFamilies, labels: str) -> None:
        self.labels = labels
        self._families = families
        self._requests = families.requests.counter(labels)
        self._actual = families.actual_requests.counter(labels)
        self._retryable = families.retryable.counter(labels)
        self._skipped = families.retry_skipped.counter(f'{labels},skipped="no_budget"')
        self._seen: dict[tuple[int, bool, int | None], tuple[Counter, Histogram]] = {}

    def answered(
        self,
        status: int,
        failed: bool,
        grpc_status: int | None,
        attempts: int,
        retries: int,
        over: bool,
        seconds: float | None,
    ) -> None:
        key = (status, failed, grpc_status)
        series = self._seen.get(key)
        if series is None:
            series = self._seen[key] = (
                self._families.responses.counter(classified(self.labels, *key)),
                self._families.latency.histogram(f'{self.labels},status_code="{status}"'),
            )
        series[0].value += 1
        if seconds is not None:
            series[1].observe(seconds * 1000.0)
        self._requests.value += 1
        self._actual.value += attempts
        self._retryable.value += retries
        if over:
            self._skipped.value += 1


class BalancerState(NamedTuple):
    """What a scrape reads of a balancer."""

    ready: int
    pending: int
    queue_length: int
    gate_shuts: int
    gate_shut: bool


class _EndpointReadiness(Protocol):
    def ready(self, now: float, /) -> bool: ...


class Balanced(Protocol):
    """What `BalancerSeries` reads of a `mesh.behavior.Backend`."""

    @property
    def endpoints(self) -> Mapping[str, _EndpointReadiness]: ...
    @property
    def queue(self) -> Collection[object]: ...
    @property
    def gate_shuts_total(self) -> int: ...
    @property
    def gate_shut(self) -> bool: ...


def state_of(backend: Balanced, now: float) -> BalancerState:
    """The state of a backend at `now`."""
    ready = sum(endpoint.ready(now) for endpoint in backend.endpoints.values())
    return BalancerState(
        ready, len(backend.endpoints) - ready, len(backend.queue), backend.gate_shuts_total, backend.gate_shut
    )


class BalancerFamilies:
    """`outbound_http_balancer_*` or `outbound_tcp_balancer_*`."""

    def __init__(self, registry: Registry, protocol: str) -> None:
        name = f"outbound_{protocol}_balancer"
        self.live: set[BalancerSeries] = set()
        self.requests = registry.counters(f"{name}_queue_requests_total", "Requests that entered the queue.")
        self.latency = registry.histograms(
            f"{name}_queue_latency_seconds", "Time that requests waited for an endpoint.", QUEUE_BUCKETS
        )
        self.updates = registry.counters(f"{name}_p2c_updates_total", "Updates of the endpoints by discovery.")
        for suffix, kind, help_text, read in (
            ("endpoints", "gauge", "Endpoints by readiness.", _endpoints),
            ("queue_length", "gauge", "Requests that wait for an endpoint.", _queue_length),
            ("queue_gate_open_total", "counter", "How often the gate opened again.", _gate_opens),
            ("queue_gate_shut_total", "counter", "How often fail-fast shut the gate.", _gate_shuts),
        ):
            registry.collect(f"{name}_{suffix}", kind, help_text, self._reader(read))

    def _reader(self, read: Callable[[BalancerSeries], list[Sample]]) -> Callable[[], list[Sample]]:
        return lambda: [sample for series in self.live for sample in read(series)]


class BalancerSeries:
    """One balancer. `read` is asked for its state at each scrape, until `close`."""

    __slots__ = ("_added", "_families", "_removed", "_reset", "labels", "latency", "read", "requests")

    def __init__(
        self, families: BalancerFamilies, labels: Mapping[str, str], read: Callable[[], BalancerState | None]
    ) -> None:
        text = render_labels(labels)
        self.labels = dict(labels)
        self.read = read
        self.requests = families.requests.counter(text)
        self.latency = families.latency.histogram(text)
        self._added = families.updates.counter(f'{text},op="Add"')
        self._removed = families.updates.counter(f'{text},op="Remove"')
        self._reset = families.updates.counter(f'{text},op="Reset"')
        self._families = families
        families.live.add(self)

    def queued(self) -> None:
        """A request came to the balancer."""
        self.requests.value += 1

    def left(self, waited_seconds: float) -> None:
        """It was sent on, after that long."""
        self.latency.observe(waited_seconds)

    def updated(self, added: int, removed: int) -> None:
        """Discovery sent a change."""
        self._added.value += added
        self._removed.value += removed

    def reset(self) -> None:
        """Discovery sent all endpoints anew."""
        self._reset.value += 1

    def close(self) -> None:
        """The balancer is gone."""
        self._families.live.discard(self)


def _endpoints(series: BalancerSeries) -> list[Sample]:
    state = series.read()
    if state is None:
        return []
    return [
        ({**series.labels, "endpoint_state": "ready"}, float(state.ready)),
        ({**series.labels, "endpoint_state": "pending"}, float(state.pending)),
    ]


def _queue_length(series: BalancerSeries) -> list[Sample]:
    state = series.read()
    return [(series.labels, float(state.queue_length))] if state is not None else []


def _gate_opens(series: BalancerSeries) -> list[Sample]:
    state = series.read()
    return [(series.labels, float(state.gate_shuts - state.gate_shut))] if state is not None else []


def _gate_shuts(series: BalancerSeries) -> list[Sample]:
    state = series.read()
    return [(series.labels, float(state.gate_shuts))] if state is not None else []


def classified(labels: str, status: int, failed: bool, grpc_status: int | None, error: str = "") -> str:
    """Labels of `*response_total`. `status` 0: there was no response."""
    text = f'{labels},status_code="{status}"' if status else labels
    text += f',classification="{"failure" if failed else "success"}"'
    if grpc_status is not None:
        text += f',grpc_status="{grpc_status}"'
    return f'{text},error="{error}"' if error else text


def _outcome(labels: str, grpc: bool, status: int, grpc_status: int | None, error: str) -> str:
    """Labels of `*_statuses_total`."""
    if grpc:
        text = f'{labels},grpc_status="{grpc_code(grpc_status)}"'
    else:
        text = f'{labels},http_status="{status}"' if status else labels
    return f'{text},error="{error}"' if error else text
