"""The proxy's own metrics: names, help and buckets, and who hands out the series (`mesh.proxy.series`).

Names and labels are linkerd2-proxy's. Labels come from the control plane's objects and from config. Where a name may
come off the wire (the authority of a destination that discovery does not know) the registry's cap on a family bounds
it.

Ours, because Linkerd has none: `tls_handshakes_total{direction}`, `tls_handshake_failures_total{direction,reason}`,
`outbound_http_resent_total` (requests dispatched anew because their connection was closed under them),
`control_update_latency_seconds` (a change's publication to its application), `proxy_loop_lag_seconds`.

`tcp_{read,write}_bytes_total` count what HTTP reads and writes, without TLS framing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from mesh.behavior.outcome import Cause
from mesh.proxy.metrics import LATENCY_BUCKETS_MS, Counter, Registry, Sample, render_labels
from mesh.proxy.series import (
    BalancerFamilies,
    BalancerSeries,
    BalancerState,
    EndpointSeries,
    ProfileFamilies,
    RouteFamilies,
    RouteSeries,
    TcpSeries,
)
from mesh.proxy.wire.errors import ANSWERS, AnyCause

__all__ = [
    "UPDATE_LATENCY_BUCKETS",
    "BalancerSeries",
    "BalancerState",
    "ConnectionWitness",
    "ControlSeries",
    "DirectionTelemetry",
    "EndpointSeries",
    "OutboundTelemetry",
    "ProcessTelemetry",
    "RouteSeries",
    "TcpSeries",
    "resident_bytes",
]

UPDATE_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

NO_TLS_REASON = {"inbound": "no_tls_from_remote", "outbound": "not_provided_by_service_discovery"}
"""Why a connection that could have been meshed is not, in Linkerd's words; a caller that knows better says so."""


class ConnectionWitness(Protocol):
    """Hears of connections that failed (`mesh.proxy.recorder.Recorder`)."""

    def connection_failed(self, direction: str, cause: str, reason: str, peer: str) -> None: ...


class DirectionTelemetry:
    """What both directions count."""

    def __init__(self, registry: Registry, direction: str, identity_enabled: bool) -> None:
        self.registry = registry
        self.direction = direction
        self.witness: ConnectionWitness | None = None
        self._identity_enabled = identity_enabled
        labels = {"direction": direction}
        self.requests = registry.counters("request_total", "Requests sent to an endpoint or received from a client.")
        self.responses = registry.counters("response_total", "Responses, classified.")
        self.latency = registry.histograms(
            "response_latency_ms", "Time from request to response headers.", LATENCY_BUCKETS_MS
        )
        self._errors = registry.counters(f"{direction}_http_errors_total", "Answers that the proxy made itself.")
        self._malformed = registry.counters(
            f"{direction}_http_refused_total", "Requests that were no HTTP that a proxy may pass on, by what was wrong."
        )
        self._refusals: dict[AnyCause, tuple[Counter, ...]] = {}
        self._tcp = (
            registry.counters("tcp_open_total", "Connections opened."),
            registry.counters("tcp_close_total", "Connections closed."),
            registry.counters("tcp_read_bytes_total", "Bytes read."),
            registry.counters("tcp_write_bytes_total", "Bytes written."),
        )
        self._open: dict[tuple[str, str, str], TcpSeries] = {}
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

    def tcp(self, peer: str, tls: str, no_tls_reason: str = "") -> TcpSeries:
        """`peer`: src for connections that clients opened to us, dst for those that we opened."""
        key = (peer, tls, no_tls_reason)
        series = self._open.get(key)
        if series is None:
            labels = self._with_reason(
                {"direction": self.direction, "peer": peer, "tls": tls, "no_tls_reason": no_tls_reason}
            )
            series = self._open[key] = TcpSeries(labels, *self._tcp)
        return series

    def tcp_to(self, identity: str | None) -> TcpSeries:
        return self.tcp("dst", self.tls_label(identity is not None))

    def open_connections(self) -> list[tuple[dict[str, str], float]]:
        """Labels and count of connections now open."""
        return [(series.labels, series.open) for series in self._open.values()]

    def endpoint(self, labels: Mapping[str, str]) -> EndpointSeries:
        text = render_labels(self._with_reason(labels))
        return EndpointSeries(text, self.requests, self.responses, self.latency)

    def refused(self, cause: AnyCause) -> None:
        """The proxy answers a request by itself."""
        series = self._refusals.get(cause)
        if series is None:
            answer = ANSWERS[cause]
            errors = [self._errors.counter({"error": answer.label})] if answer.label else []
            malformed = [self._malformed.counter({"cause": answer.refused})] if answer.refused else []
            series = self._refusals[cause] = (*errors, *malformed)
        for counter in series:
            counter.value += 1

    def handshake_failed(self, reason: str, peer: str = "") -> None:
        """`peer`: `ip:port` at the other end, for the flight recorder."""
        self._failures.counter({"direction": self.direction, "reason": reason}).value += 1
        if self.witness is not None:
            self.witness.connection_failed(self.direction, "tls handshake", reason, peer)

    def connect_failed(self, cause: Cause, peer: str = "") -> None:
        label = ANSWERS[cause].label
        self._tcp_errors.counter({"error": label}).value += 1
        if self.witness is not None:
            self.witness.connection_failed(self.direction, "connect", label, peer)

    def tcp_failed(self, error: str, peer: str = "") -> None:
        """A connection of opaque TCP could not be served: fail-fast, detection timeout, a refusal by policy …"""
        self._tcp_errors.counter({"error": error}).value += 1
        if self.witness is not None:
            self.witness.connection_failed(self.direction, "tcp", error, peer)

    def _with_reason(self, labels: Mapping[str, str]) -> dict[str, str]:
        full = dict(labels)
        if full.get("tls") == "no_identity" and not full.get("no_tls_reason"):
            full["no_tls_reason"] = NO_TLS_REASON[self.direction]
        return full


class OutboundTelemetry(DirectionTelemetry):
    """What only the outbound side counts: logical requests, retries, backends, balancers."""

    def __init__(self, registry: Registry, identity_enabled: bool) -> None:
        super().__init__(registry, "outbound", identity_enabled)
        self.http = RouteFamilies(registry, "http")
        self.grpc = RouteFamilies(registry, "grpc")
        self.profiles = ProfileFamilies(registry)
        self._balancers = {protocol: BalancerFamilies(registry, protocol) for protocol in ("http", "tcp")}

    def route(self, labels: Mapping[str, str], profile: Mapping[str, str] | None, *, grpc: bool = False) -> RouteSeries:
        """`labels`: `parent_labels` and `route_labels`; `profile`: those of `route_*`, where a profile rules."""
        families = self.grpc if grpc else self.http
        text = render_labels(profile) if profile is not None else None
        return RouteSeries(families, render_labels(labels), self.profiles, text)

    def balancer(
        self, labels: Mapping[str, str], read: Callable[[], BalancerState | None], *, protocol: str = "http"
    ) -> BalancerSeries:
        """`labels`: `parent_labels` and `backend_labels`. Close it with the balancer."""
        return BalancerSeries(self._balancers[protocol], labels, read)


class ControlSeries:
    """Requests to one service of the control plane."""

    def __init__(self, registry: Registry, addr: str) -> None:
        self._addr = addr
        self.requests = registry.counters("control_request_total", "Requests to the control plane.").counter(
            {"addr": addr}
        )
        self._responses = registry.counters("control_response_total", "Answers of the control plane.")
        self._latency = registry.histograms(
            "control_response_latency_ms", "Time from request to response headers.", LATENCY_BUCKETS_MS
        ).histogram({"addr": addr})

    def answered(self, outcome: str, failed: bool, seconds: float | None = None) -> None:
        """`outcome`: the status, or what there was instead of one."""
        labels = {"addr": self._addr, "classification": "failure" if failed else "success"}
        labels["status_code" if outcome.isdigit() else "error"] = outcome
        self._responses.counter(labels).value += 1
        if seconds is not None:
            self._latency.observe(seconds * 1000.0)


class ProcessTelemetry:
    """`process_*`, `proxy_build_info` and how late the loop runs."""

    def __init__(self, registry: Registry, version: str) -> None:
        self._started = time.time()
        registry.gauges("proxy_build_info", "Version of this proxy.").counter({"version": version}).value = 1
        registry.gauges(
            "process_start_time_seconds", "Unix second at which the process started."
        ).counter().value = self._started
        for name, kind, help_text, read in (
            ("process_cpu_seconds_total", "counter", "User and system CPU time.", time.process_time),
            ("process_uptime_seconds_total", "counter", "Seconds since the start.", self._uptime),
            ("process_resident_memory_bytes", "gauge", "Resident set size.", lambda: float(resident_bytes())),
            ("process_virtual_memory_bytes", "gauge", "Virtual memory size.", lambda: float(_memory_bytes(0))),
            ("process_open_fds", "gauge", "Open file descriptors.", lambda: float(_open_files())),
            ("process_max_fds", "gauge", "File descriptors that may be open.", _most_files),
            ("process_threads", "gauge", "Threads.", lambda: float(threading.active_count())),
        ):
            registry.collect(name, kind, help_text, _unlabelled(read))
        self.loop_lag = registry.gauges(
            "proxy_loop_lag_seconds", "Worst delay of a timer since the last scrape."
        ).counter()

    def _uptime(self) -> float:
        return time.time() - self._started


def _unlabelled(read: Callable[[], float]) -> Callable[[], list[Sample]]:
    return lambda: [({}, read())]


def resident_bytes() -> int:
    """Resident set size now (Linux), or its peak where the system tells no more (macOS)."""
    size = _memory_bytes(1)
    if size:
        return size
    import resource  # only where /proc is missing

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _memory_bytes(field: int) -> int:
    """A field of /proc/self/statm; 0 where the system has none."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[field]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return 0


def _most_files() -> float:
    import resource  # 1 ms to import, wanted by scrapes only

    return float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _open_files() -> int:
    for directory in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(directory))
        except FileNotFoundError:
            continue
    return 0
