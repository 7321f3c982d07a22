"""Prometheus exposition, made for a proxy: series are plain objects whose labels were rendered once.

A hot path holds the series object and adds to an attribute; nothing is looked up by label for a request. Rendering
concatenates text that is ready, so that a scrape does not stall the loop (prometheus_client needs 80 ms for 500
histograms; it serves as the oracle in the tests).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

LATENCY_BUCKETS_MS: tuple[float, ...] = (
    *(1, 2, 3, 4, 5),
    *(10, 20, 30, 40, 50),
    *(100, 200, 300, 400, 500),
    *(1_000, 2_000, 3_000, 4_000, 5_000),
    *(10_000, 20_000, 30_000, 40_000, 50_000),
)
"""Linkerd's `response_latency_ms`."""

Labels = Mapping[str, str]


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def render_labels(labels: Labels) -> str:
    """`a="b",c="d"`, without braces; labels of no value are left out."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in labels.items() if value)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


class Counter:
    """One counter or gauge series. Owners add to `value`."""

    __slots__ = ("line", "value")

    def __init__(self, name: str, labels: str) -> None:
        self.line = f"{name}{{{labels}}} " if labels else f"{name} "
        self.value: float = 0

    def render(self, out: list[str]) -> None:
        out.append(f"{self.line}{_number(self.value)}\n")


class Histogram:
    """One histogram series."""

    __slots__ = ("bounds", "counts", "lines", "sum")

    def __init__(self, name: str, labels: str, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
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


class Family:
    """All series of one metric name."""

    def __init__(self, name: str, kind: str, help_text: str, bounds: tuple[float, ...] = ()) -> None:
        self.name = name
        self.kind = kind
        self.header = f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"
        self.bounds = bounds
        self.series: dict[str, Counter | Histogram] = {}

    def counter(self, labels: Labels | str = "") -> Counter:
        """The series with these labels; the same object every time."""
        rendered = labels if isinstance(labels, str) else render_labels(labels)
        found = self.series.get(rendered)
        if found is None:
            found = self.series[rendered] = Counter(self.name, rendered)
        assert isinstance(found, Counter)
        return found

    def histogram(self, labels: Labels | str = "") -> Histogram:
        rendered = labels if isinstance(labels, str) else render_labels(labels)
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


Sample = tuple[Labels, float]


class Registry:
    """The families of one process, in the order in which they were made."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._gauges: list[tuple[str, str, str, Callable[[], Iterable[Sample]]]] = []

    def counters(self, name: str, help_text: str) -> Family:
        return self._family(name, "counter", help_text, ())

    def gauges(self, name: str, help_text: str) -> Family:
        return self._family(name, "gauge", help_text, ())

    def histograms(self, name: str, help_text: str, bounds: tuple[float, ...]) -> Family:
        return self._family(name, "histogram", help_text, bounds)

    def collect(self, name: str, kind: str, help_text: str, read: Callable[[], Iterable[Sample]]) -> None:
        """A family whose series are computed when it is scraped."""
        self._gauges.append((name, kind, help_text, read))

    def _family(self, name: str, kind: str, help_text: str, bounds: tuple[float, ...]) -> Family:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = Family(name, kind, help_text, bounds)
        return family

    def render(self) -> bytes:
        """The text exposition, format 0.0.4."""
        out: list[str] = []
        for family in self._families.values():
            family.render(out)
        for name, kind, help_text, read in self._gauges:
            samples = list(read())
            if not samples:
                continue
            out.append(f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n")
            for labels, value in samples:
                rendered = render_labels(labels)
                out.append(f"{name}{{{rendered}}} {_number(value)}\n" if rendered else f"{name} {_number(value)}\n")
        return "".join(out).encode()
