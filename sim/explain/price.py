"""What a change costs on a day when nothing happens: the same system without faults, with and without the change.

Days are paired and played in full; each figure is the median of the differences. Capacity and certificates are counted,
not played. What a price leaves out is said in docs/counterfactuals.md: money, risk, and people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from sim.explain.explanation import Price
from sim.explain.trial import Day
from sim.knobs.changes import renewal_period
from sim.model.setup import Setup
from sim.replication.quantities import called_services
from sim.replication.replicate import Task

PRICE_DAYS, PRICE_ROUND = 8, 4


def healthy(task: Task) -> Task:
    """The task's system on a day without faults."""
    return replace(task, setup=replace(task.setup, faults=()))


def price(before: Setup, after: Setup, plain: Sequence[Day], changed: Sequence[Day]) -> Price | None:
    """The change's price from paired healthy days; None where no request was answered on them."""
    rows = []
    for slo in before.slos:
        figures = {}
        for quantity in ("p50", "p99", "success_rate"):
            key = (quantity, slo.name, "all")
            pairs = [
                (a.values[key], b.values[key])
                for a, b in zip(plain, changed, strict=True)
                if key in a.values and key in b.values
            ]
            if pairs:
                figures[quantity] = (median(b for _, b in pairs), median(b - a for a, b in pairs))
        if len(figures) == 3:
            rows.append((slo.name, figures))
    if not rows:
        return None
    name, shown = max(rows, key=lambda row: row[1]["p99"][1] / max(row[1]["p99"][0], 1e-9))
    tries = [
        (median(_attempts(day, s) for day in changed), median(_paired(plain, changed, s)))
        for s in called_services(before.app)
    ]
    attempts, attempts_change = max(tries, key=lambda pair: abs(pair[1]), default=(1.0, 0.0))
    return Price(
        slo=name,
        p50=shown["p50"][0],
        p50_change=shown["p50"][1],
        p99=shown["p99"][0],
        p99_change=shown["p99"][1],
        success_change=min(figures["success_rate"][1] for _, figures in rows),
        attempts=attempts,
        attempts_change=attempts_change,
        work_change=median(b.hops / max(a.hops, 1) - 1.0 for a, b in zip(plain, changed, strict=True)),
        pods=_pods(after) - _pods(before),
        places=_places(after) - _places(before),
        certificates_per_minute=_certificates(after) - _certificates(before),
        replications=len(changed),
    )


def _attempts(day: Day, service: str) -> float:
    return day.values.get(("attempts_per_request", service, "all"), 1.0)


def _paired(plain: Sequence[Day], changed: Sequence[Day], service: str) -> list[float]:
    return [_attempts(b, service) - _attempts(a, service) for a, b in zip(plain, changed, strict=True)]


def _pods(setup: Setup) -> int:
    return sum(service.replicas for service in setup.app.services)


def _places(setup: Setup) -> int:
    return sum(service.replicas * (service.workers + service.queue) for service in setup.app.services)


def _certificates(setup: Setup) -> float:
    meshed = sum(service.replicas for service in setup.app.services if service.meshed) + setup.load_pods
    return 60.0 * meshed / renewal_period(setup.identity)
