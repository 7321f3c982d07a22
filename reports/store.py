"""The run store: one SQLite file that holds all that a run knows. Reports are functions of this file.

Write-ahead logging, so that the runner writes while `gameday runs` reads; what was committed survives `kill -9`. One
writer process. All times are Unix seconds.

    meta       what the run is: id, scenario, world, seed, versions, state, windows (JSON values)
    events     the timeline: phases, faults, alerts, restarts, seals
    requests   each request's outcome at the client
    series,    scraped metrics; a sample is stored only when its value changed
    samples
    usage      CPU and memory of each process
    documents  named JSON texts that must keep their bytes: the forecast, the score, counterfactuals
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, source TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, data TEXT);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, route TEXT NOT NULL, journey TEXT NOT NULL, intended_at REAL NOT NULL, sent_at REAL,
    finished_at REAL, status INTEGER, error TEXT, trace_id TEXT);
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (intended_at);
CREATE TABLE IF NOT EXISTS series (
    id INTEGER PRIMARY KEY, process TEXT NOT NULL, name TEXT NOT NULL, labels TEXT NOT NULL,
    UNIQUE (process, name, labels));
CREATE TABLE IF NOT EXISTS samples (series INTEGER NOT NULL, at REAL NOT NULL, value REAL NOT NULL);
CREATE INDEX IF NOT EXISTS samples_by_series ON samples (series, at);
CREATE TABLE IF NOT EXISTS usage (
    at REAL NOT NULL, process TEXT NOT NULL, cpu_seconds REAL NOT NULL, rss_bytes INTEGER);
CREATE TABLE IF NOT EXISTS documents (name TEXT PRIMARY KEY, at REAL NOT NULL, body BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the timeline. `source`: gameday|chaos|mesh|load|reaper|slo; `kind`: see docs/report.md."""

    at: float
    source: str
    kind: str
    text: str
    data: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request at the client. Never sent (dropped): `sent_at` None. Never answered: `status` None."""

    route: str
    journey: str
    intended_at: float
    sent_at: float | None
    finished_at: float | None
    status: int | None
    error: str | None = None
    trace_id: str | None = None

    @property
    def latency(self) -> float | None:
        """Seconds from the intended send to the end of the answer."""
        if self.status is None or self.finished_at is None:
            return None
        return self.finished_at - self.intended_at

    def good(self, threshold: float | None, timeout: float) -> bool:
        """Whether an SLO with this latency threshold counts the request as good."""
        latency = self.latency
        if latency is None or self.status is None or self.status >= 500 or self.error is not None:
            return False
        return latency <= (timeout if threshold is None else min(threshold, timeout))


MACHINE_PROCESS = "machine"
"""All that runs on the machine, this run or not; it has no memory of its own."""
LOAD_PROCESS = "load"
"""The load generator's own process, as opposed to its pod's proxy."""


@dataclass(frozen=True, slots=True)
class Usage:
    at: float
    process: str
    cpu_seconds: float
    rss_bytes: int


class RunStore:
    """Opens (and with `create`, makes) a run's file."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Raises FileNotFoundError where there is no such run, sqlite3.DatabaseError where the file is none of ours."""
        if not create and not path.is_file():
            raise FileNotFoundError(path)
        if create and not path.exists():
            _make(path)
        self.path = path
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA busy_timeout=5000")
        self._series_ids: dict[tuple[str, str, str], int] = {}
        self._last_values: dict[int, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.commit()
        self._db.close()

    def commit(self) -> None:
        """Makes what was written so far survive a crash; called once a second by the runner."""
        self._db.commit()

    # ---- writing

    def set_meta(self, **values: Any) -> None:
        rows = [(key, msgspec.json.encode(value).decode()) for key, value in values.items()]
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
        self._db.commit()

    def add_event(self, event: Event) -> None:
        data = msgspec.json.encode(event.data).decode() if event.data is not None else None
        self._db.execute(
            "INSERT INTO events (at, source, kind, text, data) VALUES (?, ?, ?, ?, ?)",
            (event.at, event.source, event.kind, event.text, data),
        )
        self._db.commit()

    def add_requests(self, requests: Iterable[Request]) -> None:
        self._db.executemany(
            "INSERT INTO requests (route, journey, intended_at, sent_at, finished_at, status, error, trace_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (r.route, r.journey, r.intended_at, r.sent_at, r.finished_at, r.status, r.error, r.trace_id)
                for r in requests
            ),
        )

    def add_samples(self, at: float, process: str, samples: Iterable[tuple[str, str, float]]) -> None:
        """`samples`: (metric name, labels as they stand in the exposition, value)."""
        rows: list[tuple[int, float, float]] = []
        for name, labels, value in samples:
            series = self._series_id(process, name, labels)
            if self._last_values.get(series) != value:
                self._last_values[series] = value
                rows.append((series, at, value))
        self._db.executemany("INSERT INTO samples VALUES (?, ?, ?)", rows)

    def add_usage(self, usages: Iterable[Usage]) -> None:
        self._db.executemany(
            "INSERT INTO usage VALUES (?, ?, ?, ?)", ((u.at, u.process, u.cpu_seconds, u.rss_bytes) for u in usages)
        )

    def put_document(self, name: str, at: float, body: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (name, at, body))
        self._db.commit()

    # ---- reading

    def meta(self) -> dict[str, Any]:
        return {key: msgspec.json.decode(value) for key, value in self._db.execute("SELECT key, value FROM meta")}

    def events(self) -> list[Event]:
        rows = self._db.execute("SELECT at, source, kind, text, data FROM events ORDER BY at, id")
        return [Event(at, s, k, t, msgspec.json.decode(d) if d is not None else None) for at, s, k, t, d in rows]

    def requests(self, start: float = 0.0, end: float = float("inf")) -> Iterator[Request]:
        """Requests whose intended send lies in [start, end), in that order."""
        rows = self._db.execute(
            "SELECT route, journey, intended_at, sent_at, finished_at, status, error, trace_id FROM requests"
            " WHERE intended_at >= ? AND intended_at < ? ORDER BY intended_at, id",
            (start, end),
        )
        return (Request(*row) for row in rows)

    def series(self, name: str) -> list[tuple[str, str, int]]:
        """(process, labels, series id) of every series of a metric."""
        return list(self._db.execute("SELECT process, labels, id FROM series WHERE name = ? ORDER BY 1, 2", (name,)))

    def samples(self, series: int) -> list[tuple[float, float]]:
        """(at, value) in order of time; a value holds until the next."""
        return list(self._db.execute("SELECT at, value FROM samples WHERE series = ? ORDER BY at", (series,)))

    def samples_of(self, name: str) -> list[tuple[str, str, list[tuple[float, float]]]]:
        """(process, labels, samples) of every series of a metric: `series` and `samples` in one query."""
        rows = self._db.execute(
            "SELECT s.process, s.labels, x.at, x.value FROM series s JOIN samples x ON x.series = s.id"
            " WHERE s.name = ? ORDER BY s.process, s.labels, x.at, x.rowid",
            (name,),
        )
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for process, labels, at, value in rows:
            found.setdefault((process, labels), []).append((at, value))
        return [(process, labels, samples) for (process, labels), samples in found.items()]

    def value_at(self, series: int, at: float) -> float | None:
        """The value that held at `at`; None before the first sample."""
        row = self._db.execute(
            "SELECT value FROM samples WHERE series = ? AND at <= ? ORDER BY at DESC LIMIT 1", (series, at)
        ).fetchone()
        return row[0] if row else None

    def usage(self) -> list[Usage]:
        return [
            Usage(*row) for row in self._db.execute("SELECT at, process, cpu_seconds, rss_bytes FROM usage ORDER BY at")
        ]

    def document(self, name: str) -> tuple[float, bytes] | None:
        row = self._db.execute("SELECT at, body FROM documents WHERE name = ?", (name,)).fetchone()
        return (row[0], bytes(row[1])) if row else None

    def _series_id(self, process: str, name: str, labels: str) -> int:
        key = (process, name, labels)
        known = self._series_ids.get(key)
        if known is None:
            cursor = self._db.execute("INSERT INTO series (process, name, labels) VALUES (?, ?, ?)", key)
            known = self._series_ids[key] = int(cursor.lastrowid or 0)
        return known


def _make(path: Path) -> None:
    """Gives a run its file with all tables in it at once: a reader sees none or a whole one.

    Built beside and renamed. Made in place, a reader that came between open and schema failed with "no such table".
    """
    building = path.with_name(f".{path.name}.new")
    building.unlink(missing_ok=True)
    db = sqlite3.connect(building)
    db.executescript(_SCHEMA)
    db.close()
    building.replace(path)
