"""The table of a calibration, for people."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gameday.calibration.file import CalibrationFile, Row


def print_calibration(file: CalibrationFile) -> None:
    """Parameters with their intervals, what told them, what the window could not tell, notes."""
    console = Console(highlight=False)
    seconds = file.ended_at - file.started_at
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(file.started_at))
    console.print(Text(f"{file.app}, calibrated on {file.source}: {seconds:.0f} s from {when}\n"))
    table = Table(box=None, pad_edge=False)
    for column in ("parameter", "estimate", "90 % interval", "narrowed", "told by"):
        table.add_column(column, justify="right" if column in ("estimate", "narrowed") else "left", overflow="fold")
    for row in file.table:
        told = row.told_by or "not told by this window"
        table.add_row(
            row.parameter,
            shown(row.estimate, row.unit),
            interval(row),
            f"{row.narrowed:.0%}" if row.told_by else "–",
            Text(f"{told} ({row.note})" if row.note else told, style="" if row.told_by else "yellow"),
        )
    console.print(table)
    for note in file.notes:
        console.print(Text(f"note: {note}"))
    untold = sum(1 for row in file.table if row.told_by is None)
    if untold:
        console.print(Text(f"\n{untold} parameters were not told: a forecast draws them as wide as before the window."))


def interval(row: Row) -> str:
    """`1.9 – 2.1 ms`."""
    if row.low is None or row.high is None:
        return "–"
    return (
        shown(row.low, row.unit) if row.low == row.high else f"{shown(row.low, row.unit)} – {shown(row.high, row.unit)}"
    )


def shown(value: float | None, unit: str) -> str:
    """In the unit that people read."""
    if value is None:
        return "–"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1.0 else f"{value:.3g} s"
    if unit == "share":
        return f"{value:.3%}"
    return f"{value:.3g}{unit}"
