"""The proxy's own metrics: names, labels and the series objects that the hot path holds.

Names and labels are linkerd2-proxy's. Ours, because it has none: `tls_handshakes_total{direction}`,
`tls_handshake_failures_total{direction,reason}`, `outbound_http_resent_total` (requests dispatched anew because their
connection was closed under them) and `control_update_latency_seconds` (a change's publication to its application).

`tcp_{read,write}_bytes_total` count what HTTP reads and writes, without TLS framing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from mesh.behavior.outcome import Cause
from mesh.behavior.routes import Route
from mesh.proxy.metrics import LATENCY_BUCKETS_MS, Counter, Family, Histogram, Registry, render_labels
from mesh.proxy.wire.errors import ANSWERS, AnyCause

UPDATE_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class TcpSeries:
    """Connections of one kind: direction, which end, TLS or not."""

    __slots__ = ("closed", "labels", "opened", "read", "written")

    def __init__(
        self, labels: dict[str, str], opened: Counter, closed: Counter, read: Counter, written: Counter
    ) -> None:
        self.labels = labels
        self.opened = opened
        self.closed = closed
        self.read = read
        self.written = written


class EndpointSeries:
    """Requests of one endpoint (outbound) or one client (inbound)."""

    __slots__ = ("_labels", "_latency", "_responses", "_seen", "requests")

    def __init__(self, labels: str, requests: Family, responses: Family, latency: Family) -> None:
        self._labels = labels
        self._responses = responses
        self._latency = latency
        self._seen: dict[tuple[int, bool], tuple[Counter, Histogram]] = {}
        self.requests = requests.counter(labels)

    def observe(self, status: int, failed: bool, rtt: float) -> None:
        """Response headers came `rtt` seconds after the request was sent."""
        series = self._seen.get((status, failed))
        if series is None:
            result = "failure" if failed else "success"
            code = f'{self._labels},status_code="{status}"'
            series = self._seen[status, failed] = (
                self._responses.counter(f'{code},classification="{result}"'),
                self._latency.histogram(code),
            )
        series[0].value += 1
        series[1].observe(rtt * 1000.0)

    def broken(self) -> None:
        """No response will come."""
        self._responses.counter(f'{self._labels},classification="failure",error="i/o"').value += 1


class RouteSeries:
    """Logical requests of one route of one destination."""

    __slots__ = ("_labels", "_profile", "_seen", "_telemetry")

    def __init__(self, telemetry: OutboundTelemetry, labels: str, profile_labels: str | None) -> None:
        self._telemetry = telemetry
        self._labels = labels
        self._profile = profile_labels
        self._seen: dict[tuple[int, str], Counter] = {}

    def answered(
        self, route: Route, status: int, cause: AnyCause | None, attempts: int, retries: int, over: bool
    ) -> None:
        """A client has its answer. `over`: a retry was wanted and the limit or budget did not allow it."""
        t = self._telemetry
        error = ANSWERS[cause].label if cause is not None else ""
        series = self._seen.get((status, error))
        if series is None:
            code = f'{self._labels},http_status="{status}"' + (f',error="{error}"' if error else "")
            series = self._seen[status, error] = t.route_statuses.counter(code)
        series.value += 1
        if self._profile is None:
            if retries:
                t.retry_requests.counter(self._labels).value += retries
                if not route.failed(status):
                    t.retry_successes.counter(self._labels).value += 1
            if over:
                t.retry_limit_exceeded.counter(self._labels).value += 1
            return
        result = "failure" if route.failed(status) else "success"
        t.profile_requests.counter(self._profile).value += 1
        t.profile_responses.counter(f'{self._profile},status_code="{status}",classification="{result}"').value += 1
        t.profile_actual_requests.counter(self._profile).value += attempts
        if retries:
            t.profile_retryable.counter(self._profile).value += retries
        if over:
            t.profile_retry_skipped.counter(f'{self._profile},skipped="no_budget"').value += 1


class DirectionTelemetry:
    """What both directions count."""

    def __init__(self, registry: Registry, direction: str, identity_enabled: bool) -> None:
        self.registry = registry
        self.direction = direction
        self._identity_enabled = identity_enabled
        labels = {"direction": direction}
        self.requests = registry.counters("request_total", "Requests sent to an endpoint or received from a client.")
        self.responses = registry.counters("response_total", "Responses, classified.")
        self.latency = registry.histograms(
            "response_latency_ms", "Time from request to response headers.", LATENCY_BUCKETS_MS
        )
        self._errors = registry.counters(f"{direction}_http_errors_total", "Answers that the proxy made itself.")
        self._tcp = (
            registry.counters("tcp_open_total", "Connections opened."),
            registry.counters("tcp_close_total", "Connections closed."),
            registry.counters("tcp_read_bytes_total", "Bytes read."),
            registry.counters("tcp_write_bytes_total", "Bytes written."),
        )
        self._open: dict[str, TcpSeries] = {}
        self._failures = registry.counters("tls_handshake_failures_total", "TLS handshakes that failed, by reason.")
        self.handshakes = registry.counters("tls_handshakes_total", "TLS handshakes that succeeded.").counter(labels)
        self._tcp_errors = registry.counters(f"{direction}_tcp_errors_total", "Connections that could not be opened.")
        self.resent = registry.counters(
            f"{direction}_http_resent_total", "Requests dispatched anew because their connection closed unread."
        ).counter()

    def tls_label(self, meshed: bool) -> str:
        if not self._identity_enabled:
            return "disabled"
        return "true" if meshed else "no_identity"

    def tcp(self, peer: str, tls: str) -> TcpSeries:
        """`peer`: src for connections that clients opened to us, dst for those that we opened."""
        key = peer + tls
        series = self._open.get(key)
        if series is None:
            labels = {"direction": self.direction, "peer": peer, "tls": tls}
            opened, closed, read, written = (family.counter(labels) for family in self._tcp)
            series = self._open[key] = TcpSeries(labels, opened, closed, read, written)
        return series

    def tcp_to(self, identity: str | None) -> TcpSeries:
        return self.tcp("dst", self.tls_label(identity is not None))

    def open_connections(self) -> list[tuple[dict[str, str], float]]:
        """Labels and count of connections now open."""
        return [(s.labels, s.opened.value - s.closed.value) for s in self._open.values()]

    def endpoint(self, labels: Mapping[str, str]) -> EndpointSeries:
        return EndpointSeries(render_labels(labels), self.requests, self.responses, self.latency)

    def refused(self, cause: AnyCause) -> None:
        self._errors.counter({"error": ANSWERS[cause].label}).value += 1

    def handshake_failed(self, reason: str) -> None:
        self._failures.counter({"direction": self.direction, "reason": reason}).value += 1

    def connect_failed(self, cause: Cause) -> None:
        self._tcp_errors.counter({"error": ANSWERS[cause].label}).value += 1


class OutboundTelemetry(DirectionTelemetry):
    """What only the outbound side counts: logical requests and retries."""

    def __init__(self, registry: Registry, identity_enabled: bool) -> None:
        super().__init__(registry, "outbound", identity_enabled)
        route = "outbound_http_route"
        self.route_statuses = registry.counters(
            f"{route}_request_statuses_total", "Answers given to clients, by route and status."
        )
        self.retry_requests = registry.counters(f"{route}_retry_requests_total", "Retries sent.")
        self.retry_successes = registry.counters(f"{route}_retry_successes_total", "Requests that a retry saved.")
        self.retry_limit_exceeded = registry.counters(
            f"{route}_retry_limit_exceeded_total",
            "Requests whose last answer would have been retried but for the limit.",
        )
        self.profile_requests = registry.counters(
            "route_request_total", "Logical requests of a ServiceProfile's route."
        )
        self.profile_responses = registry.counters("route_response_total", "Logical responses, classified.")
        self.profile_actual_requests = registry.counters("route_actual_request_total", "Requests, retries included.")
        self.profile_retryable = registry.counters("route_retryable_total", "Responses that were retried.")
        self.profile_retry_skipped = registry.counters(
            "route_retry_skipped_total", "Responses that would have been retried but for the budget."
        )

    def route(self, labels: Mapping[str, str], profile: Mapping[str, str] | None) -> RouteSeries:
        return RouteSeries(self, render_labels(labels), render_labels(profile) if profile is not None else None)


class ProcessTelemetry:
    """`process_*`, `proxy_build_info` and how late the loop runs."""

    def __init__(self, registry: Registry, version: str) -> None:
        self._started = time.time()
        registry.gauges("proxy_build_info", "Version of this proxy.").counter({"version": version}).value = 1
        registry.gauges(
            "process_start_time_seconds", "Unix second at which the process started."
        ).counter().value = self._started
        registry.collect(
            "process_cpu_seconds_total", "counter", "User and system CPU time.", lambda: [({}, time.process_time())]
        )
        registry.collect(
            "process_resident_memory_bytes", "gauge", "Resident set size.", lambda: [({}, float(resident_bytes()))]
        )
        registry.collect("process_open_fds", "gauge", "Open file descriptors.", lambda: [({}, float(_open_files()))])
        self.loop_lag = registry.gauges(
            "proxy_loop_lag_seconds", "Worst delay of a timer since the last scrape."
        ).counter()


def resident_bytes() -> int:
    """Resident set size now (Linux), or its peak where the system tells no more (macOS)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        import resource  # only where /proc is missing

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _open_files() -> int:
    for directory in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(directory))
        except FileNotFoundError:
            continue
    return 0
