"""`gameday accuracy` without a suite: the track record of all runs in the ledger, by kind of fault, and drift.

What a fault moves is what differed in most runs of a scenario at a load, for the reason that `acceptance.mark_moved`
gives. The ledger does not know which runs are controls, but a fault without an effect finds no majority, and of a run
without a fault nothing counts as moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table

from gameday import ledger
from gameday.accuracy.acceptance import covered, is_moved, skill
from gameday.errors import BadInput, Exit
from gameday.ledger import Record
from sim.forecast.discrepancy import family_of
from sim.scoring.coverage import share_of
from sim.scoring.drift import FEWEST_RUNS, Drift, drift
from sim.scoring.score import LEVELS, Detail, is_event

_Place = tuple[str, str, str | None, float, str, str, str]
NO_FAULT = family_of(())


def print_track_record() -> int:
    """Prints it.

    Raises:
        BadInput: the ledger cannot be read.
    """
    path = ledger.default_path()
    try:
        found = ledger.read(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    for note in found.notes:
        print(f"note: {note}")
    if not found.records:
        print(f"no runs in {path} yet; every `gameday run` adds one, and `gameday accuracy --suite local` many")
        return Exit.HELD
    records = found.records
    quantities = sum(len(record.rows) for record in records)
    print(f"{path}: {len(records)} runs, {quantities:,} quantities, {_day(records[0].at)} to {_day(records[-1].at)}\n")
    Console().print(_table(records))
    print()
    for line in drift_lines(records):
        print(line)
    return Exit.HELD


def _table(records: Sequence[Record]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("faults", "runs", "n", "in 50/80/90 %", "band of 90 %", "moved", "skill"):
        table.add_column(column, justify="left" if column == "faults" else "right", no_wrap=True)
    moves = _moves(records)
    families: dict[str, list[Record]] = {}
    for record in records:
        families.setdefault(record.family, []).append(record)
    for family, some in sorted(families.items()):
        table.add_row(*_row(family, some, moves))
    if len(families) > 1:
        table.add_row(*_row("all", records, moves))
    return table


def _moves(records: Iterable[Record]) -> frozenset[_Place]:
    """What faults move: quantities that differed from their baselines in most runs of a scenario at a load."""
    votes: dict[_Place, list[bool]] = {}
    for record in records:
        if record.family == NO_FAULT:
            continue
        for row in record.rows:
            votes.setdefault(_place(record, row), []).append(is_moved(row))
    return frozenset(place for place, some in votes.items() if 2 * sum(some) > len(some))


def _place(record: Record, row: Detail) -> _Place:
    return record.family, record.scenario, record.variant, record.rate, row.quantity, row.subject, row.window


def _row(name: str, records: Sequence[Record], moves: Collection[_Place]) -> list[str]:
    rows = [row for record in records for row in record.rows]
    shares = [
        share_of([(sum(covered(row, level) for row in some), len(some)) for some in map(_intervals, records)])
        for level in range(len(LEVELS))
    ]
    last = shares[-1]
    moved = [row for record in records for row in record.rows if _place(record, row) in moves]
    gained = skill(moved)
    return [
        name,
        str(len(records)),
        f"{len(rows):,}",
        "/".join("–" if share.value is None else f"{100 * share.value:.0f}" for share in shares),
        "few runs" if last.low is None or last.high is None else f"{100 * last.low:.0f}–{100 * last.high:.0f}",
        str(len(moved)),
        "–" if gained is None else f"{gained:.2f}",
    ]


def _intervals(record: Record) -> list[Detail]:
    """The rows that have an interval; an event has a probability."""
    return [row for row in record.rows if not is_event(row.quantity)]


def drift_lines(records: Sequence[Record]) -> list[str]:
    """What to say about drift. Machines differ, so only the runs of the one that ran last are compared."""
    same = [record for record in records if record.machine == records[-1].machine and _intervals(record)]
    if len(same) < FEWEST_RUNS:
        return [f"drift: too few runs to tell ({len(same)} on this machine; {FEWEST_RUNS} are needed)"]
    runs = [_intervals(record) for record in same]
    coverage = drift([fmean(covered(row, -1) for row in rows) for rows in runs])
    bias = drift([fmean(sum(row.pit) / 2.0 for row in rows) for rows in runs])
    assert coverage is not None
    assert bias is not None
    return [
        _line("share inside 90 %", coverage, same, lambda value: f"{value:.0%}"),
        _line("mean PIT (0.5: unbiased)", bias, same, lambda value: f"{value:.2f}"),
    ]


def _line(name: str, found: Drift, records: Sequence[Record], show: Callable[[float], str]) -> str:
    text = (
        f"drift: {name} {show(found.recent)} in the last {found.recent_runs} runs,"
        f" {show(found.earlier)} in the {found.earlier_runs} before"
    )
    if not found.is_drift:
        return f"{text}: no more than chance (p = {found.p_value:.2f})"
    since = records[found.begins_after + 1]
    return f"{text}: DRIFT (p = {found.p_value:.3f}), from about run {since.run} on"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))
