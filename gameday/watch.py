"""What the runner knows of the SLOs while the run goes on: the input of the abort guard and of the live view.

Reads the load driver's output as it grows, writes each request to the run store, and keeps one (good, bad) count per
SLO and second. A request belongs to the second of its intended send; it is known only once it is over, so a second's
count can still grow by the load's timeout, and the guard looks at seconds as they stand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.results import ResultTail
from reports.store import Request, RunStore
from scenarios.model import Scenario, SloSpec


@dataclass(slots=True)
class Counts:
    good: int = 0
    bad: int = 0

    @property
    def total(self) -> int:
        return self.good + self.bad


@dataclass(slots=True)
class SloSeries:
    """Counts per second of the Unix clock."""

    spec: SloSpec
    seconds: dict[int, Counts] = field(default_factory=lambda: defaultdict(Counts))

    def window(self, start: float, end: float) -> Counts:
        """Counts of the seconds in [start, end)."""
        total = Counts()
        for second in range(int(start), int(end)):
            counts = self.seconds.get(second)
            if counts is not None:
                total.good += counts.good
                total.bad += counts.bad
        return total

    def burn_rate(self, start: float, end: float) -> float:
        """Error ratio over the ratio that the objective allows; 0 without requests."""
        counts = self.window(start, end)
        if counts.total == 0:
            return 0.0
        return (counts.bad / counts.total) / (1.0 - self.spec.objective)


class LoadWatch:
    """Feeds the store and the series from the load driver's file."""

    def __init__(self, scenario: Scenario, output: Path, store: RunStore) -> None:
        self._timeout = scenario.load.timeout
        self._tail = ResultTail(output)
        self._store = store
        self.series = {slo.name: SloSeries(slo) for slo in scenario.slos}
        self.total = 0
        self.dropped = 0

    def poll(self) -> int:
        """Takes in what was written since the last call; returns how many requests."""
        requests = [
            Request(r.route, r.journey, r.intended_at, r.sent_at, r.finished_at, r.status, r.error, r.trace_id)
            for r in self._tail.read()
        ]
        self._store.add_requests(requests)
        self._count(requests)
        return len(requests)

    def _count(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.total += 1
            self.dropped += request.sent_at is None
            second = int(request.intended_at)
            for series in self.series.values():
                route = series.spec.route
                if route is None or route == request.route:
                    counts = series.seconds[second]
                    if request.good(series.spec.threshold, self._timeout):
                        counts.good += 1
                    else:
                        counts.bad += 1
