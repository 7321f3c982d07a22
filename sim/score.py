"""How good a forecast was: coverage of its 90 % intervals and CRPS, beside the naive forecast.

CRPS is the fair ensemble form (Ferro 2014), which does not punish small ensembles for being small:

    crps = mean |x_i - y|  -  sum_{i<j} |x_i - x_j| / (m (m - 1))

The naive forecast is one number ("nothing changes"), and its CRPS is the absolute error.

Rows of different units are averaged, so each is in units of a scale of its own, the same for both forecasts:

    success_rate           0.05       five percentage points
    p50, p95, p99          max(|measured|, 1 ms)     so errors are relative
    attempts_per_request   max(|measured|, 1)
    budget_spent           max(|measured|, 1)        below one whole budget, absolute

Coverage counts an interval's ends as inside (with a slack of one part in 10⁹ for rounding): a success rate of exactly 1
forecast as [1, 1] is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sim.results import Forecast, Prediction, Score, Scored

SUCCESS_SCALE = 0.05
SHORTEST_LATENCY_SCALE = 0.001


def crps(ensemble: Sequence[float], measured: float) -> float:
    """Of an ascending ensemble of at least one value, in its unit."""
    size = len(ensemble)
    distance = sum(abs(value - measured) for value in ensemble) / size
    if size == 1:
        return distance
    # For ascending values the sum over pairs is a weighted sum: value i exceeds i others and is exceeded by the rest.
    pairs = sum((2 * index - size + 1) * value for index, value in enumerate(ensemble))
    return distance - pairs / (size * (size - 1))


def scale(quantity: str, measured: float) -> float:
    """What errors of this quantity are divided by."""
    if quantity == "success_rate":
        return SUCCESS_SCALE
    if quantity in ("p50", "p95", "p99"):
        return max(abs(measured), SHORTEST_LATENCY_SCALE)
    return max(abs(measured), 1.0)


def score(forecast: Forecast, measured: Mapping[tuple[str, str, str], float]) -> Score:
    """Every prediction beside what was measured; predictions without a measured value are shown and not scored."""
    rows = tuple(_scored(p, measured.get((p.quantity, p.subject, p.window))) for p in forecast.predictions)
    inside = [row.inside for row in rows if row.inside is not None]
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
        slack = 1e-9 * max(1.0, abs(measured))
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


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
