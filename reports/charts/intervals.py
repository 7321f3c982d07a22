"""Glyphs for tables: an interval with what was measured and what "nothing changes" said; whiskers on one scale."""

from __future__ import annotations

import math

from reports.charts.svg import Canvas, Scale
from reports.document import CounterfactualSloPart, PredictionPart
from reports.notation import span, times
from reports.reading import expected, interval, value
from sim.replication.course import EVENTS


def interval_glyph(row: PredictionPart, width: float = 190.0, height: float = 22.0) -> str:
    """Bar: 90 % interval, darker in its 80 and 50 % bands; tick: median; dot: measured inside; diamond: measured
    outside; cross: nothing changes. An event has no interval: its bar reaches from 0 to its probability, of 1."""
    event = row.quantity in EVENTS
    start, end = (0.0, row.median) if event else (row.low, row.high)
    values = [0.0, 1.0] if event else [start, end, row.median]
    values += [value for value in (row.measured, row.naive) if value is not None]
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    x = Scale(low - pad, high + pad, 4.0, width - 4.0)
    y = height / 2
    canvas = Canvas(
        width,
        height,
        f"forecast {expected(row) if event else interval(row)}, measured {value(row, row.measured)}",
    )
    canvas.line(4, y, width - 4, y, "glyph-axis")
    canvas.rect(x(start), y - 5, max(2.0, x(end) - x(start)), 10, "glyph-bar")
    for band in row.bands:
        canvas.rect(x(band.low), y - 5, max(2.0, x(band.high) - x(band.low)), 10, "glyph-bar")
    canvas.line(x(row.median), y - 5, x(row.median), y + 5, "glyph-median")
    if row.naive is not None:
        at = x(row.naive)
        canvas.add(f'<path class="glyph-naive" d="M{at - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6"/>')
    if row.measured is not None:
        if row.inside is False:
            canvas.diamond(x(row.measured), y, 5.5, "glyph-outside")
        else:
            canvas.circle(x(row.measured), y, 4, "glyph-inside")
    return canvas.markup("glyph")


def whisker_glyph(row: CounterfactualSloPart, top: float, width: float = 300.0, height: float = 22.0) -> str:
    """Budget spent on a logarithmic scale from 0.01× to `top`, one for all rows; the line at 1× is the whole budget."""
    x = Scale(math.log10(0.01), math.log10(max(top, 2.0) * 1.2), 4.0, width - 4.0)

    def at(value: float) -> float:
        return x(math.log10(max(value, 0.01)))

    y = height / 2
    interval = span("budget_spent", row.budget_spent_low, row.budget_spent_high)
    told = f"budget spent {times(row.budget_spent_median)}, 90 % interval {interval}"
    canvas = Canvas(width, height, told)
    canvas.rect(at(1.0), 0, width - at(1.0), height, "glyph-over")
    canvas.line(4, y, width - 4, y, "glyph-axis")
    canvas.line(at(1.0), 0, at(1.0), height, "target")
    canvas.line(at(row.budget_spent_low), y, at(row.budget_spent_high), y, "whisker")
    canvas.circle(at(row.budget_spent_median), y, 4, "glyph-model")
    return canvas.markup("glyph long")
