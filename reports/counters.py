"""What proxies' counters say of one window: attempts per request, handshakes that failed."""

from __future__ import annotations

from reports.run import Window
from reports.series import Metrics
from scenarios.model import AppService, Scenario


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
