"""From an ensemble to what people are told: central intervals, and of times that may never come how often they do.

A prediction's own `low` to `high` are its 90 % interval; the narrower ones stand beside it as bands, so that a reader
sees where most of the replications are, and not only how far the tails reach. All are central (equal tails): the
shortest interval would be narrower for skewed quantities, but its ends would no longer be quantiles, and coverage of
either side could not be checked by itself.

A time that did not come within its window is in the ensemble as that window's length (`sim.replication.course`).
Quantiles of such an ensemble are those of min(time, window) and rightly scored as such, but "4 to 43 s" hides that in a
fifth of the replications nobody was paged. So the share that came, and the interval of those that did, are told apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.results import Arrival, Band, FanBand

WIDEST = 0.9
"""`low` to `high`."""
NARROWER = (0.8, 0.5)
"""The bands, from wide to narrow, as they are drawn one upon another."""


def tails(level: float) -> tuple[float, float]:
    """The quantiles between which a central interval lies: 0.9 → (0.05, 0.95)."""
    below = round((1.0 - level) / 2.0, 9)
    return below, 1.0 - below


def bands_of(values: Sequence[float]) -> tuple[Band, ...]:
    """The narrower intervals of an ensemble that is not empty."""
    return tuple(Band(level=level, low=low, high=high) for level in NARROWER for low, high in [_ends(values, level)])


def arrival_of(values: Sequence[float], within: float) -> Arrival:
    """Of times, those that did not come written as `within` or more; seconds."""
    came = [value for value in values if value < within]
    share = len(came) / len(values) if values else 0.0
    if not came:
        return Arrival(within=within, share=share, low=None, median=None, high=None)
    low, high = _ends(came, WIDEST)
    return Arrival(within=within, share=share, low=low, median=float(np.quantile(came, 0.5)), high=high)


def fan_bands_of(table: npt.NDArray[np.float64]) -> tuple[FanBand, ...]:
    """The narrower intervals of each step; `table`: replications × steps, NaN where one had no request."""
    return tuple(
        FanBand(level=level, low=column_quantiles(table, below), high=column_quantiles(table, above))
        for level in NARROWER
        for below, above in [tails(level)]
    )


def column_quantiles(table: npt.NDArray[np.float64], share: float) -> tuple[float | None, ...]:
    """The quantile of each column, of what is known in it; None where nothing is."""
    found: list[float | None] = []
    for column in table.T:
        known = column[~np.isnan(column)]
        found.append(float(f"{np.quantile(known, share):.6g}") if len(known) else None)
    return tuple(found)


def _ends(values: Sequence[float], level: float) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values, dtype=np.float64), tails(level))
    return float(low), float(high)
