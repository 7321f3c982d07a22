"""Why it burned: one bar a mechanism, the share of the burn that goes without it, with its interval.

To the right it fed the burn, to the left it held it down. A tick in a bar is the Shapley value, where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from reports.charts.svg import Canvas, Scale, ticks
from reports.document import CausePart
from reports.notation import share, share_span

ROW = 26.0
NAMES = 290.0
MOST_SHOWN = 1.0
LEAST = -1.0
"""A mechanism that holds back more than the whole burn is cut here; its figure says how much."""


def causes_chart(causes: Sequence[CausePart], width: float = 860.0) -> str:
    """An SVG; empty without causes."""
    if not causes:
        return ""
    told = ", ".join(f"{cause.mechanism} {share(cause.share)}" for cause in causes)
    height = 30.0 + ROW * len(causes)
    canvas = Canvas(width, height, f"Share of the burn that goes without each mechanism: {told}")
    low = max(LEAST, min(0.0, *(cause.low for cause in causes)))
    high = min(MOST_SHOWN, max(0.1, *(cause.high for cause in causes)))
    x = Scale(low, high, NAMES, width - 150.0)
    bottom = height - 22.0
    for value in ticks(low, high, 6):
        canvas.line(x(value), 4, x(value), bottom, "axis" if value == 0 else "grid")
        canvas.text(x(value), height - 6, f"{value * 100:.0f} %", "tick", "middle")
    for index, cause in enumerate(causes):
        middle = 6.0 + ROW * (index + 0.5)
        canvas.text(NAMES - 12, middle + 4, cause.mechanism, "lane", "end")
        start, end = sorted((x(0.0), x(cause.share)))
        css = "cause-fault" if cause.kind == "fault" else "cause-protects" if cause.share < 0 else "cause"
        canvas.rect(start, middle - 7, end - start, 14, css)
        canvas.line(x(cause.low), middle, x(cause.high), middle, "cause-interval")
        if cause.shapley is not None:
            canvas.line(x(cause.shapley), middle - 10, x(cause.shapley), middle + 10, "cause-shapley")
        canvas.text(width - 132, middle + 4, share(cause.share), "cause-share")
        canvas.text(width - 84, middle + 4, share_span(cause.low, cause.high), "tick")
    return canvas.markup("chart")
