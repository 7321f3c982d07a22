"""The ledger: one line for each judged run, with every prediction beside what was measured.

    runs/ledger.jsonl        or the file that GAMEDAY_LEDGER names

Lines are appended under a lock of the file and with a single write, so two runs that end together do not mix, and a
`kill -9` leaves at most one torn line at the end. The next writer begins on a new line; readers skip what is no record
and say how many lines that were. A run that was judged twice, or whose line came here twice by joining ledgers, counts
once, as it was judged last. The seal of its forecast tells it from others: folders are called `seed-1` more than once.

Rejected: a SQLite file (a run's report is read by people with grep and jq, and ledgers are joined with cat).
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gameday.rundir import RUNS
from sim.scoring.score import Detail

SCHEMA = "gameday.dev/ledger/v1"
VARIABLE = "GAMEDAY_LEDGER"


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One judged run."""

    schema: str = SCHEMA
    run: str
    """Its folder's name, which other runs may have too."""
    seal: str = ""
    """SHA-256 of its sealed forecast, which no other run has. Empty in ledgers of older versions."""
    at: float
    """Unix seconds of the judgement."""
    machine: str
    scenario: str
    variant: str | None = None
    family: str
    """Kinds of the faults, joined by +; `none` without a fault."""
    world: str
    seed: int
    rate: float
    """Arrivals a second."""
    app: str
    config: str = ""
    """SHA-256 of the scenario as it was run."""
    discrepancy: str = ""
    """Which discrepancy the forecast was made with."""
    replications: int
    rows: tuple[Detail, ...]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What `read` found."""

    records: tuple[Record, ...]
    """Oldest first, one for each run."""
    notes: tuple[str, ...]


def default_path() -> Path:
    named = os.environ.get(VARIABLE)
    return Path(named) if named else RUNS / "ledger.jsonl"


def append(record: Record, path: Path | None = None) -> None:
    """Adds one line, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    path = path if path is not None else default_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    line = msgspec.json.encode(record) + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # whoever wrote last was killed in the middle of it
        written = os.write(descriptor, line)
        if written < len(line):
            os.ftruncate(descriptor, size)
            raise OSError(28, "No space left for a whole record", str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path | None = None) -> Ledger:
    """All records; an absent file is an empty ledger.

    Raises:
        OSError: the file is there and cannot be read.
    """
    path = path if path is not None else default_path()
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return Ledger((), ())
    found: dict[tuple[object, ...], Record] = {}
    bad: list[int] = []
    decoder = msgspec.json.Decoder(Record)
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            bad.append(number)
            continue
        found[_identity(record)] = record
    notes: tuple[str, ...] = ()
    if bad:
        shown = ", ".join(str(number) for number in bad[:5]) + (", …" if len(bad) > 5 else "")
        notes = (f"{path}: {len(bad)} lines are no record and were skipped (line {shown})",)
    return Ledger(tuple(sorted(found.values(), key=lambda record: record.at)), notes)


def _identity(record: Record) -> tuple[object, ...]:
    """What two lines of one run have in common, and those of two runs have not."""
    return (record.seal,) if record.seal else (record.machine, record.run, record.config, record.seed)
