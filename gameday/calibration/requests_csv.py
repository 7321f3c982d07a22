"""Requests of an application as a table: when, which route, how long, what came of it.

    time,route,latency,status
    1767225600.012,GET shop /cart,0.0131,200
    2026-01-01T00:00:00.020Z,POST shop /orders,,        (no answer)

Columns in any order, found by their names; `latency_ms` in place of `latency` is in milliseconds. A route is
`METHOD service /path`, as in the application's journeys.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gameday.errors import BadInput
from scenarios.model import Application
from sim.observation import ClientSample

MOST_BAD = 0.01
"""Share of rows that may be unreadable; more, and the file is not what it seems."""
LATEST_SECONDS = 1e11
LONGEST = 3_600.0
UNORDERED_SECONDS = 5.0
"""By how much a row may be older than one before it, beyond the longest latency: logs are written when answers come."""


@dataclass(frozen=True, slots=True)
class Requests:
    """In order of their sending."""

    samples: tuple[ClientSample, ...]
    notes: tuple[str, ...]


def read_requests(path: Path, app: Application) -> Requests:
    """The table in `path`.

    Raises:
        BadInput: not readable, columns missing, no row, more than one row in a hundred unreadable, or a clock that
            went back.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    try:
        rows = list(csv.DictReader(text.splitlines()))
    except csv.Error as error:
        raise BadInput(f"{path}: not a table of comma-separated values: {error}") from None
    columns = {str(name).strip().lower(): name for name in (rows[0] if rows else {}) if name is not None}
    latency = "latency" if "latency" in columns else "latency_ms"
    missing = [name for name in ("time", "route", latency, "status") if rows and name not in columns]
    if missing:
        raise BadInput(f"{path}:1: no column {', '.join(missing)}; time, route, latency and status are needed")
    unit = 1.0 if latency == "latency" else 1e-3
    known = {f"{r.method} {s.name} {r.path}" for s in app.services for r in s.routes}
    samples: list[ClientSample] = []
    bad: list[int] = []
    elsewhere = 0
    for number, row in enumerate(rows, start=2):
        sample = _sample({name: (row[column] or "").strip() for name, column in columns.items()}, latency, unit)
        if sample is None:
            bad.append(number)
        elif sample.route not in known:
            elsewhere += 1
        else:
            samples.append(sample)
    if len(bad) > MOST_BAD * len(rows):
        raise BadInput(
            f"{path}:{bad[0]}: unreadable, and {len(bad) - 1} rows more; see docs/calibration.md for the columns"
        )
    if not samples:
        why = f"none of its {elsewhere} requests is to a route of {app.name}" if elsewhere else "no request in it"
        raise BadInput(f"{path}: {why}; a route is written as in the journeys: `GET service /path`")
    _check_clock(path, samples)
    notes: list[str] = []
    if bad:
        notes.append(f"{len(bad)} rows of {path.name} are unreadable: left out")
    if elsewhere:
        notes.append(f"{elsewhere} requests of {path.name} are to routes that {app.name} does not have: left out")
    return Requests(tuple(sorted(samples, key=lambda s: s.intended_at)), tuple(notes))


def _check_clock(path: Path, samples: Sequence[ClientSample]) -> None:
    """Sorted, rows from before a jump and after it would look like one busy window."""
    longest = max(sample.latency or 0.0 for sample in samples)
    latest = -math.inf
    for sample in samples:
        back = latest - sample.intended_at
        if back > UNORDERED_SECONDS + longest:
            raise BadInput(
                f"{path}: after a request of {latest:.0f} comes one of {back:.0f} s earlier: the clock jumped, or logs"
                " were joined; split the table there, or sort its rows by time"
            )
        latest = max(latest, sample.intended_at)


def parse_time(text: str) -> float | None:
    """Unix seconds (or milliseconds, which are larger) or ISO 8601; without a zone it is UTC. None: neither."""
    try:
        value = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(value) or value < 0:
        return None
    return value / 1_000.0 if value > LATEST_SECONDS else value


def _sample(row: dict[str, str], column: str, unit: float) -> ClientSample | None:
    at = parse_time(row["time"])
    if at is None:
        return None
    latency: float | None = None
    if row[column]:
        try:
            latency = float(row[column]) * unit
        except ValueError:
            return None
        if not 0.0 <= latency <= LONGEST:
            return None
    try:
        status = int(row["status"]) if row["status"] else 0
    except ValueError:
        return None
    answered = latency is not None and 0 < status < 600
    return ClientSample(row["route"], at, latency if answered else None, answered and status < 500)
