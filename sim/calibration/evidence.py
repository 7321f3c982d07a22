"""Times in bins, and how well a family of distributions explains them.

Buckets of a histogram as they are; single times in bins of 2.5 %, which loses nothing that a fit could use. The
likelihood is the censored one: each bin's count against the family's share between its edges.

Three departures from the textbook, each for a measured reason. A count beyond `FULL_WEIGHT` weighs less and less: ten
thousand requests of one half-minute tell a median to 0.3 %, and the next half-minute's differs by more. No request
weighs more than `OUTLIER` allows: one stall of the machine is not the route's sigma. And where counts fill fewer than
four bins (Linkerd's buckets of 1-5-10-50 ms over a route of 2 ms), the exact mean, sum over count, joins in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.calibration.families import Family, cdf, distribution_of
from sim.observation import RouteTimes

Values = npt.NDArray[np.float64]
FULL_WEIGHT = 5_000.0
OUTLIER = 1e-5
FEW_BINS = 4
BIN_RATIO = 1.025
SHORTEST = 1e-6


@dataclass(frozen=True, slots=True)
class Evidence:
    """Counts in filled bins, and the mean of all."""

    low: Values
    high: Values
    """Edges of the filled bins in seconds; the last may be inf."""
    counts: Values
    mean: float
    total: int

    @property
    def weight(self) -> float:
        """What one count weighs."""
        return 1.0 / (1.0 + self.total / FULL_WEIGHT)

    def log_likelihood(self, family: Family, points: Values) -> Values:
        """Of each of n points, less that of a model which meets every bin: at most 0 but for the mean's part. (n,)"""
        found = np.zeros(len(points))
        if len(self.counts):
            shares = cdf(family, points, self.high) - cdf(family, points, self.low)
            best = float((self.counts * np.log(self.counts / self.counts.sum())).sum())
            found = (np.log(np.maximum(shares, 0.0) + OUTLIER) * self.counts).sum(axis=1) - best
        if len(self.counts) < FEW_BINS and self.total and self.mean > 0:
            found = found + self._of_mean(family, points)
        weighed: Values = self.weight * found
        return weighed

    def _of_mean(self, family: Family, points: Values) -> Values:
        if family == "exponential":
            means, variances = np.exp(points[:, 0]), np.ones(len(points))
        elif family == "lognormal":
            squares = np.exp(np.minimum(2 * points[:, 1], 3.0))
            means, variances = np.exp(points[:, 0] + squares / 2), np.expm1(squares)
        else:
            means = np.asarray([distribution_of(family, point).mean for point in points])
            variances = np.ones(len(points))
        variances = np.maximum(variances, 1e-4) / self.total
        term: Values = -0.5 * (np.log(means / self.mean) ** 2 / variances + np.log(variances))
        return term

    def misfit(self, family: Family, point: Values, forgiven: float) -> float:
        """Chi-square of one point over what chance exceeds once in a thousand, neighbours joined until five are
        expected; 0 where too few bins are left to tell.

        `forgiven`: relative error of a bin's share that no one should hold against a model.
        """
        edges = np.unique(np.concatenate([self.low, self.high]))
        edges = edges[(edges > SHORTEST) & np.isfinite(edges)]
        if len(edges) < 2:
            return 0.0
        shares = np.diff(np.concatenate([[0.0], cdf(family, point[None, :], edges)[0], [1.0]]))
        seen_by_edge = np.zeros(len(shares))
        for high, count in zip(self.high, self.counts, strict=True):
            seen_by_edge[int(np.searchsorted(edges, high)) if math.isfinite(high) else -1] += count
        chi = degrees = seen = expected = 0.0
        for count, share in zip(seen_by_edge, shares, strict=True):
            seen += count
            expected += share * self.counts.sum()
            if expected >= 5.0:
                chi += (seen - expected) ** 2 / (expected + (forgiven * expected) ** 2)
                degrees += 1
                seen = expected = 0.0
        free = degrees - len(point)
        if free < 3:
            return 0.0
        unlikely = free * (1.0 - 2.0 / (9.0 * free) + 3.09 * math.sqrt(2.0 / (9.0 * free))) ** 3  # Wilson and Hilferty
        return float(chi / unlikely)

    def bins(self) -> list[tuple[float, float, float]]:
        """(lower edge, upper edge, count) of the filled bins, ascending."""
        return list(zip(self.low.tolist(), self.high.tolist(), self.counts.tolist(), strict=True))


def evidence_of(times: RouteTimes | None) -> Evidence:
    """Of nothing, nothing."""
    nothing = np.zeros(0)
    if times is None or times.count <= 0:
        return Evidence(nothing, nothing, nothing, 0.0, 0)
    if times.samples:
        return _of_samples(times.samples)
    bounds = list(times.bounds)
    counts = (list(times.buckets) + [0] * (len(bounds) + 1))[: len(bounds) + 1] if bounds else []
    lows = [SHORTEST, *(max(bound, SHORTEST) for bound in bounds)]
    highs = [*(max(bound, 2 * SHORTEST) for bound in bounds), math.inf]
    filled = [i for i, n in enumerate(counts) if n > 0]
    return Evidence(
        np.asarray([lows[i] for i in filled]),
        np.asarray([highs[i] for i in filled]),
        np.asarray([float(counts[i]) for i in filled]),
        times.mean,
        times.count,
    )


def _of_samples(samples: tuple[float, ...]) -> Evidence:
    values = np.maximum(np.asarray(samples, dtype=np.float64), 2 * SHORTEST)
    step = math.log(BIN_RATIO)
    index, counts = np.unique(np.floor(np.log(values) / step).astype(np.int64), return_counts=True)
    return Evidence(
        np.exp(index * step),
        np.exp((index + 1) * step),
        counts.astype(np.float64),
        float(values.mean()),
        len(values),
    )
