"""What was measured, in exactly the quantities that the twin predicts (defined in `sim.results`).

Everything a user feels is taken from the client's own record of each request, timed from the intended send; what the
mesh did (attempts per request) from the proxies' counters. Comparing a forecast with Linkerd's latency histogram
instead would cost 14 % of error at the p99 even for a perfect model: its buckets are that coarse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reports.quantiles import percentile
from reports.recovery import course
from reports.run import Run, Window, with_all
from reports.series import Metrics
from reports.slo import Counts, budget_spent
from reports.store import RunStore
from scenarios.model import AppService, Scenario, SloSpec

Key = tuple[str, str, str]
PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def measure(store: RunStore, scenario: Scenario, windows: Mapping[str, Sequence[float]]) -> dict[Key, float]:
    """(quantity, subject, window) → value, for each window given and for `all` of inject and recover.

    A quantity without a value (no request, no answer, no caller) is left out.
    """
    return measure_run(Run(store), scenario, windows)


def measure_run(run: Run, scenario: Scenario, windows: Mapping[str, Sequence[float]]) -> dict[Key, float]:
    """`measure`, for one who has the run open.

    Beside the twin's quantities it has what expectations may claim: `handshake_failures` of each service and of all
    (subject ""), `recovery_seconds` of each SLO, and the request quantities of all requests together (subject "").
    """
    measured: dict[Key, float] = {}
    everything = SloSpec("", None, None, None, objective=0.0)
    courses = {slo.name: course(run, slo) for slo in scenario.slos}
    for name, bounds in with_all(windows).items():
        window = (bounds[0], bounds[1])
        for slo in (*scenario.slos, everything):
            for quantity, value in slo_quantities(run, slo, window, scenario.load.timeout).items():
                measured[quantity, slo.name, name] = value
            recovery = courses[slo.name].recovery_seconds if slo.name in courses else None
            if recovery is not None:
                measured["recovery_seconds", slo.name, name] = recovery
        for service, value in attempts_by_service(run.metrics, scenario, window).items():
            measured["attempts_per_request", service, name] = value
        for subject in ("", *(service.name for service in scenario.app.services)):
            failures = handshake_failures(run.metrics, window, subject or None)
            if failures is not None:
                measured["handshake_failures", subject, name] = failures
    return measured


def slo_quantities(run: Run, slo: SloSpec, window: Window, timeout: float) -> dict[str, float]:
    """success_rate, p50, p95, p99 and budget_spent of one SLO over one window."""
    requests = run.requests(window, slo.route)
    if not requests:
        return {}
    good = sum(request.good(slo.threshold, timeout) for request in requests)
    found = {"success_rate": good / len(requests)}
    latencies = sorted(request.latency for request in requests if request.latency is not None)
    for name, share in PERCENTILES.items():
        value = percentile(latencies, share)
        if value is not None:
            found[name] = value
    if slo.name:
        spent = budget_spent(Counts(good, len(requests)), slo.objective)
        if spent is not None:
            found["budget_spent"] = spent
    return found


def attempts_by_service(metrics: Metrics, scenario: Scenario, window: Window) -> dict[str, float]:
    """attempts_per_request of each service that was called through the mesh in the window."""
    start, end = window
    arrived = metrics.increase_by("request_total", start, end, "@service", direction="inbound")
    found: dict[str, float] = {}
    for service in scenario.app.services:
        meant = logical_requests(metrics, service, start, end)
        if service.meshed and meant > 0:
            found[service.name] = arrived.get(service.name, 0.0) / meant
    return found


def logical_requests(metrics: Metrics, service: AppService, start: float, end: float) -> float:
    """Requests that clients' proxies were asked to send to the service, retries not counted, refused ones included."""
    return sum(
        metrics.rise(series, start, end)
        for series in metrics.series("outbound_http_route_request_statuses_total", parent_name=service.name)
        if series.labels.get("parent_namespace", service.namespace) == service.namespace
    )


def handshake_failures(metrics: Metrics, window: Window, service: str | None = None) -> float | None:
    """TLS handshakes that proxies saw fail (M3), at either end; of one service's proxies or of all.

    None: no proxy reported its handshakes at all, so nothing is known.
    """
    start, end = window
    if not metrics.exists("tls_handshakes_total") and not metrics.exists("tls_handshake_failures_total"):
        return None
    by_service = metrics.increase_by("tls_handshake_failures_total", start, end, "@service")
    return sum(by_service.values()) if service is None else by_service.get(service, 0.0)
