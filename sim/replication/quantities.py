"""From a replication's record to the quantities of `sim.results`, in the very way that `reports.measure` counts.

A request belongs to the window of its intended send. Latencies are those of answered requests, quantiles interpolate
between order statistics (numpy's default, type 7), `budget_spent` is the burn rate over the window. Pages, recovery and
metastability are read by `sim.replication.course`, M1-M5 by `sim.replication.mesh_figures`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from scenarios.model import Application, SloSpec
from scenarios.slo import BurnMeter
from sim.model.record import Record
from sim.model.setup import Setup
from sim.replication.course import planned, read_course
from sim.replication.mesh_figures import MESH, between, mesh_figures

Key = tuple[str, str, str]
"""(quantity, subject, window)."""
PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
SCRAPE_SECONDS = 1.0
"""Between two scrapes. At which moment of it a window begins is chance."""
APART_SECONDS = 0.006
"""Standard deviation between the moments at which both ends' proxies are read in one round of scrapes: they
render one after another. In 296 windows of 16 runs tries and requests differed by that beyond what was under way."""
PROMPT = 0.01
"""Seconds after the planned moment at which a fault comes and goes, at the least: never within the second before."""
FAN_QUANTITIES = ("success_rate", "p95", "burn")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Requests:
    """A record as arrays, in order of intended send."""

    route: npt.NDArray[np.str_]
    at: Floats
    latency: Floats
    """NaN: no answer."""
    ok: npt.NDArray[np.bool_]
    """Answered with a status below 500."""

    @staticmethod
    def of(record: Record) -> Requests:
        at = np.asarray(record.intended_at, dtype=np.float64)
        order = np.argsort(at, kind="stable")
        latency = np.asarray([math.nan if v is None else v for v in record.latency], dtype=np.float64)
        status = np.asarray(record.status, dtype=np.int64)
        ok = (status > 0) & (status < 500)
        return Requests(np.asarray(record.route, dtype=np.str_)[order], at[order], latency[order], ok[order])

    def select(self, route: str | None, start: float, end: float) -> Requests:
        """Those of one route (None: all) whose intended send lies in [start, end)."""
        chosen = (self.at >= start) & (self.at < end)
        if route is not None:
            chosen &= self.route == route
        return Requests(self.route[chosen], self.at[chosen], self.latency[chosen], self.ok[chosen])

    def good(self, threshold: float | None, timeout: float) -> npt.NDArray[np.bool_]:
        limit = timeout if threshold is None else min(threshold, timeout)
        with np.errstate(invalid="ignore"):
            return np.asarray(self.ok & (self.latency <= limit), dtype=np.bool_)

    def __len__(self) -> int:
        return len(self.at)


def windows(setup: Setup) -> dict[str, tuple[float, float]]:
    """Seconds from the begin of the inject phase."""
    return {
        "inject": (0.0, setup.inject_seconds),
        "recover": (setup.inject_seconds, setup.end),
        "all": (0.0, setup.end),
    }


def burn(good: int, total: int, objective: float) -> float:
    """Bad requests over those that the objective allows. An objective of 1 allows none: the first bad one is counted
    as a thousand budgets rather than infinitely many, so that intervals stay finite."""
    bad = total - good
    if bad == 0:
        return 0.0
    return bad / total / max(1.0 - objective, 1e-3 / total)


def slo_quantities(requests: Requests, slo: SloSpec, timeout: float) -> dict[str, float]:
    """Of requests already selected; without requests there are none."""
    total = len(requests)
    if total == 0:
        return {}
    good = int(requests.good(slo.threshold, timeout).sum())
    found = {"success_rate": good / total, "budget_spent": burn(good, total, slo.objective)}
    answered = requests.latency[~np.isnan(requests.latency)]
    if len(answered):
        values = np.quantile(answered, list(PERCENTILES.values()))
        found.update(zip(PERCENTILES, (float(v) for v in values), strict=True))
    return found


def called_services(app: Application) -> list[str]:
    """Services that others in the application call, in the order of the file."""
    called = {call.service for s in app.services for r in s.routes for group in r.calls for call in group}
    return [service.name for service in app.services if service.name in called and service.meshed]


def quantities(record: Record, setup: Setup, lag: float = 0.0, scrapes: Random | None = None) -> dict[Key, float]:
    """All quantities of a replication; those without a value are left out.

    `lag`: seconds by which scraped counters lag behind a window's edges, at most a scrape's interval. A counter's value
    at an edge is that of the last scrape before, so what is counted over a window is of one that lies so much earlier.

    Tries over requests are cut at whole seconds, the nearest to that, where the record knows both counts exactly. A try
    counts when it comes and its request when it is answered, so they differ by what is under way at either edge: whole
    requests, one of fifty in a short window. Cut within a second, they came out as smooth shares of one. `scrapes`
    draws how far apart both ends were read; None: not at all.
    """
    whole = float(round(lag))
    ahead = {service: read_ahead(record, service, setup, scrapes) for service in called_services(setup.app)}
    requests = Requests.of(record)
    found: dict[Key, float] = {}
    for window, (start, end) in windows(setup).items():
        by_route: dict[str | None, Requests] = {}
        for slo in setup.slos:
            if slo.route not in by_route:
                by_route[slo.route] = requests.select(slo.route, start, end)
            for quantity, value in slo_quantities(by_route[slo.route], slo, setup.load.timeout).items():
                found[quantity, slo.name, window] = value
        for figure, value in mesh_figures(record, start - lag, end - lag).items():
            found[figure, MESH, window] = value
        for service in called_services(setup.app):
            meant = between(record.meant.get(service, {}), start - whole, end - whole)
            if meant:
                reached = between(record.reached.get(service, {}), start - whole, end - whole)
                reached += ahead[service][end] - ahead[service][start]
                reached -= forgotten(record, service, start - lag, end - lag)
                found["attempts_per_request", service, window] = reached / meant
    found.update(_courses(requests, setup))
    return found


def read_ahead(record: Record, service: str, setup: Setup, scrapes: Random | None) -> dict[float, int]:
    """At each edge of a window, requests that the service had counted when it was read and its callers not yet when
    they were; negative the other way round."""
    edges = {edge for window in windows(setup).values() for edge in window}
    if scrapes is None:
        return dict.fromkeys(edges, 0)
    reached = record.reached.get(service, {})
    return {
        edge: math.floor(between(reached, edge - 1.0, edge) * scrapes.gauss(0.0, APART_SECONDS) + scrapes.random())
        for edge in sorted(edges)
    }


def forgotten(record: Record, service: str, start: float, end: float) -> float:
    """Requests to the service that its killed pods had counted since the last scrape, and nobody ever saw. A window's
    edges are moments of scrapes."""
    lost = 0.0
    for at, killed, share in record.killed:
        if killed == service and start < at < end:
            scraped = at - (at - start) % SCRAPE_SECONDS
            lost += share * between(record.reached.get(service, {}), scraped, at)
    return lost


def _courses(requests: Requests, setup: Setup) -> dict[Key, float]:
    plan = planned(setup.faults)
    found: dict[Key, float] = {}
    if plan is None:
        return found
    seen = (plan[0] + PROMPT, plan[1] + PROMPT)
    for slo in setup.slos:
        meter = meter_of(requests, slo, setup.load.timeout)
        for (quantity, window), value in read_course(meter, slo, plan, seen, setup.end, setup.load.timeout).items():
            found[quantity, slo.name, window] = value
    return found


def meter_of(requests: Requests, slo: SloSpec, timeout: float) -> BurnMeter:
    """The SLO by second; what came before second 0 stands for what came before the record."""
    chosen = requests.select(slo.route, -math.inf, math.inf)
    origin = math.floor(chosen.at[0]) if len(chosen) else 0
    good = chosen.good(slo.threshold, timeout)
    second = np.floor(chosen.at).astype(np.int64) - origin
    totals = np.bincount(second)
    goods = np.bincount(second, weights=good.astype(np.float64))
    past = chosen.at < 0.0
    healthy = int(past.sum())
    rate, ratio = (healthy / -origin, int(good[past].sum()) / healthy) if healthy else (0.0, 1.0)
    meter = BurnMeter(slo.objective, origin, rate, ratio)
    for index, (some, all_) in enumerate(zip(goods.tolist(), totals.tolist(), strict=True)):
        if all_:
            meter.push(origin + index, int(some), all_)
    return meter


def fan_series(record: Record, setup: Setup, step: float) -> dict[tuple[str, str], Floats]:
    """(quantity, slo) → value in each step of the inject and recover windows; NaN where there was no request.

    `burn` is cumulative: bad requests so far over those that the objective allows in the whole of both windows.
    """
    requests = Requests.of(record)
    edges = steps(setup, step)
    count = len(edges)
    found: dict[tuple[str, str], Floats] = {}
    for slo in setup.slos:
        chosen = requests.select(slo.route, 0.0, setup.end)
        index = np.minimum((chosen.at / step).astype(np.int64), count - 1)
        good = chosen.good(slo.threshold, setup.load.timeout)
        totals = np.bincount(index, minlength=count).astype(np.float64)
        goods = np.bincount(index, weights=good.astype(np.float64), minlength=count)
        with np.errstate(invalid="ignore", divide="ignore"):
            found["success_rate", slo.name] = goods / totals
        answered = ~np.isnan(chosen.latency)
        found["p95", slo.name] = quantile_by_step(chosen.latency[answered], index[answered], count, 0.95)
        allowed = max((1.0 - slo.objective) * max(1, len(chosen)), 1e-3)
        found["burn", slo.name] = np.cumsum(totals - goods) / allowed
    return found


def quantile_by_step(values: Floats, step: npt.NDArray[np.int64], count: int, share: float) -> Floats:
    """`np.quantile` of the values of each of `count` steps, NaN where there are none. All steps at once: one call for
    each took a fifth of a whole replication."""
    ascending = values[np.lexsort((values, step))]
    sizes = np.bincount(step, minlength=count)
    found = np.full(count, np.nan)
    some = sizes > 0
    begin, last = (np.cumsum(sizes) - sizes)[some], sizes[some] - 1
    position = share * last
    below = np.floor(position).astype(np.int64)
    low, high = ascending[begin + below], ascending[begin + np.minimum(below + 1, last)]
    part = position - below
    # From the nearer end, as numpy does, so that rounding is the same.
    found[some] = np.where(part >= 0.5, high - (high - low) * (1 - part), low + (high - low) * part)
    return found


def steps(setup: Setup, step: float) -> tuple[float, ...]:
    """Begin of each step."""
    return tuple(step * i for i in range(max(1, math.ceil(setup.end / step - 1e-9))))
