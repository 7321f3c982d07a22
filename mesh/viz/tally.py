"""What is added up: counts by name and a latency histogram, over scrapes, over pods; and quantiles of the sum.

Quantiles are Prometheus' `histogram_quantile`: the bucket in which the rank falls, linear within it, 0 as the lower end
of the first, and the highest finite bound for what lies beyond it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

Bounds = tuple[float, ...]


def histogram_quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """The q-quantile of a histogram; None where nothing was observed.

    Args:
        q: 0 to 1.
        bounds: upper ends of the finite buckets, ascending, in any unit.
        counts: observations in each bucket (not cumulative), the one beyond all bounds last.

    Source: Prometheus `promql/quantile.go`, `bucketQuantile`.
    """
    total = sum(counts)
    if total <= 0 or not bounds:
        return None
    rank = q * total
    index, below = 0, 0.0
    for index, cumulative in enumerate(accumulate(counts)):  # noqa: B007 – the index at which the rank was reached
        if cumulative >= rank and cumulative > 0:
            break
        below = cumulative
    if index >= len(bounds):
        return bounds[-1]
    upper = bounds[index]
    lower = bounds[index - 1] if index > 0 else 0.0
    if index == 0 and upper <= 0:
        return upper
    within = counts[index]
    return upper if within <= 0 else lower + (upper - lower) * (rank - below) / within


class Tally:
    """Sums. Empty when made."""

    __slots__ = ("bounds", "counts", "latency")

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.bounds: Bounds = ()
        self.latency: dict[int, float] = {}
        """Observations by index of their bucket, only those that are not zero; `len(bounds)` is beyond all bounds."""

    def count(self, name: str) -> float:
        return self.counts.get(name, 0.0)

    def add_count(self, name: str, amount: float) -> None:
        if amount:
            self.counts[name] = self.counts.get(name, 0.0) + amount

    def add_latency(self, bounds: Bounds, counts: Sequence[float]) -> None:
        """Adds observations by bucket (not cumulative)."""
        self.merge(bounds, {index: count for index, count in enumerate(counts) if count})

    def add(self, other: Tally, share: float = 1.0) -> None:
        """Adds `other`, or that share of it."""
        for name, amount in other.counts.items():
            self.add_count(name, amount * share)
        if other.latency:
            part = other.latency if share == 1.0 else {index: count * share for index, count in other.latency.items()}
            self.merge(other.bounds, part)

    def quantile(self, q: float) -> float | None:
        """In the histogram's own unit."""
        counts = [0.0] * (len(self.bounds) + 1)
        for index, count in self.latency.items():
            counts[index] = count
        return histogram_quantile(q, self.bounds, counts)

    @property
    def empty(self) -> bool:
        return not self.counts and not self.latency

    def merge(self, bounds: Bounds, counts: dict[int, float]) -> None:
        """Adds observations by index of their bucket."""
        if not counts:
            return
        if not self.latency:
            self.bounds = bounds
        elif bounds != self.bounds:
            # Proxies of two versions. Each observation keeps its upper bound, so no quantile comes out too low.
            union = tuple(sorted({*self.bounds, *bounds}))
            self.latency = _rebucketed(self.latency, self.bounds, union)
            counts = _rebucketed(counts, bounds, union)
            self.bounds = union
        latency = self.latency
        for index, count in counts.items():
            latency[index] = latency.get(index, 0.0) + count


class Packed:
    """A tally at rest, in a fifth of the memory: what is kept of each flow for each frame."""

    __slots__ = ("bounds", "names", "numbers", "places")

    _names: ClassVar[dict[tuple[str, ...], tuple[str, ...]]] = {}
    """The few combinations of count names that there are, each once."""

    def __init__(self, tally: Tally) -> None:
        names = tuple(tally.counts)
        self.bounds = tally.bounds
        self.names = self._names.setdefault(names, names)
        self.places = bytes(tally.latency)
        self.numbers = array("d", (*tally.counts.values(), *tally.latency.values()))

    def add_to(self, total: Tally, share: float = 1.0) -> None:
        """Adds it, or that share of it, to a sum."""
        numbers = self.numbers if share == 1.0 else [number * share for number in self.numbers]
        split = len(self.names)
        for name, amount in zip(self.names, numbers, strict=False):
            total.counts[name] = total.counts.get(name, 0.0) + amount
        if self.places:
            total.merge(self.bounds, dict(zip(self.places, numbers[split:], strict=True)))


def _rebucketed(counts: dict[int, float], bounds: Bounds, union: Bounds) -> dict[int, float]:
    places = {bound: index for index, bound in enumerate(union)}
    return {places[bounds[i]] if i < len(bounds) else len(union): count for i, count in counts.items()}
