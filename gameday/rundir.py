"""Run directories: where they are, what lies in them, and what state a run is in.

    runs/20261123-184610-cert-expiry-5f2a/
        run.sqlite  forecast.json  report.{html,md,json}  junit.xml  experiment.json  journal.json
        world.json  ledger.sqlite  requests.ndjson  registry/  pki/  logs/

A run is *interrupted* when its store says running and its runner is gone (no process with the recorded pid and start).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.processes import is_alive
from gameday.errors import BadInput
from reports.store import RunStore

RUNS = Path("runs")
STORE = "run.sqlite"


@dataclass(frozen=True, slots=True)
class RunDir:
    """The files of one run."""

    path: Path

    @property
    def store(self) -> Path:
        return self.path / STORE

    @property
    def forecast(self) -> Path:
        return self.path / "forecast.json"

    @property
    def experiment(self) -> Path:
        return self.path / "experiment.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.json"

    @property
    def requests(self) -> Path:
        return self.path / "requests.ndjson"

    @property
    def supervisor_events(self) -> Path:
        return self.path / "supervisor-events.ndjson"

    def discard(self) -> None:
        """Takes away what `create` made, if nothing else is in it: the run was not started after all."""
        with contextlib.suppress(OSError):
            (self.path / "logs").rmdir()
            self.path.rmdir()

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"


def new_run_id(scenario: str) -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{scenario}-{secrets.token_hex(2)}"


def create(out: Path | None, run_id: str) -> RunDir:
    """Makes the directory of a new run.

    Raises:
        BadInput: it holds a run already, or cannot be written.
    """
    path = (out if out is not None else RUNS / run_id).absolute()
    if os.path.exists(path / STORE):
        raise BadInput(f"--out {path}: holds a run already; name another folder or remove this one")
    try:
        (path / "logs").mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise BadInput(
            f"--out {path}: cannot be written: {error.strerror}; name a folder that you may write to"
        ) from None
    return RunDir(path)


def check_writable(option: str, path: Path) -> None:
    """That a file can be written there, asked before work of minutes or hours; its folder is made.

    Raises:
        BadInput: it cannot.
    """
    there = os.path.exists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise BadInput(
            f"{option} {path}: cannot be written: {error.strerror}; name a file that you may write to"
        ) from None
    if not there:
        path.unlink()


def find(name: str) -> RunDir:
    """The run called `name`: a path, a run id, or the unique beginning of one; `latest` is the newest.

    Raises:
        BadInput: no such run, or several, or its store cannot be read.
    """
    run = locate(name)
    try:
        with RunStore(run.store) as store:
            store.meta()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN:
            raise BadInput(
                f"{run.store}: cannot be opened: SQLite writes beside a store even to read it; copy the run's folder to"
                " where you may write"
            ) from None
        raise BadInput(f"{run.store}: not a run store ({error})") from None
    return run


def locate(name: str) -> RunDir:
    """As `find`, of a run whose store may be damaged.

    Raises:
        BadInput: no such run, or several.
    """
    direct = Path(name)
    if has_store(direct):
        return RunDir(direct.absolute())
    known = all_runs()
    if name == "latest" and known:
        return known[-1]
    matches = [run for run in known if run.path.name.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise BadInput(f"run {name!r} is not unique: " + ", ".join(run.path.name for run in matches[:5]))
    raise BadInput(f"no run {name!r}; `gameday runs` lists the runs, and a path to a run's folder works too")


def has_store(path: Path) -> bool:
    """Whether there is a run's store in the folder. False too of one that we may not enter, or whose name is too long:
    `Path.is_file` raises there."""
    return os.path.isfile(path / STORE)


def all_runs() -> list[RunDir]:
    """The runs below ./runs, oldest first."""
    if not RUNS.is_dir():
        return []
    found = [RunDir(path.absolute()) for path in RUNS.iterdir() if has_store(path)]
    return sorted(found, key=lambda run: run.path.name)


def state(store: RunStore) -> str:
    """running|finished|aborted|failed|interrupted."""
    meta = store.meta()
    recorded = str(meta.get("state", "interrupted"))
    if recorded == "running":
        runner = meta.get("runner", {})
        if not is_alive(int(runner.get("pid", 0)), runner.get("start")):
            return "interrupted"
    return recorded
