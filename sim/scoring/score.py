"""How good a forecast was: coverage of its intervals, CRPS, interval score and PIT, beside the naive forecast.

The rules themselves are in `sim.scoring.rules`. The naive forecast is one number ("nothing changes"), and its CRPS is
the absolute error.

Rows of different units are averaged, so each value is put on a scale first, on which CRPS and interval score are taken:

    …_rate, …_share, M1, M4    x / 0.05                  five percentage points are one
    p50, p95, p99, M2          ln max(x, 1 ms)           errors are factors: a tenth off is 0.1, tenfold 2.3
    times                      ln(1 + x / 20 s)          two seconds are 0.1 early on, a tenth is 0.1 later
    events                     x                         0 or 1
    anything else              ln(1 + x)                 attempts, budgets, counts: absolute below one, relative above

The scale of a value is fixed before anything is measured, so CRPS on it is proper (Bosse et al. 2023), and symmetric:
to forecast ten times too much costs what ten times too little does. It is bounded: a latency lies between 1 ms and the
client's timeout. Rejected: errors relative to the measured value. Dividing by the outcome is improper (it rewards
forecasts below one's own), and unbounded on one side alone: "nothing changes" cannot be off by more than 1 of a latency
that rose, while a forecast of a rise that did not come costs hundreds, and one of them outweighs a whole suite.

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

from sim.replication.course import EVENTS
from sim.results import Forecast, LoadBand, Prediction, Score, Scored, read_at_pace
from sim.scoring.rules import crps, interval_score, likeliest, pit

__all__ = [
    "LEVELS", "Detail", "crps", "detail", "is_event", "is_moment", "moment_tolerance", "on_scale", "score",
    "transformed",
]  # fmt: skip

SHARE_UNIT = 0.05
SHORTEST_LATENCY = 0.001
"""Seconds. What is quicker counts as this: nobody's objective asks for less."""
TIME_UNIT = 20.0
MOMENT_SECONDS, MOMENT_SHARE = 2.0, 0.1
"""By how much a moment may be off: the greater of the two."""
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
    """`sim.scoring.rules.pit`."""
    width: float
    """Of the 90 % interval, on the quantity's scale: sharpness."""
    interval: float
    """Interval score at 90 %, on the same scale."""
    crps: float
    crps_naive: float | None = None
    crps_closed: float | None = None
    """Of a closed-form formula's one number (`sim.scoring.closed_form`); None where none applies."""
    error: float | None = None
    """Measured less the ensemble's mean, both transformed; None where the transform does not exist."""
    spread: float | None = None
    """Standard deviation of the transformed ensemble."""
    discrepancy: float | None = None
    """Sigma of the discrepancy that the ensemble was spread with, on the same scale; None where none is stated."""
    requests: int | None = None
    """Requests of the SLO in the window."""
    apart: float | None = None
    """Standard errors, of counting alone, between the window and the baseline; None: it is no count of requests."""
    foretold: float | None = None
    """The same between the forecast's median, were it counted in the window, and the baseline."""
    load_band: LoadBand | None = None
    elasticity: float | None = None
    """As in `sim.results.Prediction`."""
    moment: tuple[float, float] | None = None
    """Of a moment: the one number that the forecast would name, to be right within `moment_tolerance`, and how probable
    it says that is (`sim.scoring.rules.likeliest`)."""

    def at_pace(self, ratio: float) -> float | None:
        """The median on a machine that takes `ratio` times as long as in the baseline; None where that is not told."""
        return read_at_pace(self.median, self.elasticity, ratio)

    @property
    def in_load_band(self) -> bool:
        """Whether yes or no hangs on a few per cent of load, so that one run proves neither wrong."""
        return self.load_band is not None and self.load_band.splits(self.median)


def on_scale(quantity: str, value: float) -> float:
    """Where a value lies on the scale that errors of its quantity are taken on; it never falls with the value."""
    if is_event(quantity):
        return value
    if quantity.endswith(SHARES):
        return value / SHARE_UNIT
    if quantity in LATENCIES:
        return math.log(max(value, SHORTEST_LATENCY))
    return math.log1p(max(value, 0.0) / (TIME_UNIT if is_moment(quantity) else 1.0))


def is_event(quantity: str) -> bool:
    """Whether it is 0 or 1 and forecast by a probability."""
    return quantity in EVENTS


def is_moment(quantity: str) -> bool:
    """Whether it is a time after the fault's begin or end, in seconds."""
    return quantity.endswith("_seconds") or quantity.startswith(("seconds_to_", "time_to_"))


def moment_tolerance(seconds: float) -> float:
    """By how much a forecast of a moment may be off, seconds; a hair more, since times are told in whole seconds."""
    return max(MOMENT_SECONDS, MOMENT_SHARE * abs(seconds)) + 1e-9


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
        own = _crps(prediction, measured)
        naive = _distance(prediction.quantity, prediction.naive, measured)
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
    apart: float | None = None,
    foretold: float | None = None,
) -> Detail:
    """`measured` is finite and the ensemble not empty. `closed`: what a formula says, where one applies."""
    ensemble = prediction.ensemble
    slack = _slack(measured)
    at = on_scale(prediction.quantity, measured)
    below, above = (on_scale(prediction.quantity, end) for end in (prediction.low, prediction.high))
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
        width=above - below,
        interval=interval_score(below, above, at, 0.9),
        crps=_crps(prediction, measured),
        crps_naive=_distance(prediction.quantity, prediction.naive, measured),
        crps_closed=_distance(prediction.quantity, closed, measured),
        error=error,
        spread=spread,
        discrepancy=discrepancy,
        requests=requests,
        apart=apart,
        foretold=foretold,
        load_band=prediction.load_band,
        elasticity=prediction.elasticity,
        moment=likeliest(ensemble, prediction.median, moment_tolerance) if is_moment(prediction.quantity) else None,
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


def _crps(prediction: Prediction, measured: float) -> float:
    """On the quantity's scale, which keeps the ensemble's order."""
    members = [on_scale(prediction.quantity, value) for value in prediction.ensemble]
    return crps(members, on_scale(prediction.quantity, measured))


def _distance(quantity: str, value: float | None, measured: float) -> float | None:
    """CRPS of a forecast that is one number."""
    return None if value is None else abs(on_scale(quantity, value) - on_scale(quantity, measured))


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
    """What two numbers may differ by that are one: forecasts keep seven digits of their ensembles."""
    return max(1e-9, 1e-6 * abs(measured))


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
