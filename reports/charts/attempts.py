"""Attempts per request at a service over time: retry amplification, with each window's forecast as a band."""

from __future__ import annotations

import math

from reports.charts.stage import Stage, time_plot
from reports.document import PredictionPart
from reports.notation import times
from reports.run import Run
from reports.series import Series, service_of
from scenarios.model import AppService

STEP = 3
"""Seconds in one point: scrapes come once a second, and a ratio of few requests would only jump."""
WORTH_SHOWING = 1.1


def amplified(service: str, predictions: list[PredictionPart]) -> bool:
    """Whether retries at the service were forecast or measured to matter."""
    rows = [row for row in predictions if row.quantity == "attempts_per_request" and row.subject == service]
    return any(max(row.median, row.measured or 0.0) > WORTH_SHOWING for row in rows)


def attempts_chart(
    run: Run,
    stage: Stage,
    service: AppService,
    predictions: list[PredictionPart],
    *,
    size: tuple[float, float] = (520.0, 190.0),
) -> str:
    """Requests that reached the service over requests that its callers meant to send it."""
    measured = attempts_over_time(run, stage, service)
    foretold = {
        row.window: row
        for row in predictions
        if row.quantity == "attempts_per_request" and row.subject == service.name and row.window in run.windows
    }
    values = [value for _, value in measured if value is not None] + [row.high for row in foretold.values()]
    top = max([*values, 1.5]) * 1.06
    plot = time_plot(
        stage, f"attempts per request at {service.name} over time", size, (0.0, top), lambda v: f"{v:g}×" if v else "0"
    )
    canvas, x, y = plot.canvas, plot.x, plot.y
    canvas.line(plot.left, y(1.0), plot.right, y(1.0), "target")
    canvas.text(plot.left + 4, y(1.0) - 4, "no retries", "target-name")
    for name in ("inject", "recover"):
        row = foretold.get(name)
        if row is not None:
            start, end = (x(run.clock(bound)) for bound in run.windows[name])
            canvas.rect(start, y(row.high), end - start, max(1.0, y(row.low) - y(row.high)), "fan", _told(row))
            canvas.line(start, y(row.median), end, y(row.median), "median")
    canvas.curve([(x(second), y(value)) if value is not None else None for second, value in measured], "measured")
    return canvas.markup("chart")


def attempts_over_time(run: Run, stage: Stage, service: AppService) -> list[tuple[float, float | None]]:
    """(middle of the step, attempts per request); None where nobody called."""
    arrived = [
        s for s in run.metrics.series("request_total", direction="inbound") if service_of(s.process) == service.name
    ]
    meant = [
        series
        for series in run.metrics.series("outbound_http_route_request_statuses_total", parent_name=service.name)
        if series.labels.get("parent_namespace", service.namespace) == service.namespace
    ]

    def rise(series: list[Series], start: float) -> float:
        return sum(run.metrics.rise(one, run.zero + start, run.zero + start + STEP) for one in series)

    found: list[tuple[float, float | None]] = []
    for start in range(math.ceil(stage.start), math.floor(stage.end) - STEP + 1, STEP):
        wanted = rise(meant, start)
        found.append((start + STEP / 2, rise(arrived, start) / wanted if wanted > 0 else None))
    return found


def _told(row: PredictionPart) -> str:
    return f"forecast for {row.window}: {times(row.median)}, {times(row.low)} to {times(row.high)}"
