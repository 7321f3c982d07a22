"""PIT histogram: where measured values lay within their forecasts' distributions.

Flat is calibrated. A bowl: forecasts are too sure, reality lies in their tails. A hill: too wide. A slope: biased.
"""

from __future__ import annotations

from collections.abc import Sequence

from reports.charts.svg import Canvas, Scale


def pit_chart(
    counts: Sequence[float], band: tuple[float, float] | None = None, width: float = 330.0, height: float = 220.0
) -> str:
    """`counts`: of each of equal bins of [0, 1]. `band`: shares of all between which a bin of a calibrated forecaster
    lies nine times in ten. An SVG."""
    total = sum(counts) or 1.0
    shares = [count / total for count in counts]
    expected = 1.0 / len(counts)
    top_share = max(0.2, *(share * 1.1 for share in shares))
    canvas = Canvas(width, height, "PIT histogram: " + ", ".join(f"{share:.0%}" for share in shares))
    left, right, top, bottom = 40.0, width - 10.0, 16.0, height - 40.0
    x, y = Scale(0.0, 1.0, left, right), Scale(0.0, top_share, bottom, top)
    step = 0.1 if top_share <= 0.6 else 0.2
    for index in range(int(top_share / step) + 1):
        canvas.line(left, y(index * step), right, y(index * step), "grid")
        canvas.text(left - 6, y(index * step) + 4, f"{index * step:.0%}", "tick", "end")
    if band is not None:
        canvas.rect(left, y(band[1]), right - left, y(band[0]) - y(band[1]), "sealing", "calibrated, nine times in ten")
    for index, share in enumerate(shares):
        start, end = x(index / len(shares)), x((index + 1) / len(shares))
        inside = f"{share:.1%} between {index / len(shares):.0%} and {(index + 1) / len(shares):.0%}"
        canvas.rect(start + 1, y(share), end - start - 2, bottom - y(share), "glyph-bar", inside)
    canvas.line(left, y(expected), right, y(expected), "target")
    canvas.line(left, bottom, right, bottom, "axis")
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.text(x(value), bottom + 16, f"{value:g}", "tick", "middle")
    canvas.text((left + right) / 2, height - 6, "measured value's place in its forecast (PIT)", "tick", "middle")
    return canvas.markup("chart")
