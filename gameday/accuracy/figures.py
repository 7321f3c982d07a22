"""The page's charts, written beside it: calibration, PIT, sharpness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gameday.accuracy.acceptance import coverage, mark_moved
from gameday.accuracy.evidence import Evidence
from reports.charts.calibration import CalibrationPoint, calibration_chart
from reports.charts.pit import pit_chart
from reports.charts.sharpness import sharpness_chart
from reports.charts.standalone import standalone
from reports.notation import quantity_name
from sim.scoring.coverage import binomial_band
from sim.scoring.rules import pit_histogram
from sim.scoring.score import LEVELS, is_event

BINS = 10


def write_figures(page: Path, evidence: Sequence[Evidence]) -> list[tuple[str, str]]:
    """Writes `<page>-calibration.svg` and so on beside the page; (file name, what it shows) of each."""
    if not evidence:
        return []
    evidence = mark_moved(evidence)
    tuning = [run for run in evidence if run.part == "tuning"]
    held_out = [run for run in evidence if run.part == "held-out"]
    pits = [
        (name, f"PIT of the quantities that the faults moved{part}; flat is calibrated, grey is chance", chart)
        for name, part, runs in (("pit", "", tuning), ("pit-held-out", ", held out", held_out))
        if (chart := _pit(runs))
    ]
    drawn = [
        (
            "calibration",
            "Share of measured values inside the 50, 80 and 90 % intervals",
            _calibration(tuning, held_out),
        ),
        *pits,
        ("sharpness", "Width of the 90 % intervals by quantity, both halves", _sharpness(evidence)),
    ]
    written = []
    for name, caption, chart in drawn:
        path = page.with_name(f"{page.stem}-{name}.svg")
        path.write_text(standalone(chart))
        written.append((path.name, caption))
    return written


def _calibration(tuning: Sequence[Evidence], held_out: Sequence[Evidence]) -> str:
    groups = [("all quantities", "all", _points(tuning, moved_only=False))]
    groups.append(("moved by the fault", "moved", _points(tuning, moved_only=True)))
    groups.append(("held out, moved", "held-out", _points(held_out, moved_only=True)))
    return calibration_chart([group for group in groups if group[2]])


def _points(runs: Sequence[Evidence], *, moved_only: bool) -> list[CalibrationPoint]:
    points = []
    for index, nominal in enumerate(LEVELS):
        share = coverage(runs, index, moved_only=moved_only)
        if share.value is not None:
            points.append(CalibrationPoint(nominal, share.value, share.low, share.high))
    return points


def _pit(evidence: Sequence[Evidence]) -> str:
    """Empty where no fault moved anything."""
    moved = [row.pit for run in evidence for row in run.moved_rows if not is_event(row.quantity)]
    if not moved:
        return ""
    share = coverage(evidence, moved_only=True)
    band = binomial_band(1.0 / BINS, share.effective) if share.effective >= BINS else None
    return pit_chart(pit_histogram(moved, BINS), band)


def _sharpness(evidence: Sequence[Evidence]) -> str:
    groups: dict[str, list[float]] = {}
    for run in evidence:
        for row in run.rows:
            if is_event(row.quantity):
                continue
            groups.setdefault(f"{quantity_name(row.quantity)}, {row.window}", []).append(row.width)
    return sharpness_chart(sorted(groups.items()))
