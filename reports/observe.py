"""The baseline window as the twin may see it: reads the store, fills `sim.observation.Observation`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from reports.counters import attempts_by_service
from reports.cpu import cpu_window, start_costs
from reports.mesh_metrics import FIGURES as MESH_FIGURES
from reports.run import Run
from reports.series import EXPIRES, LOAD_SERVICE, REFRESHED, Metrics, Series, cumulative_buckets, pod_of, service_of
from reports.store import RunStore
from scenarios.model import Scenario
from sim.observation import ClientSample, Observation, PodState, RouteTimes
from sim.replication.mesh_figures import FIGURES


def observation(store: RunStore, scenario: Scenario, start: float, end: float) -> Observation:
    """What the window [start, end) showed.

    `good` of a sample follows the tightest SLO of its route (status and timeout alone where no SLO names it).
    """
    run = Run(store)
    return Observation(
        started_at=start,
        ended_at=end,
        requests=_samples(run, scenario, start, end),
        route_times=route_times(run.metrics, start, end),
        attempts=attempts_by_service(run.metrics, scenario, (start, end)),
        pods=pods(run.metrics, end),
        load_pods=max(1, len({pod for pod in _proxied_pods(run.metrics) if service_of(pod) == LOAD_SERVICE})),
        proxy_latency=proxy_latency(run.metrics, start, end),
        cpu=cpu_window(run, scenario, start, end),
        bytes_sent=bytes_sent(run.metrics, start, end),
        starts=start_costs(run),
        world=str(run.meta.get("world", "local")),
        mesh={name: found[0] for name in FIGURES if (found := MESH_FIGURES[name](run, (start, end))) is not None},
    )


def _samples(run: Run, scenario: Scenario, start: float, end: float) -> tuple[ClientSample, ...]:
    thresholds: dict[str, float] = {}
    for slo in scenario.slos:
        if slo.route is not None and slo.threshold is not None:
            thresholds[slo.route] = min(slo.threshold, thresholds.get(slo.route, math.inf))
    return tuple(
        ClientSample(
            request.route,
            request.intended_at,
            request.latency,
            request.good(thresholds.get(request.route), scenario.load.timeout),
        )
        for request in run.requests((start, end))
    )


def route_times(metrics: Metrics, start: float, end: float) -> dict[tuple[str, str], RouteTimes]:
    """Service time by (service, route), from what the workloads counted."""
    sums = _by_route(metrics, "app_service_seconds_sum", start, end)
    counts = _by_route(metrics, "app_service_seconds_count", start, end)
    buckets: dict[tuple[str, str], list[tuple[Series, float]]] = defaultdict(list)
    for series in metrics.series("app_service_seconds_bucket"):
        buckets[_route_key(series)].append((series, metrics.rise(series, start, end)))
    return {
        key: _times(counts[key], sums.get(key, 0.0), buckets.get(key, ())) for key in sorted(counts) if counts[key] > 0
    }


def proxy_latency(metrics: Metrics, start: float, end: float) -> dict[str, RouteTimes]:
    """Inbound latency of each service in seconds, from Linkerd's millisecond histogram."""
    sums = metrics.increase_by("response_latency_ms_sum", start, end, "@service", direction="inbound")
    counts = metrics.increase_by("response_latency_ms_count", start, end, "@service", direction="inbound")
    buckets: dict[str, list[tuple[Series, float]]] = defaultdict(list)
    for series in metrics.series("response_latency_ms_bucket", direction="inbound"):
        buckets[service_of(series.process)].append((series, metrics.rise(series, start, end)))
    return {
        service: _times(counts[service], sums.get(service, 0.0) / 1_000.0, buckets.get(service, ()), unit=1_000.0)
        for service in sorted(counts)
        if counts[service] > 0
    }


def bytes_sent(metrics: Metrics, start: float, end: float) -> dict[str, tuple[float, float]]:
    """Mean bytes of an answer and of a call of each service, from what its proxies wrote to other pods."""

    def mean(direction: str, peer: str, messages: str) -> dict[str, float]:
        written = metrics.increase_by("tcp_write_bytes_total", start, end, "@service", direction=direction, peer=peer)
        counts = metrics.increase_by(messages, start, end, "@service", direction=direction)
        return {name: size / counts[name] for name, size in written.items() if counts.get(name, 0.0) > 0.0}

    answers, calls = mean("inbound", "src", "response_total"), mean("outbound", "dst", "request_total")
    return {name: (size, calls.get(name, 0.0)) for name, size in sorted(answers.items())}


def pods(metrics: Metrics, at: float) -> tuple[PodState, ...]:
    """Every meshed pod that has a certificate at `at`, the load generator's and the control plane's included."""
    refreshed = {_holder(series.process): series.at(at) for series in metrics.series(REFRESHED)}
    found: list[PodState] = []
    for series in metrics.series(EXPIRES):
        pod, expires = _holder(series.process), series.at(at)
        if pod is not None and expires is not None and expires > 0:
            found.append(PodState(pod, service_of(pod), expires, refreshed.get(pod) or 0.0))
    return tuple(sorted(found, key=lambda state: state.name))


def _times(count: float, total: float, rises: Iterable[tuple[Series, float]], unit: float = 1.0) -> RouteTimes:
    cumulative = cumulative_buckets(rises, unit)
    bounds = sorted(cumulative)
    counts = [round(cumulative[bound]) for bound in bounds]
    apart = [counts[0], *(b - a for a, b in pairwise(counts))] if counts else []
    finite = tuple(bound for bound in bounds if not math.isinf(bound))
    return RouteTimes(round(count), total / count, finite, tuple(max(0, n) for n in apart))


def _by_route(metrics: Metrics, name: str, start: float, end: float) -> dict[tuple[str, str], float]:
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for series in metrics.series(name):
        sums[_route_key(series)] += metrics.rise(series, start, end)
    return dict(sums)


def _route_key(series: Series) -> tuple[str, str]:
    return service_of(series.process), series.labels.get("route", "")


def _proxied_pods(metrics: Metrics) -> set[str]:
    return {pod_of(series.process) for series in metrics.series(EXPIRES) if _is_data_plane(series.process)}


def _holder(process: str) -> str | None:
    """The pod whose certificate a process holds: `cart-0/proxy` → `cart-0`, `control/policy` → `linkerd-policy`."""
    if process.startswith("control/"):
        return f"linkerd-{process.removeprefix('control/')}"
    return pod_of(process) if _is_data_plane(process) else None


def _is_data_plane(process: str) -> bool:
    return process.endswith("/proxy")
