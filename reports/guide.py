"""The guide's tables: failure modes F1–F7 and metrics M1–M10, with what each means on this mesh.

Targets are the guide's starting points, kept even where a drill must miss them: a drill that breaks things and meets
every target has broken nothing. M9's seven days cannot be asked of a leaf that lives a day (or seconds, in a drill), so
it is read as the margin that a healthy renewal keeps: renewal comes at 70 % of the remaining life, so a leaf with less
than a quarter of its life left has missed one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FailureMode:
    """One row of the guide's table of failure modes."""

    id: str
    name: str
    symptom: str
    signal: str
    """What the guide says one observes."""
    metrics: tuple[str, ...]
    """Figures of M1–M10 that show it here."""
    kinds: tuple[str, ...]
    """Fault kinds of ours that exercise it."""


FAILURE_MODES: tuple[FailureMode, ...] = (
    FailureMode(
        "F1", "Control plane down", "No new policy rollout", "Controller restarts", ("M8",), ("control-plane-down",)
    ),
    FailureMode("F2", "Proxy OOM", "Pod restarts frequently", "Container OOMKilled", ("M7",), ("proxy-oom",)),
    FailureMode(
        "F3", "Certificate expiry", "mTLS handshake failures", "TLS handshake errors", ("M3", "M9"), ("cert-expiry",)
    ),
    FailureMode("F4", "Retry storm", "Increased latency and errors", "Higher retry rate", ("M4",), ("app-degrade",)),
    FailureMode(
        "F5", "Telemetry loss", "Missing metrics and traces", "Drop rate in the exporter", ("M10",), ("telemetry-loss",)
    ),
    FailureMode("F6", "Misrouting", "404s or wrong backend", "Route mismatch counters", ("M1",), ("misroute",)),
    FailureMode(
        "F7",
        "Network throttling",
        "High latency across services",
        "Round-trip time, retransmits",
        ("M2",),
        ("network-throttle",),
    ),
)


@dataclass(frozen=True, slots=True)
class GuideMetric:
    """One row of the guide's table of metrics."""

    id: str
    name: str
    unit: str
    """ratio | seconds | count | per second | bytes"""
    target: float | None
    """None: the target is the run's own baseline."""
    target_text: str
    holds: Callable[[float, float], bool]
    """(measured, target) → whether it is met."""
    source: str
    """Where the figure comes from."""


def _at_least(measured: float, target: float) -> bool:
    return measured >= target


def _at_most(measured: float, target: float) -> bool:
    return measured <= target


def _below(measured: float, target: float) -> bool:
    return measured < target


METRICS: tuple[GuideMetric, ...] = (
    GuideMetric(
        "M1", "Request success rate", "ratio", 0.999, "≥ 99.9 %", _at_least,
        "logical requests at the client proxies with a status below 500",
    ),
    GuideMetric(
        "M2", "Request latency p95", "seconds", 0.3, "≤ 300 ms", _at_most,
        "response_latency_ms at the proxy where load enters, Prometheus quantile",
    ),
    GuideMetric(
        "M3", "mTLS handshake failures", "count", 0.0, "0", _at_most,
        "tls_handshake_failures_total at either end of a connection",
    ),
    GuideMetric(
        "M4", "Retry rate", "ratio", 0.02, "< 2 %", _below, "retries over logical requests at the client proxies"
    ),
    GuideMetric(
        "M5", "Request throughput", "per second", None, "≥ 90 % of baseline", _at_least,
        "requests that reached the application services, at their proxies",
    ),
    GuideMetric(
        "M6", "Proxy CPU usage", "ratio", 0.10, "< 10 % of pod CPU", _below,
        "CPU time of the worst proxy over that of its pod, proxy and app",
    ),
    GuideMetric("M7", "Proxy memory usage", "bytes", 150e6, "< 150 MB", _below, "largest resident set of any proxy"),
    GuideMetric(
        "M8", "Config propagation", "seconds", 5.0, "low seconds (≤ 5 s)", _at_most,
        "control_update_latency_seconds: published to applied, mean",
    ),
    GuideMetric(
        "M9", "Certificate life left", "ratio", 0.25, "> 7 days; here ≥ 25 % of a leaf's life", _at_least,
        "shortest life left of any proxy's leaf over the leaf lifetime",
    ),
    GuideMetric("M10", "Telemetry drop rate", "ratio", 0.0, "0 %", _at_most, "scrapes that failed over scrapes due"),
)  # fmt: skip

THROUGHPUT_SHARE = 0.9
"""M5 is met while throughput stays at or above this share of the baseline's."""
