"""The fault ledger: what was broken, how to mend it, and until when it must be mended.

The rollback steps are written, and synced, *before* a fault is applied, so that whoever survives can undo it: the
experiment's own revert, the runner's wind-down, the reaper, or `gameday recover`. All of them may try at once, which is
why every step must be the same done twice.

    injecting ──► injected ──► reverting ──► reverted
        └──────────────────────►   │ ▲
                                   ▼ │
                                  failed      (tried again by the reaper)

A fault in `injecting` may or may not have reached the world; it is reverted like one that has. A disk that has no room
for the state of a revert does not keep it from being done: the fault then counts as open, and is undone once more.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from chaos.requests import KUBE, Step, StepFailed, WorldGone, perform_all

FILE = "ledger.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS faults (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, text TEXT NOT NULL, state TEXT NOT NULL, rollback TEXT NOT NULL,
    deadline REAL NOT NULL, begun_at REAL NOT NULL, injected_at REAL, reverted_at REAL, error TEXT);
CREATE TABLE IF NOT EXISTS run (closed_at REAL);
"""


_UNWRITABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


@dataclass(frozen=True, slots=True)
class Record:
    """One fault. Times are Unix seconds."""

    name: str
    kind: str
    text: str
    state: str
    rollback: tuple[Step, ...]
    deadline: float
    """When the reaper reverts it, whatever became of everyone else."""
    begun_at: float
    injected_at: float | None
    reverted_at: float | None
    error: str | None

    @property
    def open(self) -> bool:
        return self.state != "reverted"


class Ledger:
    """Opened by each process for itself; SQLite arbitrates."""

    def __init__(self, run_dir: Path, *, create: bool = False) -> None:
        """Raises FileNotFoundError where the run has no ledger."""
        self._run_dir = run_dir
        path = run_dir / FILE
        if not create and not path.is_file():
            raise FileNotFoundError(path)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA busy_timeout=5000")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")  # a fault must never be on disk later than in the world
        if create:
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    # ---- the life of a fault

    def begin(self, name: str, kind: str, text: str, rollback: Sequence[Step], ttl: float) -> None:
        """Writes down how to undo a fault that is about to be applied.

        Raises:
            ValueError: a fault of this name is open, or the run is closed.
            StepFailed: the cluster did not take the ledger's copy; nothing was written.
        """
        now = time.time()
        if self.closed:
            raise ValueError(f"fault {name} comes too late: the run is over")
        if any(record.name == name and record.open for record in self.records()):
            raise ValueError(f"fault {name} is injected already")
        if any(step.url.startswith(KUBE) for step in rollback):
            self._copy(Record(name, kind, text, "injecting", tuple(rollback), now + ttl, now, None, None, None))
        steps = msgspec.json.encode(list(rollback)).decode()
        self._db.execute(
            "INSERT OR REPLACE INTO faults VALUES (?, ?, ?, 'injecting', ?, ?, ?, NULL, NULL, NULL)",
            (name, kind, text, steps, now + ttl, now),
        )

    def injected(self, name: str) -> bool:
        """Notes that the fault is in; False if somebody reverted it while it was going in."""
        cursor = self._db.execute(
            "UPDATE faults SET state = 'injected', injected_at = ? WHERE name = ? AND state = 'injecting'",
            (time.time(), name),
        )
        return cursor.rowcount == 1

    def revert(self, name: str) -> bool:
        """Undoes one fault; False if there was nothing to undo.

        Raises:
            StepFailed: it could not be undone; its state is `failed` and it may be tried again.
        """
        record = next((record for record in self.records() if record.name == name), None)
        if record is None or not record.open:
            return False
        self._note("UPDATE faults SET state = 'reverting' WHERE name = ?", name)
        note = None
        try:
            perform_all(record.rollback)
        except WorldGone as gone:
            note = f"nothing left to undo: {gone}"
        except StepFailed as failure:
            self._note("UPDATE faults SET state = 'failed', error = ? WHERE name = ?", str(failure), name)
            raise
        self._note(
            "UPDATE faults SET state = 'reverted', reverted_at = ?, error = ? WHERE name = ? AND state != 'reverted'",
            time.time(),
            note,
            name,
        )
        if any(step.url.startswith(KUBE) for step in record.rollback):
            with contextlib.suppress(StepFailed):  # then the Job in the cluster undoes once more what is undone
                self._copy(replace(record, state="reverted"))
        return True

    def revert_all(self) -> list[str]:
        """Undoes every open fault, the later ones even if an earlier one fails; returns the names of those undone."""
        undone = []
        for record in self.records():
            try:
                if self.revert(record.name):
                    undone.append(record.name)
            except StepFailed:
                continue  # kept as `failed` with its reason; the reaper tries again
        return undone

    def _note(self, statement: str, *values: str | float | None) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _UNWRITABLE:
                raise

    def _copy(self, record: Record) -> None:
        """To the cluster that the run is in. Raises StepFailed."""
        from chaos.mirror import mirror_of  # the Kubernetes client is slow to import; embedded runs never need it

        mirror = mirror_of(self._run_dir)
        if mirror is not None:
            mirror.put(record.name, record.state, record.deadline, record.rollback)

    def expired(self, now: float) -> list[Record]:
        """Open faults whose time to live is over."""
        return [record for record in self.records() if record.open and record.deadline <= now]

    def records(self) -> list[Record]:
        """All faults, in the order of their injection."""
        rows = self._db.execute(
            "SELECT name, kind, text, state, rollback, deadline, begun_at, injected_at, reverted_at, error FROM faults"
            " ORDER BY begun_at, name"
        )
        return [
            Record(name, kind, text, state, _steps(rollback), deadline, begun, injected, reverted, error)
            for name, kind, text, state, rollback, deadline, begun, injected, reverted, error in rows
        ]

    # ---- the life of the run

    def close_run(self) -> None:
        """The run is over and has reverted everything: the reaper may go (the one in a cluster, too)."""
        self._db.execute("INSERT INTO run VALUES (?)", (time.time(),))
        if any(step.url.startswith(KUBE) for record in self.records() for step in record.rollback):
            from chaos.mirror import mirror_of

            mirror = mirror_of(self._run_dir)
            if mirror is not None:
                with contextlib.suppress(StepFailed):  # then the Job ends with its namespace
                    mirror.close()

    @property
    def closed(self) -> bool:
        return self._db.execute("SELECT 1 FROM run").fetchone() is not None


def _steps(text: str) -> tuple[Step, ...]:
    return msgspec.json.decode(text, type=tuple[Step, ...])
