"""One axis for everything: phases, faults, each SLO's bad seconds, and numbered events by where they came from.

The numbers are those of the table of events beside the chart.
"""

from __future__ import annotations

import math

from reports.charts.stage import LETTER, Stage
from reports.charts.svg import Canvas, Scale, ticks
from reports.document import TimelinePart
from reports.run import Run
from scenarios.model import SloSpec
from scenarios.slo import MONTH_RULES, SHORTEST_LONG_WINDOW

LEAST_LEFT, RIGHT, LANE = 92.0, 14.0, 24.0
RADIUS = 7.5
PAGING = min(rule.factor for rule in MONTH_RULES if rule.severity == "page")
_LANES = (
    ("chaos", "in and out"),
    ("slo", "alerts"),
    ("mesh", "mesh"),
    ("load", "load"),
    ("reaper", "reaper"),
    ("gameday", "harness"),
)
_SHORT = {"baseline": "baseline", "seal": "seal", "inject": "inject", "recover": "recover"}


def numbered(entries: list[TimelinePart]) -> list[tuple[int, TimelinePart]]:
    """Events as they are numbered in chart and table; phases have a strip of their own."""
    return list(enumerate((entry for entry in entries if entry.kind != "phase"), start=1))


def timeline_chart(
    run: Run, stage: Stage, entries: list[TimelinePart], slos: tuple[SloSpec, ...], width: float = 1080.0
) -> str:
    """The chart; lanes without an event are left out."""
    left = max(LEAST_LEFT, 12.0 + LETTER * max((len(slo.name) for slo in slos), default=0))
    x = Scale(stage.start, stage.end, left, width - RIGHT)
    events = [(index, entry) for index, entry in numbered(entries) if stage.start <= entry.second <= stage.end]
    known = {lane for lane, _ in _LANES}
    lanes = []
    for source, name in _LANES:
        mine = [(i, e) for i, e in events if e.source == source or (source == "gameday" and e.source not in known)]
        if mine:
            lanes.append((name, _stacked(mine, x)))
    rows = sum(max(row for *_, row in placed) + 1 for _, placed in lanes)
    height = 22 + LANE * (1 + len(stage.faults) + len(slos)) + rows * (2 * RADIUS + 3) + 6 * len(lanes) + 34
    canvas = Canvas(width, height, "timeline of the run")
    bottom = height - 30
    for band in stage.faults:
        canvas.rect(x(band.start), 4, x(band.end) - x(band.start), bottom - 4, "band")
    y = 4.0
    for name, start, end in stage.phases:
        canvas.rect(x(start) + 0.5, y, x(end) - x(start) - 1, 16, f"phase phase-{name}")
        if x(end) - x(start) > 44:
            canvas.text((x(start) + x(end)) / 2, y + 11.5, _SHORT.get(name, name), "phase-name", "middle")
    canvas.text(left - 8, y + 11.5, "phase", "lane", "end")
    y += LANE
    for band in stage.faults:
        canvas.text(left - 8, y + 11.5, "fault", "lane", "end")
        canvas.rect(x(band.start), y + 1, x(band.end) - x(band.start), 15, "fault", band.name)
        canvas.text(x(band.start) + 5, y + 12, band.name, "fault-name")
        y += LANE
    for slo in slos:
        canvas.text(left - 8, y + 11.5, slo.name, "lane", "end")
        _burning(canvas, run, slo, stage, x, y + 3)
        y += LANE
    for name, placed in lanes:
        canvas.text(left - 8, y + 11.5, name, "lane", "end")
        for index, entry, where, row in placed:
            middle = y + RADIUS + 1 + row * (2 * RADIUS + 3)
            if abs(where - x(entry.second)) > 1:
                canvas.line(x(entry.second), middle, where, middle, "event-lead")
            canvas.circle(where, middle, RADIUS, f"event event-{_tone(entry)}", f"{entry.second:+.1f} s {entry.text}")
            canvas.text(where, middle + 3.3, str(index), "event-number", "middle")
        y += (max(row for *_, row in placed) + 1) * (2 * RADIUS + 3) + 6
    canvas.line(left, bottom, width - RIGHT, bottom, "axis")
    values = ticks(stage.start, stage.end, 13)
    for value in values:
        text = f"{value:g}".replace("-", "−")
        canvas.line(x(value), bottom, x(value), bottom + 4, "axis")
        canvas.text(x(value), bottom + 16, f"{text} s" if value == values[-1] else text, "tick", "middle")
    return canvas.markup("chart")


def _stacked(events: list[tuple[int, TimelinePart]], x: Scale) -> list[tuple[int, TimelinePart, float, int]]:
    """(number, event, x, row): a marker that would cover another goes a row down; in the third row it moves right."""
    free = [-1e9, -1e9, -1e9]
    placed = []
    for index, entry in events:
        where = x(entry.second)
        row = next((row for row, edge in enumerate(free) if where >= edge), len(free) - 1)
        where = max(where, free[row])
        free[row] = where + 2 * RADIUS + 1.5
        placed.append((index, entry, where, row))
    return placed


def _burning(canvas: Canvas, run: Run, slo: SloSpec, stage: Stage, x: Scale, y: float) -> None:
    """A strip by second: pale where the budget burns faster than allowed, full where it burns fast enough to page.

    The burn is that of the five seconds around each second.
    """
    canvas.rect(x(stage.start), y + 5, x(stage.end) - x(stage.start), 2, "quiet-strip")
    meter = run.meter(slo)
    begun, level = stage.start, ""
    for second in range(math.ceil(stage.start), math.floor(stage.end) + 1):
        burn = meter.burn(second + 1 + SHORTEST_LONG_WINDOW // 2, SHORTEST_LONG_WINDOW)
        now = "" if second >= stage.end - 1 or burn <= 1.0 else "burning" if burn >= PAGING else "warming"
        if now != level:
            if level:
                canvas.rect(x(begun), y, x(second) - x(begun), 12, level, f"{slo.name} burns its budget too fast")
            begun, level = float(second), now


def _tone(entry: TimelinePart) -> str:
    if entry.kind in ("inject", "alert", "abort", "error", "kill", "down", "verdict"):
        return "bad"
    return "good" if entry.kind in ("revert", "heal", "up") else "plain"
