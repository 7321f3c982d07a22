"""Offered, answered and dropped load: whether the drill really pressed as hard as it claims to have."""

from __future__ import annotations

import math

from reports.charts.stage import Stage, time_plot
from reports.run import Run

STEP = 2.0


def load_chart(run: Run, stage: Stage, *, size: tuple[float, float] = (1080.0, 190.0)) -> str:
    """Requests a second by intended send: offered, answered at all, answered well, dropped at the in-flight cap."""
    first, last = math.ceil(stage.start / STEP - 1e-9), math.floor(stage.end / STEP + 1e-9)
    length = last - first
    if length < 2:
        return ""
    offered, answered, well, dropped = ([0.0] * length for _ in range(4))
    for request in run.requests((run.zero + first * STEP, run.zero + last * STEP)):
        index = min(length - 1, max(0, math.floor(run.clock(request.intended_at) / STEP) - first))
        offered[index] += 1 / STEP
        answered[index] += (request.status is not None) / STEP
        well[index] += request.good(None, run.timeout) / STEP
        dropped[index] += (request.sent_at is None) / STEP
    top = max([*offered, 1.0]) * 1.12
    plot = time_plot(
        stage, "offered, answered and dropped requests a second", size, (0.0, top), lambda v: f"{v:g}/s" if v else "0",
    )  # fmt: skip
    canvas, x, y = plot.canvas, plot.x, plot.y
    middles = [(first + index + 0.5) * STEP for index in range(length)]
    for middle, rate in zip(middles, dropped, strict=True):
        if rate:
            left = x(middle - STEP / 2) + 0.5
            canvas.rect(
                left, y(rate), x(middle + STEP / 2) - left - 0.5, y(0.0) - y(rate), "dropped", f"{rate:.1f}/s dropped"
            )
    canvas.curve([(x(m), y(v)) for m, v in zip(middles, offered, strict=True)], "offered")
    canvas.curve([(x(m), y(v)) for m, v in zip(middles, answered, strict=True)], "answered")
    canvas.curve([(x(m), y(v)) for m, v in zip(middles, well, strict=True)], "measured")
    return canvas.markup("chart")
