"""The stage of all charts over time: one axis in seconds of the drill's clock, faults as bands, moments as marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reports.charts.svg import Canvas, Scale, ticks
from reports.document import DetectionPart, Document
from reports.run import Run

LETTER = 6.2
"""Width of a letter of a label, pixels, generously."""


@dataclass(frozen=True, slots=True)
class Band:
    """A fault while it was in."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment worth a line in every chart."""

    at: float
    text: str
    css: str


@dataclass(frozen=True, slots=True)
class Stage:
    """What happened when, in seconds of the drill's clock."""

    start: float
    end: float
    phases: tuple[tuple[str, float, float], ...]
    faults: tuple[Band, ...]
    marks: tuple[Mark, ...]

    @property
    def seal(self) -> tuple[float, float] | None:
        return next(((start, end) for name, start, end in self.phases if name == "seal"), None)


def stage_of(run: Run, document: Document, found: DetectionPart) -> Stage | None:
    """From the begin of the baseline to the end of what was watched, with the marks of one SLO's detection.

    None of a run that never measured anything.
    """
    names = [name for name in ("baseline", "seal", "inject", "recover") if name in run.windows]
    if not names:
        return None
    start, end = run.clock(run.windows[names[0]][0]), run.clock(run.windows[names[-1]][1])
    if end <= start:
        return None
    faults = tuple(
        Band(fault.name, run.clock(fault.injected_at), run.clock(fault.reverted_at) if fault.reverted_at else end)
        for fault in document.faults
        if fault.injected_at is not None
    )
    marks = [
        Mark(run.clock(at), text, css)
        for at, text, css in (
            (found.first_alert_at, "page", "mark-page"),
            (found.reverted_at, "revert", "mark-revert"),
            (found.recovered_at if found.onset_at is not None else None, "recovered", "mark-good"),
        )
        if at is not None
    ]
    marks += [Mark(run.clock(event.at), "abort", "mark-page") for event in run.events_of("abort")]
    phases = tuple((name, run.clock(run.windows[name][0]), run.clock(run.windows[name][1])) for name in names)
    return Stage(start, end, phases, faults, tuple(sorted(marks, key=lambda mark: mark.at)))


@dataclass(slots=True)
class Plot:
    """A canvas with a time axis below and a value axis to the left."""

    canvas: Canvas
    stage: Stage
    x: Scale
    y: Scale
    left: float
    right: float
    top: float
    bottom: float


def time_plot(
    stage: Stage,
    label: str,
    size: tuple[float, float],
    domain: tuple[float, float],
    show: Callable[[float], str],
    *,
    at: Sequence[float] | None = None,
    start: float | None = None,
    margins: tuple[float, float, float, float] = (22.0, 14.0, 30.0, 52.0),
    marks: bool = True,
) -> Plot:
    """An empty plot: bands, grid, axes. Margins: top, right, bottom, left."""
    width, height = size
    top, right, bottom, left = margins
    canvas = Canvas(width, height, label)
    x = Scale(stage.start if start is None else start, stage.end, left, width - right)
    y = Scale(domain[0], domain[1], height - bottom, top)
    plot = Plot(canvas, stage, x, y, left, width - right, top, height - bottom)
    _bands(plot)
    for value in at if at is not None else ticks(*domain, 5):
        canvas.line(left, y(value), width - right, y(value), "grid")
        canvas.text(left - 6, y(value) + 3.5, show(value), "tick", "end")
    _time_axis(plot)
    if marks:
        draw_marks(plot)
    return plot


def _bands(plot: Plot) -> None:
    x, canvas = plot.x, plot.canvas
    for band in plot.stage.faults:
        start, end = x(band.start), x(band.end)
        canvas.rect(start, plot.top, end - start, plot.bottom - plot.top, "band", f"{band.name} in")
        canvas.line(start, plot.top, start, plot.bottom, "band-edge")
    seal = plot.stage.seal
    if seal is not None and seal[1] > x.low:
        start, end = x(max(seal[0], x.low)), x(seal[1])
        canvas.rect(
            start, plot.top, end - start, plot.bottom - plot.top, "sealing", "forecast being computed: not measured"
        )


def _time_axis(plot: Plot) -> None:
    canvas, x = plot.canvas, plot.x
    canvas.line(plot.left, plot.bottom, plot.right, plot.bottom, "axis")
    values = ticks(x.low, x.high, max(3, int((plot.right - plot.left) / 62)))
    for value in values:
        canvas.line(x(value), plot.bottom, x(value), plot.bottom + 4, "axis")
        text = f"{value:g}".replace("-", "−")
        last = value == values[-1]
        canvas.text(x(value), plot.bottom + 16, f"{text} s" if last else text, "tick", "middle")


def draw_marks(plot: Plot) -> None:
    """Vertical lines with their names on top; a name that would cover the next goes to its line's left."""
    edge = -1e9
    names = [(plot.x(mark.at), mark) for mark in plot.stage.marks if mark.at >= plot.x.low]
    for index, (x, mark) in enumerate(names):
        plot.canvas.line(x, plot.top - 4, x, plot.bottom, f"mark {mark.css}")
        width = LETTER * len(mark.text) + 5
        following = names[index + 1][0] if index + 1 < len(names) else 1e9
        crowded = x + width > following or x + width > plot.canvas.width
        if crowded and x - width > edge:
            plot.canvas.text(x - 3, plot.top - 8, mark.text, f"mark-name {mark.css}", "end")
            edge = x
        elif x > edge:
            plot.canvas.text(x + 3, plot.top - 8, mark.text, f"mark-name {mark.css}")
            edge = x + width
