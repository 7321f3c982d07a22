"""Scraped series, read the way PromQL would: label matching, increase over a window, values at a moment.

`increase` copes with restarts. A counter that falls was reset, and its new value counts from 0; so does one whose
process was started anew (`process_start_time_seconds` changed), even if the new life has already counted further than
the old. Unlike Prometheus nothing is extrapolated to the window's edges, and a series that first appears inside the
window counts from 0: we scrape a process from its birth, once a second, and small counts must come out whole.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from reports.store import RunStore

_LABEL = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", '"': '"', "\\": "\\"}
START_TIME = "process_start_time_seconds"
EXPIRES = "control_identity_cert_expiration_timestamp_seconds"
REFRESHED = "control_identity_cert_refresh_timestamp_seconds"
LOAD_SERVICE = "loadgen"
"""The pod that the load enters through, as if it were a service."""


@lru_cache(maxsize=65_536)
def parse_labels(text: str) -> Mapping[str, str]:
    """Labels of the exposition format, with or without braces."""
    body = text[1:-1] if text.startswith("{") else text
    return {
        match[1]: _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[0]), match[2])
        for match in _LABEL.finditer(body)
    }


def service_of(process: str) -> str:
    """`payment-0/proxy` → `payment`."""
    pod = pod_of(process)
    name, _, ordinal = pod.rpartition("-")
    return name if name and ordinal.isdigit() else pod


def pod_of(process: str) -> str:
    """`payment-0/proxy` → `payment-0`."""
    return process.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Series:
    """One time series; a value holds until the next sample."""

    process: str
    labels: Mapping[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, moment: float) -> float | None:
        """The value that held then; None before the first sample."""
        index = bisect_right(self.times, moment)
        return self.values[index - 1] if index else None

    def increase(self, start: float, end: float, restarts: tuple[float, ...] = ()) -> float:
        """How far a counter rose in (start, end]; `restarts`: moments at which its process was seen anew."""
        first = bisect_right(self.times, start)
        last = bisect_right(self.times, end)
        before = self.values[first - 1] if first else 0.0
        seen = self.times[first - 1] if first else -1.0
        risen = 0.0
        for at, value in zip(self.times[first:last], self.values[first:last], strict=True):
            anew = value < before or any(seen < restart <= at for restart in restarts)
            risen += value if anew else value - before
            before, seen = value, at
        return risen


class Metrics:
    """The scraped metrics of a run; each metric is read from the store once."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._known: dict[str, list[Series]] = {}
        self._restarts: dict[str, tuple[float, ...]] | None = None

    def series(self, name: str, process: str | None = None, **match: str) -> Iterator[Series]:
        """Series of a metric whose labels equal `match`; `process`: the part after the slash, `proxy` or `app`."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = [
                Series(process, parse_labels(labels), tuple(t for t, _ in samples), tuple(v for _, v in samples))
                for process, labels, samples in self._store.samples_of(name)
            ]
        for series in known:
            if process is not None and series.process.partition("/")[2] != process:
                continue
            if all(series.labels.get(label) == value for label, value in match.items()):
                yield series

    def exists(self, name: str) -> bool:
        return any(True for _ in self.series(name))

    def restarts(self, process: str) -> tuple[float, ...]:
        """Moments at which the process was first seen in a new life."""
        if self._restarts is None:
            found: dict[str, tuple[float, ...]] = {}
            for series in self.series(START_TIME):
                found[series.process] = series.times[1:]
            self._restarts = found
        return self._restarts.get(process, ())

    def rise(self, series: Series, start: float, end: float) -> float:
        return series.increase(start, end, self.restarts(series.process))

    def increase(self, name: str, start: float, end: float, process: str | None = None, **match: str) -> float:
        """Sum of the rises of all matching series; 0 where there is none."""
        return sum(self.rise(series, start, end) for series in self.series(name, process, **match))

    def increase_by(
        self, name: str, start: float, end: float, label: str, process: str | None = None, **match: str
    ) -> dict[str, float]:
        """Rises summed by a label's value (or by `service` / `process` of the scraped process)."""
        sums: dict[str, float] = defaultdict(float)
        for series in self.series(name, process, **match):
            if label == "@service":
                key = service_of(series.process)
            elif label == "@process":
                key = series.process
            else:
                key = series.labels.get(label, "")
            sums[key] += self.rise(series, start, end)
        return dict(sums)


def cumulative_buckets(rises: Iterable[tuple[Series, float]], unit: float = 1.0) -> dict[float, float]:
    """{upper bound: count at or below it}, summed over series; bounds divided by `unit`."""
    merged: dict[float, float] = defaultdict(float)
    for series, rise in rises:
        merged[float(series.labels["le"]) / unit] += rise
    return dict(merged)
