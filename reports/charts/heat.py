"""Latency heat map: every answered request by second and latency; the row on top has those that were bad.

Shows what percentiles hide: two populations (retried and not), a plateau at a timeout, a queue that fills.
"""

from __future__ import annotations

import math

from reports.charts.stage import Stage, time_plot
from reports.run import Run

LEVELS = 7
ROWS = 22
FASTEST = 0.002


def heat_chart(run: Run, stage: Stage, *, size: tuple[float, float] = (1080.0, 260.0)) -> str:
    """All requests, by intended send; empty where the run has none."""
    requests = run.requests((run.zero + stage.start, run.zero + stage.end))
    if not requests:
        return ""
    step = max(1.0, math.ceil((stage.end - stage.start) / 130.0))
    slowest = max([request.latency for request in requests if request.latency is not None] + [0.1])
    low, high = math.log10(FASTEST), math.log10(slowest * 1.05)
    marks = [
        v for v in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0) if low <= math.log10(v) <= high
    ]
    plot = time_plot(
        stage, "latency of every answered request over time", size, (low, high), lambda v: _latency(10**v),
        at=[math.log10(v) for v in marks], margins=(44.0, 14.0, 30.0, 52.0), marks=False,
    )  # fmt: skip
    cells: dict[tuple[int, int], int] = {}
    bad: dict[int, int] = {}
    for request in requests:
        column = math.floor((run.clock(request.intended_at) - stage.start) / step)
        if not request.good(None, run.timeout):
            bad[column] = bad.get(column, 0) + 1
        if request.latency is not None and request.latency > 0:
            row = math.floor((math.log10(max(request.latency, FASTEST)) - low) / (high - low) * ROWS)
            key = (column, min(ROWS - 1, max(0, row)))
            cells[key] = cells.get(key, 0) + 1
    x, canvas = plot.x, plot.canvas
    tall = (plot.bottom - plot.top) / ROWS
    most = max(cells.values(), default=1)
    wide = x(stage.start + step) - x(stage.start)
    for level in range(1, LEVELS + 1):
        pieces = [
            f"M{x(stage.start + column * step):.1f} {plot.bottom - (row + 1) * tall:.1f}"
            f"h{wide:.1f}v{tall:.1f}h-{wide:.1f}z"
            for (column, row), count in sorted(cells.items())
            if math.ceil(math.sqrt(count / most) * LEVELS) == level
        ]
        if pieces:
            canvas.add(f'<path class="heat" fill-opacity="{level / LEVELS:.2f}" d="{"".join(pieces)}"/>')
    canvas.text(plot.left - 6, plot.top - 10, "bad", "tick", "end")
    worst = max(bad.values(), default=1)
    for column, count in sorted(bad.items()):
        tall_bad = max(2.0, 26.0 * count / worst)
        canvas.rect(
            x(stage.start + column * step) + 0.4,
            plot.top - 6 - tall_bad,
            wide - 0.8,
            tall_bad,
            "heat-bad",
            f"{count} bad",
        )
    return canvas.markup("chart")


def _latency(value: float) -> str:
    return f"{value * 1000:g} ms" if value < 0.9995 else f"{value:g} s"
