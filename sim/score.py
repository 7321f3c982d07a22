"""How good a forecast was: coverage of its intervals, CRPS, interval score and PIT, beside the naive forecast.

The rules themselves are in `sim.scoring_rules`. The naive forecast is one number ("nothing changes"), and its CRPS is
the absolute error.

Rows of different units are averaged, so each is in units of a scale of its own, the same for every forecast:

    …_rate, …_share        0.05       five percentage points
    p50, p95, p99          max(|measured|, 1 ms)     so errors are relative
    …_seconds              max(|measured|, 20 s)     a tenth of it is what issue and reference allow: two seconds
    anything else          max(|measured|, 1)        attempts, budgets: below one whole budget, absolute

Coverage counts an interval's ends as inside (with a slack of one part in 10⁹ for rounding): a success rate of exactly 1
forecast as [1, 1] is right.

Two kinds of quantity need a word. An *event* (metastable, paged: 0 or 1 in each replication) is forecast by its
probability, the mean of the ensemble; its score is Brier's, which is what CRPS is for two values, and intervals mean
nothing to it. A *moment* (time to page, recovery) that did not come before the end of its window is written as the
window's length, in the ensemble and in what was measured alike: CRPS then is the threshold-weighted one (Gneiting &
Ranjan 2011), proper for times that are censored there.

`detail` is the longer record of one prediction that the ledger keeps and `gameday accuracy` reads: intervals of three
levels, PIT, sharpness, and the error on the scale that discrepancies are learned on (log of a latency, logit of a
share).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from sim.course import EVENTS
from sim.results import Forecast, Prediction, Score, Scored
from sim.scoring_rules import crps, interval_score, pit

__all__ = ["LEVELS", "Detail", "crps", "detail", "is_event", "is_moment", "scale", "score", "transformed"]

SUCCESS_SCALE = 0.05
SHORTEST_LATENCY_SCALE = 0.001
SECONDS_SCALE = 20.0
LATENCIES = ("p50", "p95", "p99", "M2")
SHARES = ("_rate", "_share", "M1", "M4")
LEVELS = (0.5, 0.8, 0.9)
"""Levels of the central intervals whose coverage is counted."""


class Detail(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One prediction beside what was measured, in numbers that can be pooled over runs."""

    quantity: str
    subject: str
    window: str
    measured: float
    naive: float | None = None
    low: float
    median: float
    high: float
    inside: tuple[bool, bool, bool]
    """Whether the intervals of `LEVELS` contain the measured value."""
    pit: tuple[float, float]
    """`sim.scoring_rules.pit`."""
    width: float
    """Of the 90 % interval, in units of the scale: sharpness."""
    interval: float
    """Interval score at 90 %, in units of the scale."""
    crps: float
    crps_naive: float | None = None
    crps_closed: float | None = None
    """Of a closed-form formula's one number (`sim.closed_form`); None where none applies."""
    error: float | None = None
    """Measured less the ensemble's mean, both transformed; None where the transform does not exist."""
    spread: float | None = None
    """Standard deviation of the transformed ensemble."""
    discrepancy: float | None = None
    """Sigma of the discrepancy that the ensemble was spread with, on the same scale; None where none is stated."""
    requests: int | None = None
    """Requests of the SLO in the window."""


def scale(quantity: str, measured: float) -> float:
    """What errors of this quantity are divided by."""
    if quantity.endswith(SHARES):
        return SUCCESS_SCALE
    if quantity in LATENCIES:
        return max(abs(measured), SHORTEST_LATENCY_SCALE)
    if is_moment(quantity):
        return max(abs(measured), SECONDS_SCALE)
    return max(abs(measured), 1.0)


def is_event(quantity: str) -> bool:
    """Whether it is 0 or 1 and forecast by a probability."""
    return quantity in EVENTS


def is_moment(quantity: str) -> bool:
    """Whether it is a time after the fault's begin or end, in seconds."""
    return quantity.endswith("_seconds") or quantity.startswith(("seconds_to_", "time_to_"))


def score(forecast: Forecast, measured: Mapping[tuple[str, str, str], float]) -> Score:
    """Every prediction beside what was measured; predictions without a measured value are shown and not scored."""
    rows = tuple(_scored(p, measured.get((p.quantity, p.subject, p.window))) for p in forecast.predictions)
    inside = [row.inside for row in rows if row.inside is not None and not is_event(row.quantity)]
    pairs = [(row.crps, row.crps_naive) for row in rows if row.crps is not None and row.crps_naive is not None]
    own = [row.crps for row in rows if row.crps is not None]
    paired = _mean([a for a, _ in pairs])
    naive = _mean([b for _, b in pairs])
    return Score(
        rows=rows,
        coverage=_mean([1.0 if hit else 0.0 for hit in inside]),
        crps=_mean(own),
        crps_naive=naive,
        skill=None if paired is None or not naive else 1.0 - paired / naive,
    )


def _scored(prediction: Prediction, measured: float | None) -> Scored:
    usable = measured is not None and math.isfinite(measured) and bool(prediction.ensemble)
    inside = own = naive = None
    if usable:
        assert measured is not None
        slack = _slack(measured)
        inside = prediction.low - slack <= measured <= prediction.high + slack
        unit = scale(prediction.quantity, measured)
        own = crps(prediction.ensemble, measured) / unit
        naive = abs(prediction.naive - measured) / unit if prediction.naive is not None else None
    return Scored(
        quantity=prediction.quantity,
        subject=prediction.subject,
        window=prediction.window,
        low=prediction.low,
        median=prediction.median,
        high=prediction.high,
        naive=prediction.naive,
        measured=measured if usable else None,
        inside=inside,
        crps=own,
        crps_naive=naive,
    )


def detail(
    prediction: Prediction,
    measured: float,
    *,
    requests: int | None = None,
    closed: float | None = None,
    discrepancy: float | None = None,
) -> Detail:
    """`measured` is finite and the ensemble not empty. `closed`: what a formula says, where one applies."""
    ensemble = prediction.ensemble
    slack = _slack(measured)
    unit = scale(prediction.quantity, measured)
    ends = [_central(ensemble, level) for level in LEVELS]
    error, spread = _error(prediction.quantity, ensemble, measured, requests)
    return Detail(
        quantity=prediction.quantity,
        subject=prediction.subject,
        window=prediction.window,
        measured=measured,
        naive=prediction.naive,
        low=prediction.low,
        median=prediction.median,
        high=prediction.high,
        inside=_three([low - slack <= measured <= high + slack for low, high in ends]),
        pit=pit(ensemble, measured, slack),
        width=(prediction.high - prediction.low) / unit,
        interval=interval_score(prediction.low, prediction.high, measured, 0.9) / unit,
        crps=crps(ensemble, measured) / unit,
        crps_naive=abs(prediction.naive - measured) / unit if prediction.naive is not None else None,
        crps_closed=abs(closed - measured) / unit if closed is not None else None,
        error=error,
        spread=spread,
        discrepancy=discrepancy,
        requests=requests,
    )


def transformed(quantity: str, value: float, requests: int | None) -> float | None:
    """On the scale on which discrepancies add: log of a latency or a ratio, logit of a share.

    A share of n requests is kept half a request away from 0 and 1. None where the transform does not exist.
    """
    if quantity == "success_rate":
        edge = 0.5 / max(requests or 1, 1)
        inner = min(1.0 - edge, max(edge, value))
        return math.log(inner / (1.0 - inner))
    return math.log(value) if value > 0.0 else None


def _error(
    quantity: str, ensemble: Sequence[float], measured: float, requests: int | None
) -> tuple[float | None, float | None]:
    at = transformed(quantity, measured, requests)
    members = [transformed(quantity, value, requests) for value in ensemble]
    known = [member for member in members if member is not None]
    if at is None or len(known) < len(members):
        return None, None
    return at - float(np.mean(known)), float(np.std(known))


def _central(ensemble: Sequence[float], level: float) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(ensemble), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _three(values: Sequence[bool]) -> tuple[bool, bool, bool]:
    first, second, third = values
    return first, second, third


def _slack(measured: float) -> float:
    return 1e-9 * max(1.0, abs(measured))


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
