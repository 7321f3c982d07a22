"""The phase map on a terminal: one letter a point, the fault's size upwards, load to the right; colours on top of it.

S stable   V vulnerable   M metastable   O overloaded     lower case: not played, taken from the points around
[ ] around today's point, ? for a point whose plays leave both sides of P(stuck) = 50 % open
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from sim.sweep.phase_map import Panel, PhaseMap, Point

STYLES = {"stable": "blue", "vulnerable": "yellow", "metastable": "bold red", "overloaded": "dim", "unknown": "dim"}
AXES = {
    "duration": "the fault lasts, seconds",
    "latency": "the fault adds, seconds",
    "errors": "the fault fails, share of requests",
    "replicas": "the fault hits, pods",
}


def print_map(made: PhaseMap, console: Console) -> None:
    """All panels, the boundary in numbers, legend and notes."""
    variant = f" (variant {made.variant})" if made.variant else ""
    console.print(
        f"Phase map of {made.scenario}{variant}: up {AXES[made.axis]}; to the right journeys a second", style="bold"
    )
    for panel in made.panels:
        console.print()
        _print_panel(made, panel, console)
    if made.ramps:
        console.print()
        console.print("Load up and down without a fault", style="bold")
        for ramp in made.ramps:
            loop = ramp.loop
            found = (
                f"a loop: served on the way up and not on the way down from {loop[0]:g} to {loop[1]:g}/s"
                if loop
                else "no loop"
            )
            console.print(f"  {ramp.policy}: {found}")
    console.print()
    console.print(_legend())
    for note in made.notes:
        console.print(note, style="dim", markup=False)


def _print_panel(made: PhaseMap, panel: Panel, console: Console) -> None:
    console.print(f"policy: {panel.policy}", style="bold", markup=False)
    count = len(made.sizes)
    today = (nearest(made.loads, made.operating_load), nearest(made.sizes, made.operating_size))
    for y in reversed(range(count)):
        line = Text(f"{made.sizes[y]:>8.4g} ")
        for x in range(len(made.loads)):
            point = panel.points[x * count + y]
            left, right = ("[", "]") if made.has_today and (x, y) == today else (" ", " ")
            line.append(left)
            line.append(letter(point), STYLES[point.state])
            line.append(right)
        console.print(line, no_wrap=True, crop=False, overflow="ignore")
    console.print(Text(_load_axis(made.loads)), no_wrap=True, crop=False, overflow="ignore")
    here = panel.points[today[0] * count + today[1]]
    console.print(f"  today: {here.state}{_chance(here)}" if made.has_today else "  today: outside", markup=False)
    console.print(f"  on paper: {panel.boundary_note}", markup=False)


def letter(point: Point) -> str:
    """One character for a point."""
    if point.state == "unknown":
        return "·"
    if point.plays > 1 and point.low < 0.5 < point.high:
        return "?"
    mark = point.state[0].upper()
    return mark if point.plays or point.state == "overloaded" else mark.lower()


def nearest(values: tuple[float, ...], value: float) -> int:
    """Index of the value that is closest."""
    return min(range(len(values)), key=lambda index: abs(values[index] - value))


def _chance(point: Point) -> str:
    if point.state == "overloaded":
        return ", with or without the fault"
    if point.state == "unknown":
        return ", the time was over before"
    if not point.plays:
        return ", by the points around it"
    back = f"; back after {point.recovery_seconds:g} s" if point.recovery_seconds is not None else ""
    return f", stuck in {point.stuck} of {point.plays} plays (90 %: {point.low:.0%} to {point.high:.0%}){back}"


def _load_axis(loads: tuple[float, ...]) -> str:
    line = " " * 9
    for index, load in enumerate(loads):
        place = 9 + 3 * index
        if len(line) <= place:
            line = line.ljust(place) + f"{load:<.4g} "
    return line


def _legend() -> Text:
    text = Text()
    for state, what in (
        ("stable", "comes back"),
        ("vulnerable", "comes back, a larger fault sticks"),
        ("metastable", "stays bad after the fault is gone"),
        ("overloaded", "bad without a fault"),
    ):
        text.append(state[0].upper(), STYLES[state])
        text.append(f" {state}: {what}   ")
    text.append("\n? P(stuck) is open to both sides of 50 %   lower case: not played   [ ] today")
    return text
