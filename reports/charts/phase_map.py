"""The phase map of one policy: load to the right, size of the fault upwards, a cell for each point.

States differ in colour (Okabe and Ito's, told apart by all kinds of colour vision), in brightness and by a letter. A
cell whose plays differ shows P(stuck) in per cent instead; one that was not played is pale.
"""

from __future__ import annotations

from itertools import pairwise

from reports.charts.svg import Canvas, Scale, number, ticks
from sim.sweep.phase_map import Panel, PhaseMap, Point

AXES = {
    "duration": "fault lasts, s",
    "latency": "fault adds, s",
    "errors": "fault fails, share",
    "replicas": "fault hits, pods",
}
LETTERS_FROM = 9.0
"""Pixels of a cell's shorter side that a letter needs."""


def phase_map_chart(made: PhaseMap, panel: Panel, width: float = 520.0, height: float = 300.0) -> str:
    """One panel as SVG."""
    states = ", ".join(
        f"{sum(p.state == state for p in panel.points)} {state}"
        for state in dict.fromkeys(p.state for p in panel.points)
    )
    canvas = Canvas(width, height, f"phase map, policy {panel.policy}: {states}")
    left, right, top, bottom = 52.0, width - 12.0, 12.0, height - 42.0
    columns, rows = _edges(made.loads), _edges(made.sizes)
    x, y = Scale(columns[0], columns[-1], left, right), Scale(rows[0], rows[-1], bottom, top)
    count = len(made.sizes)
    for index, point in enumerate(panel.points):
        column, row = divmod(index, count)
        box = (x(columns[column]), y(rows[row + 1]), x(columns[column + 1]), y(rows[row]))
        _cell(canvas, made, point, box)
    for value in ticks(columns[0], columns[-1], 6):
        canvas.text(x(value), bottom + 16, f"{value:g}", "tick", "middle")
    for value in ticks(rows[0], rows[-1], 5):
        canvas.text(left - 6, y(value) + 4, f"{value:g}", "tick", "end")
    canvas.text((left + right) / 2, height - 8, "offered load, journeys/s", "tick", "middle")
    canvas.add(
        f'<text class="tick" text-anchor="middle" transform="rotate(-90 13 {number((top + bottom) / 2)})" x="13"'
        f' y="{number((top + bottom) / 2)}">{AXES[made.axis]}</text>'
    )
    if panel.boundary_load is not None and columns[0] <= panel.boundary_load <= columns[-1]:
        at = x(panel.boundary_load)
        canvas.line(at, top, at, bottom, "paper-halo")
        canvas.line(at, top, at, bottom, "on-paper")
    if made.has_today:
        _today(canvas, made, x, y)
    return canvas.markup("chart phase-map")


def _cell(canvas: Canvas, made: PhaseMap, point: Point, box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = box
    pale = "" if point.plays or point.state in ("overloaded", "unknown") else " pale"
    said = f"load {point.load:g}/s, {AXES[made.axis].replace(',', '')} {point.size:g}: {point.state}"
    if point.plays:
        said += f"; stuck in {point.stuck} of {point.plays} (90 %: {point.low:.0%} to {point.high:.0%})"
    if point.recovery_seconds is not None:
        said += f"; back after {point.recovery_seconds:g} s"
    canvas.rect(left, top, right - left - 0.8, bottom - top - 0.8, f"state {point.state}{pale}", said)
    if min(right - left, bottom - top) < LETTERS_FROM or point.state == "unknown":
        return
    letter = point.state[0].upper()
    if 0 < point.stuck < point.plays and right - left >= 2 * LETTERS_FROM:
        letter = f"{100 * point.stuck / point.plays:.0f}%"
    canvas.text((left + right) / 2, (top + bottom) / 2 + 3.5, letter, f"in-{point.state}", "middle")


def _today(canvas: Canvas, made: PhaseMap, x: Scale, y: Scale) -> None:
    said = f"today: load {made.operating_load:g}/s, size {made.operating_size:g}"
    at = (x(made.operating_load), y(made.operating_size))
    canvas.circle(*at, 9.0, "today-halo", said)
    canvas.circle(*at, 9.0, "today", said)
    canvas.circle(*at, 2.2, "today-point", said)


def _edges(values: tuple[float, ...]) -> list[float]:
    """Borders of cells around ascending values: halfway between two, and as far outside at both ends."""
    if len(values) == 1:
        return [0.5 * values[0], 1.5 * values[0]]
    inner = [0.5 * (a + b) for a, b in pairwise(values)]
    return [max(0.0, 2 * values[0] - inner[0]), *inner, 2 * values[-1] - inner[-1]]
