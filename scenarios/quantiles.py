"""Quantiles: of raw values as numpy's default does, of histograms as Prometheus does.

Written out rather than taken from numpy so that the report's figures do not move with a library's version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """Linear interpolation between order statistics (Hyndman and Fan's type 7, numpy's `linear`); None of nothing."""
    if not ascending:
        return None
    position = share * (len(ascending) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (ascending[above] - ascending[below]) * (position - below)


def histogram_quantile(share: float, cumulative: Mapping[float, float]) -> float | None:
    """Prometheus' `histogram_quantile` over {upper bound: cumulative count}, +Inf included; None without counts.

    Interpolates linearly within the bucket, from 0 in the first; an answer in the last bucket is its lower bound.
    """
    bounds = sorted(cumulative)
    if len(bounds) < 2 or not math.isinf(bounds[-1]):
        return None
    total = cumulative[bounds[-1]]
    if total <= 0:
        return None
    rank = share * total
    lower, before = 0.0, 0.0
    for bound in bounds:
        count = cumulative[bound]
        if count >= rank and count > before:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - before) / (count - before)
        if not math.isinf(bound):
            lower = bound
        before = max(before, count)
    return lower
