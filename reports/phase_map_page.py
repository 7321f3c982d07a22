"""The phase map as a page: one self-contained file, no script, nothing fetched."""

from __future__ import annotations

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports.charts.hysteresis import hysteresis_chart, recovery_chart
from reports.charts.phase_map import AXES, phase_map_chart
from reports.html import TEMPLATES
from sim.sweep.phase_map import Panel, PhaseMap, Point

STATES = {
    "stable": "comes back from this and every larger fault tested",
    "vulnerable": "comes back, but a larger fault tested sticks at this load, or this one does now and then",
    "metastable": "stays bad long after the fault is gone, in at least half of the plays",
    "overloaded": "bad at this load without any fault",
    "unknown": "the time was over before anything was played nearby",
}


def page(made: PhaseMap) -> str:
    """The whole file."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    present = {point.state for panel in made.panels for point in panel.points}
    ramps = {ramp.policy: ramp for ramp in made.ramps}
    panels = [
        {
            "policy": panel.policy,
            "today": _words(today(made, panel)) if made.has_today else "lies outside the map",
            "paper": panel.boundary_note,
            "map": Markup(phase_map_chart(made, panel)),
            "recovery": Markup(recovery_chart(made, panel)),
            "ramp": Markup(hysteresis_chart(ramps[panel.policy])) if panel.policy in ramps else None,
            "loop": ramps[panel.policy].loop if panel.policy in ramps else None,
        }
        for panel in made.panels
    ]
    css = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("phase_map.css", "phase_map_charts.css"))
    return environment.get_template("phase_map.html.j2").render(
        made=made,
        axis=AXES[made.axis],
        panels=panels,
        states=[(state, what) for state, what in STATES.items() if state in present],
        css=Markup(css),
    )


def today(made: PhaseMap, panel: Panel) -> Point:
    """The point of a panel that is nearest to today's load and size."""
    width = made.loads[-1] or 1.0
    height = made.sizes[-1] or 1.0
    return min(
        panel.points,
        key=lambda p: (
            abs(p.load - made.operating_load) / width + abs(p.size - made.operating_size) / height,
            p.load,
            p.size,
        ),
    )


def _words(point: Point) -> str:
    if point.state == "overloaded":
        return "overloaded, with or without the fault"
    if not point.plays:
        return f"{point.state}, by the points around it" if point.state != "unknown" else "unknown"
    text = f"{point.state}: stuck in {point.stuck} of {point.plays} plays (90 %: {point.low:.0%} to {point.high:.0%})"
    return text if point.recovery_seconds is None else f"{text}, back after {point.recovery_seconds:g} s"
