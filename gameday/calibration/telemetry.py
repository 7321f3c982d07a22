"""Counters over a window, whatever they came from: the common form of a Prometheus's answer, a dump, two snapshots.

A counter that falls was reset and counts from 0 again; what it had counted after the last scrape is lost, and is said.
A series that first appears inside the window counts from 0 where its process was seen before (a first failure is one),
and from its first value otherwise (a target found late has counted for who knows how long).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

Labels = Mapping[str, str]
START_TIME = "process_start_time_seconds"


@dataclass(frozen=True, slots=True)
class Counted:
    """One series: samples in order of time."""

    labels: Labels
    samples: tuple[tuple[float, float], ...]
    """(Unix seconds, value)."""

    @property
    def process(self) -> str:
        """Whatever names the process that was scraped."""
        return "/".join(self.labels.get(label, "") for label in ("namespace", "pod", "instance"))


@dataclass
class Telemetry:
    """All series of a window."""

    by_name: dict[str, list[Counted]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _resets: set[str] = field(default_factory=set)
    _first_seen: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, labels: Labels, samples: Iterable[tuple[float, float]]) -> None:
        """Non-numbers are left out."""
        kept = tuple(sorted((t, v) for t, v in samples if math.isfinite(t) and math.isfinite(v)))
        if kept:
            series = Counted(labels, kept)
            self.by_name.setdefault(name, []).append(series)
            self._first_seen[series.process] = min(kept[0][0], self._first_seen.get(series.process, math.inf))

    def series(self, name: str, **match: str) -> Iterator[Counted]:
        """Those whose labels equal `match`."""
        for series in self.by_name.get(name, ()):
            if all(series.labels.get(label) == value for label, value in match.items()):
                yield series

    @property
    def window(self) -> tuple[float, float] | None:
        """Whole intervals in which every typical series counted. Targets are scraped at moments of their own within an
        interval, so from the first sample of any to the last of any is longer than what each has seen."""
        interval = self.interval
        known = [series.samples for each in self.by_name.values() for series in each]
        if not known or not interval:
            return None
        most = max(len(samples) for samples in known)
        whole = [samples for samples in known if len(samples) >= most - 1]
        start, end = max(samples[0][0] for samples in whole), min(samples[-1][0] for samples in whole)
        steps = max(1, math.floor((end - start) / interval + 0.01))
        return end - steps * interval, end

    @property
    def interval(self) -> float | None:
        """Seconds between two samples of a series, typically."""
        gaps = sorted(b[0] - a[0] for known in self.by_name.values() for s in known for a, b in pairwise(s.samples))
        return gaps[len(gaps) // 2] if gaps else None

    def rises(self, series: Counted) -> list[tuple[float, float]]:
        """(when seen, by how much) for each step of a counter."""
        found: list[tuple[float, float]] = []
        first_at, first = series.samples[0]
        born = next((s.samples[0][1] for s in self.series(START_TIME) if s.process == series.process), -math.inf)
        before_window = self._first_seen[series.process]
        if first > 0 and (first_at > before_window or before_window < born <= first_at):
            found.append((first_at, first))
        for (_, before), (at, value) in pairwise(series.samples):
            if value < before and series.process not in self._resets:
                self._resets.add(series.process)
                self.notes.append(
                    f"a counter of {series.labels.get('pod') or series.process} was reset: its process restarted, and"
                    " what it had counted since the scrape before is lost"
                )
            found.append((at, value if value < before else value - before))
        return found

    def by_interval(self, series: Counted) -> list[float]:
        """Rise in each interval of the window. Between two scrapes a counter is taken to rise evenly: pods are scraped
        seconds apart, and where a balancer moves load from one to another the sum would otherwise seem to come in
        bursts. What is left of real bursts is a little less than they were."""
        window, interval = self.window, self.interval
        if window is None or not interval:
            return []
        steps = round((window[1] - window[0]) / interval)
        edges = [window[0] + k * interval for k in range(steps + 1)]
        rises = self.rises(series)
        times = [series.samples[0][0], *(at for at, _ in rises if at > series.samples[0][0])]
        first = sum(step for at, step in rises if at == series.samples[0][0])
        counted = list(accumulate((step for at, step in rises if at > series.samples[0][0]), initial=first))
        return [b - a for a, b in pairwise([_between(times, counted, edge) for edge in edges])]

    def rise(self, series: Counted) -> float:
        """Over the whole window."""
        return sum(step for _, step in self.rises(series))


def _between(times: list[float], values: list[float], at: float) -> float:
    """By linear interpolation; 0 before the first, the last value after the last."""
    after = bisect_right(times, at)
    if after == 0:
        return 0.0
    if after == len(times):
        return values[-1]
    share = (at - times[after - 1]) / (times[after] - times[after - 1])
    return values[after - 1] + share * (values[after] - values[after - 1])
