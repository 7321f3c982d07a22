"""Runs what a suite lacks, one at a time, and remembers what came of each.

Beside a run's store lies `accuracy.json` once it has ended: its exit code. A run that failed stays failed until someone
says `--again`; a suite that was killed goes on where it was, cleans up after the run that it was in, and runs that one
anew. A run that outlived the suite is waited for.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gameday import rundir
from gameday.accuracy.suite import PlannedRun
from gameday.errors import Exit
from gameday.rundir import STORE
from gameday.worlds.catalogue import recover_world
from reports.store import RunStore

NOTE = "accuracy.json"
OVERHEAD_SECONDS = 22.0
"""Start, sealing, judging and end, beyond the timed phases; until runs of today say better."""
PATIENCE_SECONDS = 180.0
"""Beyond the expected length, until a run is given up."""


class Ended(msgspec.Struct, frozen=True):
    """What came of a run."""

    exit_code: int
    seconds: float
    why: str = ""
    others: float | None = None
    """Cores that programs other than the run's used on average, as far as the machine tells; None: it does not."""

    @property
    def is_scored(self) -> bool:
        return self.exit_code in (Exit.HELD, Exit.NOT_HELD)


class Runner:
    """Keeps the folder of runs and the clock."""

    def __init__(self, folder: Path, say: Callable[[str], None], *, again: bool = False) -> None:
        self._folder = folder
        self._say = say
        self._again = again
        self._overheads: list[float] = []

    def ended(self, run: PlannedRun) -> Ended | None:
        """What came of it, if it has ended."""
        return read_note(self._folder / run.folder)

    def is_done(self, run: PlannedRun) -> bool:
        known = self.ended(run)
        return known is not None and (known.is_scored or not self._again)

    def expected_seconds(self, run: PlannedRun) -> float:
        known = self._overheads
        return run.seconds + (sum(known) / len(known) if known else OVERHEAD_SECONDS)

    def run(self, run: PlannedRun) -> Ended:
        """Runs it to its end, or waits for one that is under way."""
        path = self._folder / run.folder
        if path.exists():
            adopted = self._clear(path)
            if adopted is not None:
                return adopted
        command = [sys.executable, "-m", "gameday", "run", str(run.scenario.source), "--seed", str(run.seed), "--plain"]
        command += ["--out", str(path), "--no-explain"]
        if run.case.variant is not None:
            command += ["--variant", run.case.variant]
        for override in run.overrides:
            command += ["--set", override]
        began = time.monotonic()
        busy, own = _busy_seconds(), _own_seconds()
        self._folder.mkdir(parents=True, exist_ok=True)
        output = self._folder / f"{run.folder}.log"
        patience = self.expected_seconds(run) + PATIENCE_SECONDS
        with output.open("w") as log:
            child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            try:
                code = child.wait(patience)
                why = "" if code in (Exit.HELD, Exit.NOT_HELD) else _last_line(output)
            except subprocess.TimeoutExpired:
                child.terminate()  # faults are reverted, the world goes down
                child.wait(60.0)
                code, why = Exit.HARNESS_FAILED, f"not over after {patience:.0f} s"
            except BaseException:
                # Ctrl-C reaches the child as well; it winds down by itself, and leaves no note: it is run anew.
                child.wait(60.0)
                raise
        seconds = time.monotonic() - began
        if code in (Exit.HELD, Exit.NOT_HELD):
            self._overheads.append(seconds - run.seconds)
        now = _busy_seconds()
        used = None if busy is None or now is None else max(0.0, now - busy - (_own_seconds() - own))
        ended = Ended(int(code), round(seconds, 1), why, None if used is None else round(used / max(seconds, 1.0), 2))
        path.mkdir(parents=True, exist_ok=True)
        (path / NOTE).write_bytes(msgspec.json.encode(ended))
        return ended

    def _clear(self, path: Path) -> Ended | None:
        """Takes away what an earlier attempt left; a run that came to its end after the suite was killed is kept."""
        if (path / STORE).is_file():
            state, meta = _look(path)
            if state == "running":
                self._say(f"{path.name}: is still running from before; waiting for its end")
            while state == "running":
                time.sleep(2.0)
                state, meta = _look(path)
            if state == "finished" and read_note(path) is None:
                ended = Ended(int(meta.get("exit_code", Exit.HARNESS_FAILED)), 0.0)
                (path / NOTE).write_bytes(msgspec.json.encode(ended))
                return ended
            if state == "interrupted":
                for line in recover_world(str(meta.get("world", "local")), path):
                    self._say(f"{path.name}: {line}")
        shutil.rmtree(path)
        return None


def _look(path: Path) -> tuple[str, dict[str, Any]]:
    with RunStore(path / STORE) as store:
        return rundir.state(store), store.meta()


def _busy_seconds() -> float | None:
    """CPU seconds that all programs used since the machine started; Linux only."""
    try:
        fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """CPU seconds of this process and of its children that have ended, theirs included."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def read_note(path: Path) -> Ended | None:
    try:
        return msgspec.json.decode((path / NOTE).read_bytes(), type=Ended)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _last_line(output: Path) -> str:
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith(("report:", "no report"))), "no output")
