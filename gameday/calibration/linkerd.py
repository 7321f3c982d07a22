"""What Linkerd's proxies counted, as evidence: latencies at servers and clients, load over time, failures.

    response_latency_ms_{bucket,sum,count}     direction inbound: at the server's proxy; outbound: at the client's
    response_total{classification}             failures
    route_response_latency_ms_*{rt_route}      the same by route, where a ServiceProfile names routes as the file does
    outbound_http_route_request_duration_seconds_*{parent_name}    clients' side, where response_latency_ms has none

A service is found by `deployment` (or statefulset, daemonset, or the pod's name) and `namespace`, as Linkerd's
Prometheus config relabels them; a destination by `authority`, `dst_service` or `dst_deployment`. Each metric may be
missing: what it would have told is then not told, and a note says so.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from gameday.calibration.telemetry import Counted, Telemetry
from scenarios.model import Application
from sim.observation import LoadPoint, RouteTimes

LATENCY = "response_latency_ms"
ROUTE_LATENCY = "route_response_latency_ms"
DURATION = "outbound_http_route_request_duration_seconds"
RESPONSES = "response_total"
REQUESTS = "request_total"
FAMILIES = (
    *(f"{LATENCY}_{part}" for part in ("bucket", "sum", "count")),
    *(f"{ROUTE_LATENCY}_{part}" for part in ("bucket", "sum", "count")),
    *(f"{DURATION}_{part}" for part in ("bucket", "sum", "count")),
    RESPONSES,
    REQUESTS,
    "process_start_time_seconds",
)
WORKLOADS = ("deployment", "statefulset", "daemonset", "replicaset", "replicationcontroller", "workload_name")
PROBES = {"probe", "prometheus-scrape"}
_POD = re.compile(r"(?P<name>.+?)(-[a-f0-9]{6,10})?-([a-z0-9]{5}|\d+)$")
RouteKey = tuple[str, str]
_KeyOf = Callable[[str, Mapping[str, str]], RouteKey | None]
"""(service, labels) -> route key, or None for a series of no route of ours."""


@dataclass(frozen=True, slots=True)
class ProxyEvidence:
    """What `sim.observation.Observation` takes of it."""

    inbound: dict[RouteKey, RouteTimes]
    outbound: dict[RouteKey, RouteTimes]
    load_points: tuple[LoadPoint, ...]
    answers: tuple[int, int] | None


class Reader:
    """Reads one application's services out of what was scraped."""

    def __init__(self, telemetry: Telemetry, app: Application) -> None:
        self._telemetry = telemetry
        self._app = app
        self._names = {(service.name, service.namespace): service.name for service in app.services}
        self.notes: list[str] = []

    def read(self) -> ProxyEvidence:
        """All that is there."""
        inbound = self._latencies(LATENCY, "inbound", 1e-3) | self._routes("inbound")
        outbound = self._latencies(LATENCY, "outbound", 1e-3) or self._latencies(DURATION, "outbound", 1.0)
        outbound |= self._routes("outbound")
        points = tuple(self._load_points())
        answers = self._answers()
        for name, lost in (
            (f"{LATENCY}_bucket", "the shape of service times"),
            (f"{LATENCY}_sum", "exact mean latencies"),
            (RESPONSES, "failures"),
        ):
            if name not in self._telemetry.by_name:
                self.notes.append(f"{name} is missing: {lost} cannot be told")
        return ProxyEvidence(inbound, outbound, points, answers)

    # ---- whose a series is

    def server(self, series: Counted) -> str | None:
        """The service whose proxy counted it."""
        labels = series.labels
        namespace = labels.get("namespace")
        names = [labels[label] for label in WORKLOADS if labels.get(label)]
        pod = _POD.fullmatch(labels.get("pod", ""))
        if pod is not None:
            names.append(pod["name"])
        if not names and len(self._app.services) == 1:
            return self._app.services[0].name  # the page of one proxy, which does not say whose it is
        return self._known(names, namespace)

    def destination(self, series: Counted) -> str | None:
        """The service that a client's proxy sent it to."""
        labels = series.labels
        for authority in (labels.get("authority"), labels.get("dst")):
            parts = (authority or "").partition(":")[0].split(".")
            if len(parts) >= 2:
                known = self._known([parts[0]], parts[1])
                if known is not None:
                    return known
        names = [labels[f"dst_{kind}"] for kind in ("service", *WORKLOADS) if labels.get(f"dst_{kind}")]
        names += [labels["parent_name"]] if labels.get("parent_name") else []
        return self._known(names, labels.get("dst_namespace") or labels.get("parent_namespace"))

    def _known(self, names: Iterable[str], namespace: str | None) -> str | None:
        for name in names:
            if namespace is not None:
                if (name, namespace) in self._names:
                    return name
            elif name in self._names.values():
                return name
        return None

    # ---- latencies

    def _latencies(self, metric: str, direction: str, unit: float) -> dict[RouteKey, RouteTimes]:
        return self._gathered(metric, direction, unit, _whole)

    def _routes(self, direction: str) -> dict[RouteKey, RouteTimes]:
        named = {(s.name, r.name) for s in self._app.services for r in s.routes}

        def key(service: str, labels: Mapping[str, str]) -> RouteKey | None:
            found = (service, labels.get("rt_route", ""))
            return found if found in named else None

        return self._gathered(ROUTE_LATENCY, direction, 1e-3, key)

    def _gathered(self, metric: str, direction: str, unit: float, key_of: _KeyOf) -> dict[RouteKey, RouteTimes]:
        sums: dict[RouteKey, float] = defaultdict(float)
        counts: dict[RouteKey, float] = defaultdict(float)
        buckets: dict[RouteKey, dict[tuple[object, ...], dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
        for part, series, key in self._of(metric, direction, key_of):
            risen = self._telemetry.rise(series)
            if part == "sum":
                sums[key] += risen
            elif part == "count":
                counts[key] += risen
            else:
                bound = _bound(series.labels.get("le", ""))
                if bound is None:
                    self._say(f"{metric}_bucket has a bucket without a readable `le`: left out")
                    continue
                one = tuple(sorted(item for item in series.labels.items() if item[0] != "le"))
                buckets[key][one][bound] = buckets[key][one].get(bound, 0.0) + risen
        found: dict[RouteKey, RouteTimes] = {}
        for key in sorted({*sums, *counts, *buckets}):
            times = self._times(metric, key, sums.get(key), counts.get(key), list(buckets.get(key, {}).values()), unit)
            if times is not None:
                found[key] = times
        return found

    def _of(self, metric: str, direction: str, key_of: _KeyOf) -> Iterable[tuple[str, Counted, RouteKey]]:
        for part in ("sum", "count", "bucket"):
            for series in self._telemetry.series(f"{metric}_{part}"):
                labels = series.labels
                if metric != DURATION and labels.get("direction") != direction:
                    continue
                if labels.get("srv_name") in PROBES or labels.get("route_name") in PROBES:
                    continue
                service = self.server(series) if direction == "inbound" else self.destination(series)
                key = key_of(service, labels) if service is not None else None
                if key is not None:
                    yield part, series, key

    def _times(
        self,
        metric: str,
        key: RouteKey,
        total: float | None,
        count: float | None,
        histograms: list[dict[float, float]],
        unit: float,
    ) -> RouteTimes | None:
        """One route's, from whichever of sum, count and buckets are there; None where that is no latency."""
        common = sorted(set.intersection(*(set(h) for h in histograms))) if histograms else []
        if histograms and any(set(h) != set(common) for h in histograms):
            self._say(f"{metric}: processes have histograms of different buckets; only the common bounds are used")
        cumulative = [sum(h[bound] for h in histograms) for bound in common]
        if count is None:
            count = cumulative[-1] if common and math.isinf(common[-1]) else None
        if count is None or round(count) <= 0:
            return None
        finite = [bound * unit for bound in common if math.isfinite(bound)]
        apart: list[int] = []
        if finite:
            ups = [*cumulative[: len(finite)], max(count, *cumulative)]
            if any(b < a - 0.5 for a, b in pairwise(ups)):
                self._say(f"{metric} of {key[0]}: its buckets do not add up (a scrape between two updates?)")
            apart = [max(0, round(b - a)) for a, b in pairwise([0.0, *ups])]
        mean = total * unit / count if total is not None and total > 0 else _mean_of(finite, apart)
        if mean is None or mean <= 0:
            return None
        return RouteTimes(round(count), mean, tuple(finite), tuple(apart))

    # ---- load and failures

    def _load_points(self) -> Iterable[LoadPoint]:
        """Per service and interval."""
        interval = self._telemetry.interval
        if interval is None:
            return
        counts: dict[str, list[float]] = {}
        sums: dict[str, list[float]] = {}
        for part, series, (service, _) in self._of(LATENCY, "inbound", _whole):
            if part == "bucket":
                continue
            columns, rises = counts if part == "count" else sums, self._telemetry.by_interval(series)
            columns[service] = [a + b for a, b in zip(columns.get(service, [0.0] * len(rises)), rises, strict=True)]
        for service, column in counts.items():
            for count, total in zip(column, sums.get(service, [0.0] * len(column)), strict=True):
                yield LoadPoint(service, interval, count, total / count / 1e3 if count >= 1 and total > 0 else None)

    def _answers(self) -> tuple[int, int] | None:
        entries = {journey.steps[0].service for journey in self._app.journeys if journey.steps}
        failed = total = 0.0
        seen = False
        for series in self._telemetry.series(RESPONSES, direction="inbound"):
            if self.server(series) in entries and "classification" in series.labels:
                seen = True
                risen = self._telemetry.rise(series)
                total += risen
                failed += risen if series.labels["classification"] == "failure" else 0.0
        return (round(failed), round(total)) if seen else None

    def _say(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _whole(service: str, _: Mapping[str, str]) -> RouteKey | None:
    return service, ""


def _bound(text: str) -> float | None:
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound


def _mean_of(bounds: list[float], counts: list[int]) -> float | None:
    """From buckets alone: each count at the geometric middle of its bucket."""
    total = sum(counts)
    if not bounds or not total:
        return None
    middles = [bounds[0] / 2, *(math.sqrt(a * b) for a, b in pairwise(bounds)), bounds[-1] * 1.5]
    return sum(m * n for m, n in zip(middles, counts, strict=True)) / total
