"""How sure a share is that was counted over quantities of the same runs.

The quantities of one run are not independent: one slow second of the machine moves a dozen of them together. The
independent unit is the run. So bands come from resampling whole runs (a cluster bootstrap), and the binomial band of
a nominal share is that of an effective number of quantities: those there are, divided by the design effect (the
variance that whole runs show, over the variance that independent quantities would have). It is never taken to be more
than there are, nor less than the number of runs.

Rejected: the binomial band over all quantities, which is five times too narrow for what these runs show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

RESAMPLES = 1_000
FEWEST_RUNS = 4
"""Below it a resampled band says nothing."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of hits, with what it can be told from."""

    hits: float
    total: int
    runs: int
    low: float | None
    """Of the 90 % band from resampling runs; None with fewer than `FEWEST_RUNS`."""
    high: float | None
    effective: float
    """Number of independent quantities that would be as uncertain."""

    @property
    def value(self) -> float | None:
        return self.hits / self.total if self.total else None


def share_of(clusters: Sequence[tuple[float, int]], seed: int = 1) -> Share:
    """`clusters`: (hits, total) of each run. Runs without a quantity are left out."""
    known = [(hits, total) for hits, total in clusters if total]
    hits, total = sum(h for h, _ in known), sum(t for _, t in known)
    low, high = bootstrap(known, _ratio, seed)
    return Share(hits, total, len(known), low, high, _effective(known))


def binomial_band(nominal: float, effective: float, level: float = 0.9) -> tuple[float, float]:
    """(low, high) of the share that a forecaster with exactly `nominal` coverage shows in `level` of all suites.

    Exact binomial quantiles of round(effective) trials.
    """
    trials = max(1, round(effective))
    tail = (1.0 - level) / 2.0
    low = high = trials
    total, found_low = 0.0, False
    for hits in range(trials + 1):
        total += _binomial(trials, hits, nominal)
        if not found_low and total >= tail:
            low, found_low = hits, True
        if total >= 1.0 - tail:
            high = hits
            break
    return low / trials, high / trials


def apart(hits: float, total: int, others: int, of: int) -> float:
    """Standard errors between two shares of counted requests, hits/total and others/of (the pooled two-sample test).
    `hits` is no whole number where it is what somebody expects to count."""
    if not total or not of:
        return 0.0
    pooled = (hits + others) / (total + of)
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / total + 1.0 / of))
    return (hits / total - others / of) / error if error > 0.0 else 0.0


def bootstrap(
    runs: Sequence[T], statistic: Callable[[Sequence[T]], float | None], seed: int = 1, level: float = 0.9
) -> tuple[float | None, float | None]:
    """(low, high) of a statistic over resampled runs; (None, None) with too few runs or no value."""
    if len(runs) < FEWEST_RUNS:
        return None, None
    generator = np.random.default_rng(seed)
    values = []
    for indices in generator.integers(0, len(runs), size=(RESAMPLES, len(runs))):
        value = statistic([runs[index] for index in indices])
        if value is not None:
            values.append(value)
    if not values:
        return None, None
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _ratio(clusters: Sequence[tuple[float, int]]) -> float | None:
    total = sum(t for _, t in clusters)
    return sum(h for h, _ in clusters) / total if total else None


def _effective(clusters: Sequence[tuple[float, int]]) -> float:
    total = sum(t for _, t in clusters)
    runs = len(clusters)
    if runs < 2 or not total:
        return float(runs)
    share = sum(h for h, _ in clusters) / total
    independent = share * (1.0 - share) / total
    if independent <= 0.0:
        return float(runs)
    # The ratio estimator's variance with runs as its units (Cochran 1977, section 2.11).
    spread = sum((hits - share * count) ** 2 for hits, count in clusters)
    variance = spread * runs / (runs - 1) / total**2
    return min(float(total), max(float(runs), total * independent / variance)) if variance > 0 else float(total)


def _binomial(trials: int, hits: int, share: float) -> float:
    if share in (0.0, 1.0):
        return 1.0 if hits == share * trials else 0.0
    ways = math.lgamma(trials + 1) - math.lgamma(hits + 1) - math.lgamma(trials - hits + 1)
    return math.exp(ways + hits * math.log(share) + (trials - hits) * math.log(1.0 - share))
