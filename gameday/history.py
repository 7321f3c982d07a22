"""Commands about runs that were: `runs`, `report`, `recover`, `doctor`."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gameday import rundir
from gameday.errors import BadInput, Exit
from gameday.rundir import RunDir
from gameday.worlds.catalogue import recover_world
from gameday.worlds.kind import doctor as kind
from gameday.worlds.local import doctor as local
from reports.build import write_reports
from reports.store import Event, RunStore

_VERDICTS = {0: "passed", 1: "failed", 2: "bad input", 3: "aborted", 4: "error"}


def print_runs() -> int:
    """One line for each run below ./runs."""
    table = Table(box=None, pad_edge=False)
    for column in ("run", "scenario", "world", "seed", "state", "verdict"):
        table.add_column(column)
    found = rundir.all_runs()
    for run in found:
        try:
            with RunStore(run.store) as store:
                meta = store.meta()
                state = rundir.state(store)
        except sqlite3.DatabaseError as error:
            table.add_row(run.path.name, "–", "–", "–", f"unreadable: {error}", "–")
            continue
        scenario = meta.get("scenario", {}).get("name", "–")
        verdict = _VERDICTS.get(meta.get("exit_code", -1), "–")
        table.add_row(run.path.name, scenario, str(meta.get("world", "–")), str(meta.get("seed", "–")), state, verdict)
    if not found:
        print("no runs below ./runs; `gameday run cert-expiry` makes the first")
    else:
        Console().print(table)
    return Exit.HELD


def rebuild_report(name: str, out: Path | None) -> int:
    """Writes the report again."""
    run = rundir.find(name)
    target = out if out is not None else run.path
    try:
        target.mkdir(parents=True, exist_ok=True)
        with RunStore(run.store) as store:
            written = write_reports(store, target)
    except OSError as error:
        raise BadInput(f"--out {target}: cannot be written: {error.strerror}") from None
    except sqlite3.DatabaseError as error:
        raise BadInput(f"{run.store}: not a run store ({error})") from None
    for path in written:
        print(path)
    return Exit.HELD


def recover_runs(name: str | None) -> int:
    """Cleans up after one run, or after all interrupted ones."""
    chosen = [rundir.locate(name)] if name is not None else [run for run in rundir.all_runs() if _is_interrupted(run)]
    if not chosen:
        print("no interrupted run below ./runs")
    for run in chosen:
        if not _is_interrupted(run) and _runner_lives(run):
            raise BadInput(f"run {run.path.name} is still going on; end it with Ctrl-C in its terminal first")
        print(f"{run.path.name}:")
        for line in recover_world(_world_of(run), run.path):
            print(f"  {line}")
        _mark_interrupted(run)
    return Exit.HELD


def _world_of(run: RunDir) -> str:
    try:
        with RunStore(run.store) as store:
            return str(store.meta().get("world", "local"))
    except sqlite3.DatabaseError:
        return "local"


def _state(run: RunDir) -> str:
    """What to undo lies in the ledger and in the world's own files: a damaged store is an interrupted run's."""
    try:
        with RunStore(run.store) as store:
            return rundir.state(store)
    except sqlite3.DatabaseError:
        return "interrupted"


def _is_interrupted(run: RunDir) -> bool:
    return _state(run) == "interrupted"


def _runner_lives(run: RunDir) -> bool:
    return _state(run) == "running"


def _mark_interrupted(run: RunDir) -> None:
    try:
        _mark_and_report(run)
    except sqlite3.DatabaseError as error:
        print(f"  {run.store} cannot be read ({error}): no report")


def _mark_and_report(run: RunDir) -> None:
    with RunStore(run.store) as store:
        meta = store.meta()
        if meta.get("state") == "running":
            store.set_meta(state="interrupted", exit_code=4, reasons=["the runner was killed; recovered later"])
            store.add_event(Event(time.time(), "gameday", "note", "recovered after an interruption"))
        write_reports(store, run.path)


def print_doctor() -> int:
    """Prints each check; 1 where something is wrong. What only --world kind lacks is no fault of the machine."""
    code = Exit.HELD
    for name, ok, detail, fix in local.checks():
        print(f"{'ok  ' if ok else 'FAIL'}  {name}: {detail}")
        if not ok:
            code = Exit.NOT_HELD
            print(f"      {fix}")
    print("\nfor --world kind:")
    for name, ok, detail, fix in kind.checks():
        print(f"{'ok  ' if ok else 'none'}  {name}: {detail}")
        if not ok:
            print(f"      {fix}")
    return code
