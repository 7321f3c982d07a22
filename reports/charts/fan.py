"""Forecast fan against the measured line: did it happen as it was foretold?

Three bands, 90, 80 and 50 %, each darker than the one around it. Measured values are binned in the fan's own steps.
Before second 0 there is only the measured line; the hatched stretch is the seal window, in which the twin computes and
nothing is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from reports.charts.stage import Stage, time_plot
from reports.charts.svg import Point, ticks
from reports.notation import objective, percent, seconds
from reports.run import Run
from scenarios.model import SloSpec
from scenarios.quantiles import percentile
from sim.results import Fan

Series = list[tuple[float, float | None]]
_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def fan_chart(
    run: Run, stage: Stage, slo: SloSpec, quantity: str, fan: Fan | None, *, size: tuple[float, float] = (520.0, 210.0)
) -> str:
    """One quantity of one SLO over time; without a fan, the measured line alone."""
    step = fan.step_seconds if fan is not None else 1.0
    measured = measured_steps(run, stage, slo, quantity, step)
    values = [value for _, value in measured if value is not None]
    if fan is not None:
        values += [value for side in (fan.low, fan.high) for value in side if value is not None]
    if quantity == "success_rate":
        low = min(values, default=0.9)
        domain = (math.floor(min(low, slo.objective - 0.005) * 20) / 20, 1.0)
        show: Callable[[float], str] = percent
        at = ticks(*domain, 5)
    else:
        target = slo.threshold
        top = max([*values, target or 0.0]) * 1.06 or 1.0
        domain, show = (0.0, top), seconds
        at = ticks(0.0, top, 4)
    title = f"{quantity} of {slo.name} over time, forecast and measured"
    plot = time_plot(stage, title, size, domain, lambda value: _tick(quantity, value, show), at=at)
    canvas, x, y = plot.canvas, plot.x, plot.y
    target_value = slo.objective if quantity == "success_rate" else slo.threshold
    if target_value is not None:
        canvas.line(plot.left, y(target_value), plot.right, y(target_value), "target")
        name = (
            f"objective {objective(target_value)}"
            if quantity == "success_rate"
            else f"threshold {seconds(target_value)}"
        )
        below = quantity == "success_rate"
        canvas.text(plot.left + 4, y(target_value) + (12 if below else -4), name, "target-name")
    if fan is not None:
        middle = [second + fan.step_seconds / 2 for second in fan.at]
        watched = sum(second <= stage.end for second in middle)  # a run that ended early has a longer fan than line

        def points(side: tuple[float | None, ...]) -> list[Point | None]:
            return [
                (x(s), y(v)) if v is not None else None for s, v in zip(middle[:watched], side[:watched], strict=True)
            ]

        canvas.area(points(fan.high), points(fan.low), "fan")
        for band in fan.bands:  # from wide to narrow: each darkens what lies below
            canvas.area(points(band.high), points(band.low), f"fan-{band.level * 100:.0f}")
        canvas.curve(points(fan.median), "median")
    canvas.curve([(x(second), y(value)) if value is not None else None for second, value in measured], "measured")
    return canvas.markup("chart")


def measured_steps(run: Run, stage: Stage, slo: SloSpec, quantity: str, step: float) -> Series:
    """(middle of the step, value) of each whole step on the drill's clock; None where it has no request."""
    first, last = math.ceil(stage.start / step - 1e-9), math.floor(stage.end / step + 1e-9)
    good: dict[int, int] = {}
    total: dict[int, int] = {}
    latencies: dict[int, list[float]] = {}
    window = (run.zero + first * step, run.zero + last * step)
    for request in run.requests(window, slo.route):
        index = math.floor(run.clock(request.intended_at) / step)
        total[index] = total.get(index, 0) + 1
        good[index] = good.get(index, 0) + request.good(slo.threshold, run.timeout)
        if request.latency is not None:
            latencies.setdefault(index, []).append(request.latency)
    found: Series = []
    for index in range(first, last):
        value: float | None = None
        if quantity == "success_rate":
            value = good[index] / total[index] if total.get(index) else None
        else:
            value = percentile(sorted(latencies.get(index, [])), _SHARES[quantity])
        found.append(((index + 0.5) * step, value))
    return found


def _tick(quantity: str, value: float, show: Callable[[float], str]) -> str:
    if quantity == "success_rate":
        return f"{value * 100:g} %"
    return "0" if value == 0 else f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"
