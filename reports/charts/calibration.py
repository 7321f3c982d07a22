"""Nominal against observed coverage: what share of measured values the 50, 80 and 90 % intervals really held.

A point on the diagonal says what it claims; below it forecasts are too sure, above it they are too wide. Whiskers are
90 % bands over resampled runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.charts.svg import Canvas, Scale


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """One level of one group of forecasts; shares."""

    nominal: float
    observed: float
    low: float | None
    high: float | None


def calibration_chart(groups: Sequence[tuple[str, str, Sequence[CalibrationPoint]]], size: float = 330.0) -> str:
    """`groups`: (name, css class, points). An SVG."""
    told = "; ".join(
        f"{name}: " + ", ".join(f"{point.observed:.0%} inside {point.nominal:.0%}" for point in points)
        for name, _, points in groups
    )
    canvas = Canvas(size, size, f"Coverage of prediction intervals. {told}")
    left, bottom, top, right = 46.0, size - 40.0, 16.0, size - 14.0
    x, y = Scale(0.4, 1.0, left, right), Scale(0.0, 1.0, bottom, top)
    for value in (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0):
        canvas.line(left, y(value), right, y(value), "grid")
        canvas.text(left - 6, y(value) + 4, f"{value:.0%}", "tick", "end")
    for value in (0.5, 0.8, 0.9):
        canvas.line(x(value), bottom, x(value), bottom + 4, "axis")
        canvas.text(x(value), bottom + 16, f"{value:.0%}", "tick", "middle")
    canvas.line(left, bottom, right, bottom, "axis")
    canvas.line(x(0.4), y(0.4), x(1.0), y(1.0), "target")
    canvas.text((left + right) / 2, size - 6, "interval claims", "tick", "middle")
    canvas.text(left, 10, "share inside", "tick")
    legend = bottom - 16.0 * len(groups) + 4.0
    for index, (name, css, points) in enumerate(groups):
        shift = 5.0 * (index - (len(groups) - 1) / 2.0)
        for point in points:
            at = x(point.nominal) + shift
            if point.low is not None and point.high is not None:
                canvas.line(at, y(point.low), at, y(point.high), f"whisker {css}")
            told_point = f"{name}: {point.observed:.1%} inside {point.nominal:.0%}"
            _dot(canvas, index, at, y(point.observed), css, told_point)
        row = legend + 16.0 * index
        _dot(canvas, index, right - 122, row - 4, css)
        canvas.text(right - 113, row, name, "tick")
    return canvas.markup("chart")


def _dot(canvas: Canvas, index: int, x: float, y: float, css: str, title: str | None = None) -> None:
    """Each group has a shape of its own beside its colour."""
    if index % 3 == 0:
        canvas.circle(x, y, 4, f"dot {css}", title)
    elif index % 3 == 1:
        canvas.diamond(x, y, 5.5, f"dot {css}", title)
    else:
        canvas.rect(x - 3.5, y - 3.5, 7, 7, f"dot {css}", title)
