"""Prometheus exposition, made for a proxy: series are plain objects whose labels were rendered once.

A hot path holds the series object and adds to an attribute; nothing is looked up by label for a request. Rendering
concatenates text that is ready (prometheus_client needs 80 ms for 500 histograms; it serves as the oracle in the tests)
and does so in slices: between two of them the loop serves requests, so that no exposition, however long, stalls it.

Memory is bounded in both ways that label sets grow (linkerd/linkerd2#5746):

    too many at once    past a cap for each family, new label sets are folded into one series `{other="true"}`
    too many over time  a series that nobody holds any more is dropped when it has not changed for ten minutes

What "held" means is Linkerd's rule (`retain_idle` there: a strong count above one, or a recent update), read off the
interpreter's reference count: endpoints, routes and connections hold their series for as long as they live, so what
they add to is never out of the exposition. The check runs when somebody scrapes; counting costs the hot path nothing.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic, perf_counter

LATENCY_BUCKETS_MS: tuple[float, ...] = (
    *(1, 2, 3, 4, 5),
    *(10, 20, 30, 40, 50),
    *(100, 200, 300, 400, 500),
    *(1_000, 2_000, 3_000, 4_000, 5_000),
    *(10_000, 20_000, 30_000, 40_000, 50_000),
)
"""Linkerd's `response_latency_ms`."""

MAX_SERIES = 10_000
"""Of one family. 200 endpoints with ten statuses each stay far below it; a leak does not."""
RETENTION_SECONDS = 600.0
"""Linkerd's `metrics_retain_idle`."""
SWEEP_SECONDS = 60.0
SLICE_SECONDS = 0.0005
"""Of rendering at a time. Joining and encoding a slice costs about as much again, so the loop is late by 1 ms."""
SLICE_LOOK = 8
"""Series between two looks at the clock: about 30 µs of histograms."""
FOLDED = 'other="true"'

Labels = Mapping[str, str]


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def render_labels(labels: Labels) -> str:
    """`a="b",c="d"`, without braces; labels of no value are left out."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in labels.items() if value)


def _number(value: float) -> str:
    try:
        whole = int(value)
    except OverflowError:
        return "+Inf" if value > 0 else "-Inf"
    except ValueError:
        return "NaN"
    return str(whole) if value == whole else repr(value)


class Counter:
    """One counter or gauge series. Owners add to `value`."""

    __slots__ = ("changed_at", "line", "seen", "value")

    def __init__(self, name: str, labels: str) -> None:
        self.line = f"{name}{{{labels}}} " if labels else f"{name} "
        self.value = 0.0
        self.seen = 0.0
        """The value at the last sweep."""
        self.changed_at: float | None = None

    def render(self, out: list[str]) -> None:
        out.append(f"{self.line}{_number(self.value)}\n")

    def reading(self) -> float:
        return self.value


class Histogram:
    """One histogram series."""

    __slots__ = ("bounds", "changed_at", "counts", "lines", "seen", "sum")

    def __init__(self, name: str, labels: str, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.seen = 0.0
        self.changed_at: float | None = None
        prefix = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
        edges = [f"{b:g}" if b < 1e6 else repr(b) for b in bounds]
        self.lines = [f'{prefix}le="{edge}"}} ' for edge in (*edges, "+Inf")]
        braces = f"{{{labels}}} " if labels else " "
        self.lines += [f"{name}_sum{braces}", f"{name}_count{braces}"]

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def render(self, out: list[str]) -> None:
        total = 0
        lines = self.lines
        for index, count in enumerate(self.counts):
            total += count
            out.append(f"{lines[index]}{total}\n")
        out.append(f"{lines[-2]}{_number(self.sum)}\n")
        out.append(f"{lines[-1]}{total}\n")

    def reading(self) -> float:
        return float(sum(self.counts))


Series = Counter | Histogram


def _references(series: Mapping[str, object], labels: str) -> int:
    return sys.getrefcount(series[labels])


_UNHELD = _references({"": object()}, "")
"""References to an object that only its dict holds, looked at in the same way: interpreters differ in what they add."""


class Family:
    """All series of one metric name."""

    def __init__(
        self,
        name: str,
        kind: str,
        help_text: str,
        bounds: tuple[float, ...] = (),
        *,
        capacity: int = MAX_SERIES,
        folds: Family | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.header = f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"
        self.bounds = bounds
        self.series: dict[str, Series] = {}
        self._capacity = capacity
        self._folds = folds

    def counter(self, labels: Labels | str = "") -> Counter:
        """The series with these labels; the same object every time."""
        rendered = labels if isinstance(labels, str) else render_labels(labels)
        found = self.series.get(rendered)
        if found is None:
            rendered = self._place(rendered)
            found = self.series.get(rendered)
            if found is None:
                found = self.series[rendered] = Counter(self.name, rendered)
        assert isinstance(found, Counter)
        return found

    def histogram(self, labels: Labels | str = "") -> Histogram:
        rendered = labels if isinstance(labels, str) else render_labels(labels)
        found = self.series.get(rendered)
        if found is None:
            rendered = self._place(rendered)
            found = self.series.get(rendered)
            if found is None:
                found = self.series[rendered] = Histogram(self.name, rendered, self.bounds)
        assert isinstance(found, Histogram)
        return found

    def drop(self, labels: str) -> None:
        self.series.pop(labels, None)

    def render(self, out: list[str]) -> None:
        if self.series:
            out.append(self.header)
            for series in self.series.values():
                series.render(out)

    def sweep(self, labels: str, now: float, retention: float) -> None:
        """Forgets a series that nobody holds and that has not changed for `retention` seconds."""
        series = self.series.get(labels)
        if series is None:
            return
        reading = series.reading()
        if series.changed_at is None or reading != series.seen:
            series.seen = reading
            series.changed_at = now
        elif now - series.changed_at >= retention:
            del series
            if _references(self.series, labels) <= _UNHELD:
                del self.series[labels]

    def _place(self, labels: str) -> str:
        if len(self.series) < self._capacity:
            return labels
        if self._folds is not None:
            self._folds.counter({"metric": self.name}).value += 1
        return FOLDED


Sample = tuple[Labels, float]


class _Computed:
    """A family whose series are read when it is scraped; several readers may add to it."""

    def __init__(self, name: str, kind: str, help_text: str) -> None:
        self.name = name
        self.header = f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"
        self.readers: list[Callable[[], Iterable[Sample]]] = []

    def render(self, out: list[str], capacity: int) -> None:
        name = self.name
        lines = []
        for read in self.readers:
            for labels, value in read():
                rendered = render_labels(labels)
                lines.append(f"{name}{{{rendered}}} {_number(value)}\n" if rendered else f"{name} {_number(value)}\n")
        if lines:
            out.append(self.header)
            out.extend(lines[:capacity])


class Registry:
    """The families of one process, in the order in which they were made."""

    def __init__(
        self,
        *,
        capacity: int = MAX_SERIES,
        retention: float = RETENTION_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`capacity`: series of one family; `retention`: seconds that an unused series is kept."""
        self._families: dict[str, Family] = {}
        self._computed: dict[str, _Computed] = {}
        self._capacity = capacity
        self._retention = retention
        self._clock = clock
        self._swept_at = clock()
        self._folds = self._family("proxy_metrics_folded_total", "counter", "Label sets past a family's cap.", ())

    def counters(self, name: str, help_text: str) -> Family:
        return self._family(name, "counter", help_text, ())

    def gauges(self, name: str, help_text: str) -> Family:
        return self._family(name, "gauge", help_text, ())

    def histograms(self, name: str, help_text: str, bounds: tuple[float, ...]) -> Family:
        return self._family(name, "histogram", help_text, bounds)

    def collect(self, name: str, kind: str, help_text: str, read: Callable[[], Iterable[Sample]]) -> None:
        """A family whose series are computed when it is scraped."""
        computed = self._computed.get(name)
        if computed is None:
            computed = self._computed[name] = _Computed(name, kind, help_text)
        computed.readers.append(read)

    def _family(self, name: str, kind: str, help_text: str, bounds: tuple[float, ...]) -> Family:
        family = self._families.get(name)
        if family is None:
            folds = self._folds if self._families else None
            family = Family(name, kind, help_text, bounds, capacity=self._capacity, folds=folds)
            self._families[name] = family
        return family

    def render(self) -> bytes:
        """The text exposition, format 0.0.4, at once (a scrape takes `pieces`)."""
        return b"".join(self.pieces())

    def pieces(self, slice_seconds: float = SLICE_SECONDS) -> Iterator[bytes]:
        """The same in pieces, each made in about `slice_seconds`. Counting may go on between them."""
        yield from self._sweep(slice_seconds)
        out: list[str] = []
        began = perf_counter()
        for family in list(self._families.values()):
            if not family.series:
                continue
            out.append(family.header)
            for index, series in enumerate(list(family.series.values())):
                series.render(out)
                if index % SLICE_LOOK == 0 and perf_counter() - began > slice_seconds:
                    yield "".join(out).encode()
                    out.clear()
                    began = perf_counter()
        for computed in list(self._computed.values()):
            computed.render(out, self._capacity)
            if perf_counter() - began > slice_seconds:
                yield "".join(out).encode()
                out.clear()
                began = perf_counter()
        yield "".join(out).encode()

    def _sweep(self, slice_seconds: float) -> Iterator[bytes]:
        """Yields nothing but pauses."""
        now = self._clock()
        if now - self._swept_at < min(SWEEP_SECONDS, self._retention):
            return
        self._swept_at = now
        began = perf_counter()
        for family in list(self._families.values()):
            if family.kind == "gauge":
                continue  # a gauge says how things are, also when they have not changed for long
            for index, labels in enumerate(list(family.series)):
                if labels:
                    family.sweep(labels, now, self._retention)
                if index % SLICE_LOOK == 0 and perf_counter() - began > slice_seconds:
                    yield b""
                    began = perf_counter()
