"""Two charts over load: goodput up and down a ramp, and how long recovery takes, which runs off at the boundary."""

from __future__ import annotations

from collections.abc import Sequence

from reports.charts.svg import Canvas, Point, Scale, ticks
from sim.sweep.hysteresis import Ramp, Step
from sim.sweep.phase_map import Panel, PhaseMap


def hysteresis_chart(ramp: Ramp, width: float = 520.0, height: float = 240.0) -> str:
    """Offered load against what of it is answered well; up solid, down dashed, with arrows in the names."""
    high = ramp.up[-1].load
    loop = ramp.loop
    found = f"a loop from {loop[0]:g} to {loop[1]:g}/s" if loop else "no loop"
    canvas, x, y = _frame(f"load ramp, policy {ramp.policy}: {found}", high, high, "goodput, journeys/s", width, height)
    canvas.curve([(x(0.0), y(0.0)), (x(high), y(high))], "offered")
    peak = ramp.up[-1]

    def points(steps: Sequence[Step]) -> list[Point]:
        return [(x(s.load), y(s.load * s.share)) for s in steps]

    canvas.curve(points([peak, *ramp.down]), "ramp-down")
    canvas.curve(points(ramp.up), "ramp-up")
    for css, name, steps in (("ramp-up", "up", ramp.up), ("ramp-down", "down", ramp.down)):
        for step in steps:
            said = f"{name} to {step.load:g}/s: {step.share:.0%} answered well"
            canvas.circle(x(step.load), y(step.load * step.share), 3.0, f"{css}-dot", said)
    return canvas.markup("chart hysteresis")


def recovery_chart(made: PhaseMap, panel: Panel, width: float = 520.0, height: float = 240.0) -> str:
    """Median time to recover from today's size of fault at each load; crosses on top where it did not come back."""
    count = len(made.sizes)
    row = min(range(count), key=lambda i: abs(made.sizes[i] - made.operating_size))
    points = [p for p in panel.points[row::count] if p.plays]
    back = [p for p in points if p.recovery_seconds is not None]
    top = 1.1 * max([p.recovery_seconds or 0.0 for p in back] + [10.0])
    canvas, x, y = _frame(
        f"recovery time over load, policy {panel.policy}", made.loads[-1], top, "seconds to recover", width, height
    )
    canvas.curve([(x(p.load), y(p.recovery_seconds or 0.0)) for p in back], "ramp-up")
    for p in back:
        canvas.circle(
            x(p.load), y(p.recovery_seconds or 0.0), 3.0, "ramp-up-dot", f"{p.load:g}/s: {p.recovery_seconds:g} s"
        )
    for p in points:
        if p.stuck:
            said = f"{p.load:g}/s: stuck in {p.stuck} of {p.plays}"
            canvas.text(x(p.load), y(top) + 5, "×", "stuck-mark", "middle")
            canvas.circle(x(p.load), y(top), 5.0, "invisible", said)
    if panel.boundary_load is not None and panel.boundary_load <= made.loads[-1]:
        canvas.line(x(panel.boundary_load), y(0.0), x(panel.boundary_load), y(top), "on-paper")
    return canvas.markup("chart recovery")


def _frame(
    label: str, high_x: float, high_y: float, name: str, width: float, height: float
) -> tuple[Canvas, Scale, Scale]:
    canvas = Canvas(width, height, label)
    left, right, top, bottom = 52.0, width - 14.0, 16.0, height - 42.0
    x, y = Scale(0.0, high_x, left, right), Scale(0.0, high_y, bottom, top)
    for value in ticks(0.0, high_y, 4):
        canvas.line(left, y(value), right, y(value), "grid")
        canvas.text(left - 6, y(value) + 4, f"{value:g}", "tick", "end")
    for value in ticks(0.0, high_x, 6):
        canvas.text(x(value), bottom + 16, f"{value:g}", "tick", "middle")
    middle = (top + bottom) / 2
    canvas.text((left + right) / 2, height - 8, "offered load, journeys/s", "tick", "middle")
    canvas.add(
        f'<text class="tick" text-anchor="middle" transform="rotate(-90 13 {middle:.1f})" x="13" y="{middle:.1f}">'
        f"{name}</text>"
    )
    return canvas, x, y
