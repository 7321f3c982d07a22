"""Sharpness: how wide 90 % intervals are, for each quantity, as quartiles on a logarithmic scale.

Coverage can be bought with width; this chart shows the price. Widths are on the quantity's scale
(`sim/scoring/score.py`): 1 is a factor of 2.7 in latency, five points of success rate, nearly two budgets from none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reports.charts.svg import Canvas, Scale

LEAST, MOST = 0.001, 100.0


def sharpness_chart(rows: Sequence[tuple[str, Sequence[float]]], width: float = 600.0) -> str:
    """`rows`: (name, widths on the scale, one or more). An SVG."""
    height = 46.0 + 22.0 * len(rows)
    left, right, top, bottom = 250.0, width - 46.0, 8.0, height - 38.0
    x = Scale(math.log10(LEAST), math.log10(MOST), left, right)

    def at(value: float) -> float:
        return x(math.log10(min(MOST, max(LEAST, value))))

    told = "; ".join(f"{name} {float(np.median(values)):.3g}" for name, values in rows)
    canvas = Canvas(width, height, f"Median width of 90 % intervals. {told}")
    for power in range(-3, 3):
        canvas.line(at(10.0**power), top, at(10.0**power), bottom, "grid")
        canvas.text(at(10.0**power), bottom + 16, f"{10.0**power:g}", "tick", "middle")
    for index, (name, values) in enumerate(rows):
        y = top + 22.0 * index + 12.0
        low, middle, high = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
        canvas.text(left - 8, y + 4, name, "lane", "end")
        canvas.rect(at(low), y - 5, max(2.0, at(high) - at(low)), 10, "glyph-bar", f"quartiles {low:.3g} – {high:.3g}")
        canvas.line(at(middle), y - 6, at(middle), y + 6, "glyph-median")
        canvas.text(right + 6, y + 4, f"{middle:.2g}", "tick")
    canvas.line(left, bottom, right, bottom, "axis")
    canvas.text(
        (left + right) / 2, height - 6, "width of the 90 % interval, on the scale of the scores", "tick", "middle"
    )
    return canvas.markup("chart")
