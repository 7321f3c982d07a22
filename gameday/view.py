"""Puts together what the progress board shows."""

from __future__ import annotations

import time

from gameday.progress import SloView, Snapshot, percent
from gameday.watch import LoadWatch
from scenarios.model import Scenario
from sim.results import Forecast

RECENT_SECONDS = 5.0
SETTLE_SECONDS = 1.0
"""The newest second is left out: most of its requests are still under way."""


def snapshot(
    phase: str,
    window: list[float] | None,
    scenario: Scenario,
    watch: LoadWatch,
    forecast: Forecast | None,
    injection_at: float | None,
    active_faults: list[str],
) -> Snapshot:
    """The board as of now."""
    now = time.time()
    start = window[0] if window is not None else now
    length = window[1] - window[0] if window is not None and window[1] > window[0] else None
    recent = (now - SETTLE_SECONDS - RECENT_SECONDS, now - SETTLE_SECONDS)
    views = []
    for slo in scenario.slos:
        series = watch.series[slo.name]
        counts = series.window(*recent)
        spent = None
        if injection_at is not None and now > injection_at:
            spent = series.burn_rate(injection_at, now)  # over the window so far, the mean burn rate is the share spent
        views.append(
            SloView(
                slo.name,
                slo.objective,
                counts.good / counts.total if counts.total else None,
                series.burn_rate(*recent),
                spent,
                _forecast_range(forecast, slo.name),
            )
        )
    load = f"{watch.total} requests" + (f", {watch.dropped} dropped" if watch.dropped else "")
    return Snapshot(phase, max(0.0, now - start), length, views, list(active_faults), load)


def _forecast_range(forecast: Forecast | None, slo: str) -> str:
    if forecast is None:
        return ""
    for row in forecast.predictions:
        if row.quantity == "success_rate" and row.subject == slo and row.window == "all":
            low, high = f"{row.low * 100:.3g}", percent(row.high)
            return high if percent(row.low) == high else f"{low}–{high}"
    return ""
