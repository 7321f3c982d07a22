"""Error budget spent over the drill, with the forecast of the final value as a whisker at the right edge."""

from __future__ import annotations

from reports.charts.stage import Stage, time_plot
from reports.document import PredictionPart
from reports.notation import times
from reports.run import Run
from scenarios.model import SloSpec


def burn_chart(
    run: Run, stage: Stage, slo: SloSpec, forecast: PredictionPart | None, *, size: tuple[float, float] = (520.0, 200.0)
) -> str:
    """Bad requests so far over what the objective allows in the whole window; 1× means all spent."""
    window = run.windows.get("all")
    if window is None:
        return ""
    spent = run.meter(slo).spent(0.0, run.clock(window[1]))
    last = spent[-1][1] if spent else 0.0
    top = max(last, forecast.high if forecast is not None else 0.0, 1.15) * 1.1
    title = f"error budget of {slo.name} spent over time"
    plot = time_plot(
        stage, title, size, (0.0, top), lambda value: "0" if value == 0 else f"{value:g}×", start=0.0,
        margins=(22.0, 92.0, 30.0, 42.0),
    )  # fmt: skip
    canvas, x, y = plot.canvas, plot.x, plot.y
    canvas.line(plot.left, y(1.0), plot.right, y(1.0), "target")
    canvas.text(plot.left + 4, y(1.0) - 4, "whole budget", "target-name")
    canvas.curve([(x(0.0), y(0.0)), *((x(second), y(value)) for second, value in spent)], "measured")
    ends = [(y(last), f"{times(last)} spent", "end-measured")] if spent else []
    if forecast is not None:
        middle = plot.right + 7
        canvas.line(middle, y(forecast.low), middle, y(forecast.high), "whisker")
        canvas.line(middle - 4, y(forecast.median), middle + 4, y(forecast.median), "whisker")
        ends.append((y(forecast.median), f"{times(forecast.median)} foretold", "end-forecast"))
    if spent:
        canvas.circle(plot.right, y(last), 2.6, "dot")
    for height, text, css in _apart(ends, 13.0):
        canvas.text(plot.right + 14, height + 3.5, text, css)
    return canvas.markup("chart")


def _apart(labels: list[tuple[float, str, str]], gap: float) -> list[tuple[float, str, str]]:
    """The labels, moved just so far that no two lie closer than `gap`."""
    if len(labels) < 2:
        return labels
    (first, *one), (second, *two) = sorted(labels)
    short = max(0.0, gap - (second - first)) / 2
    return [(first - short, one[0], one[1]), (second + short, two[0], two[1])]
