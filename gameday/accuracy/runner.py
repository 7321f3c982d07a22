"""Runs what a suite lacks, a few at a time, and remembers what came of each.

Beside a run's store lies `accuracy.json` once it has ended: its exit code. A run that failed stays failed until someone
says `--again`; a suite that was killed goes on where it was, cleans up after the run that it was in, and runs that one
anew. A run that outlived the suite is waited for. Two suites never work in one folder.

Each run gets a session of its own: Ctrl-C reaches the suite alone, which tells each run once and waits for them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any

import msgspec

from gameday import rundir
from gameday.accuracy.suite import PlannedRun
from gameday.errors import BadInput, Exit
from gameday.rundir import STORE
from gameday.worlds.catalogue import recover_world
from gameday.worlds.local.usage import busy_seconds
from reports.store import RunStore
from sim.cores import own_cores

NOTE = "accuracy.json"
LOCK = ".lock"
OVERHEAD_SECONDS = 22.0
"""Start, sealing, judging and end, beyond the timed phases; until runs of today say better."""
PATIENCE_SECONDS = 180.0
"""Beyond the expected length, until a run is given up."""
END_SECONDS = 60.0
"""For a run that was given up to revert its faults and go down."""
LOOK_SECONDS = 0.1


class Ended(msgspec.Struct, frozen=True):
    """What came of a run."""

    exit_code: int
    seconds: float
    why: str = ""
    others: float | None = None
    """Of its cores, those that programs other than the run's used on average; None: the machine does not tell."""

    @property
    def is_scored(self) -> bool:
        return self.exit_code in (Exit.HELD, Exit.NOT_HELD)


STOPPED = Ended(Exit.ABORTED, 0.0)


class Runner:
    """Keeps the folder of runs and the clock."""

    def __init__(self, folder: Path, say: Callable[[str], None], *, again: bool = False) -> None:
        self._folder = folder
        self._say = say
        self._again = again
        self._overheads: list[float] = []
        self._children: set[subprocess.Popen[bytes]] = set()
        self._starting = threading.Lock()
        self._stopping = threading.Event()

    def ended(self, run: PlannedRun) -> Ended | None:
        """What came of it, if it has ended."""
        return read_note(self._folder / run.folder)

    def is_done(self, run: PlannedRun) -> bool:
        known = self.ended(run)
        return known is not None and (known.is_scored or not self._again)

    def expected_seconds(self, run: PlannedRun) -> float:
        known = self._overheads
        return run.seconds + (sum(known) / len(known) if known else OVERHEAD_SECONDS)

    def run_all(self, runs: Iterable[PlannedRun], jobs: int = 1) -> Generator[tuple[PlannedRun, Ended]]:
        """Runs them, `jobs` at a time and each on its share of the cores; yields them as they end.

        The next of `runs` is asked for when there are cores for it, so that the caller may stop there. When this is
        interrupted or closed, the runs under way are told to wind down, and awaited; one such end is for good.
        """
        free = share_cores(jobs)
        coming, under_way = iter(runs), dict[Future[Ended], tuple[PlannedRun, frozenset[int] | None]]()
        with ThreadPoolExecutor(jobs) as pool:
            try:
                while True:
                    while free and (run := next(coming, None)) is not None:
                        cores = free.pop()
                        under_way[pool.submit(self.run, run, cores)] = run, cores
                    if not under_way:
                        return
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        run, cores = under_way.pop(future)
                        free.append(cores)
                        yield run, future.result()
            except BaseException:
                interrupt_no_more()
                self._stop()
                pool.shutdown()
                raise

    def _stop(self) -> None:
        with self._starting:
            self._stopping.set()
            for child in tuple(self._children):
                child.send_signal(signal.SIGINT)
        if self._children:
            self._say("winding down what is under way: faults are reverted first")

    def run(self, run: PlannedRun, cores: frozenset[int] | None = None) -> Ended:
        """Runs it to its end, on these cores or on all, or waits for one that is under way.

        An interrupted run leaves no note: it is run anew another time.
        """
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
        self._folder.mkdir(parents=True, exist_ok=True)
        output = self._folder / f"{run.folder}.log"
        patience = self.expected_seconds(run) + PATIENCE_SECONDS
        busy, began = busy_seconds(cores), time.monotonic()
        with output.open("wb") as log:
            child = self._start(command, log)
            if child is None:
                return STOPPED
            if cores is not None:
                os.sched_setaffinity(child.pid, cores)  # what it starts inherits them
            used: float | None
            try:
                code, used = _wait(child, patience)
                why = "" if code in (Exit.HELD, Exit.NOT_HELD) else _last_line(output)
            except subprocess.TimeoutExpired:
                _end(child)
                code, used, why = Exit.HARNESS_FAILED, None, f"not over after {patience:.0f} s"
            finally:
                self._children.discard(child)
        seconds = time.monotonic() - began
        if code in (Exit.HELD, Exit.NOT_HELD):
            self._overheads.append(seconds - run.seconds)
        now = busy_seconds(cores)
        others = None
        if busy is not None and now is not None and used is not None:
            others = round(max(0.0, now - busy - used) / max(seconds, 1.0), 2)
        ended = Ended(int(code), round(seconds, 1), why, others)
        if code not in (Exit.ABORTED, -signal.SIGINT):
            path.mkdir(parents=True, exist_ok=True)
            (path / NOTE).write_bytes(msgspec.json.encode(ended))
        return ended

    def _start(self, command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes] | None:
        """None: we are winding down, and nothing is begun any more."""
        with self._starting:
            if self._stopping.is_set():
                return None
            child = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
            self._children.add(child)
            return child

    def _clear(self, path: Path) -> Ended | None:
        """Takes away what an earlier attempt left; a run that came to its end after the suite was killed is kept."""
        if (path / STORE).is_file():
            try:
                state, meta = _look(path)
            except sqlite3.DatabaseError as error:
                self._say(f"{path.name}: its store is damaged ({error}); running it anew")
                state, meta = "damaged", {}
            if state == "running":
                self._say(f"{path.name}: is still running from before; waiting for its end")
            while state == "running":
                if self._stopping.wait(2.0):
                    return STOPPED
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


def share_cores(jobs: int) -> list[frozenset[int] | None]:
    """As many cores for each, none shared; None where there is but one job: all of them.

    Raises:
        BadInput: there are fewer cores than jobs, or no way to pin anything to one.
    """
    if jobs == 1:
        return [None]
    mine = own_cores()
    if mine is None:
        raise BadInput(f"--jobs {jobs}: runs can be given cores of their own on Linux only; leave the option out")
    if not 1 <= jobs <= len(mine):
        raise BadInput(f"--jobs {jobs}: each run wants a core of its own, and we may use {len(mine)}")
    each = len(mine) // jobs
    ordered = sorted(mine)
    return [frozenset(ordered[job * each : (job + 1) * each]) for job in range(jobs)]


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """The folder, which is made, is ours alone: two that fill it at once would clear away each other's runs.

    Raises:
        BadInput: somebody else has it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("ab")
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written: {error.strerror}; name another folder with --reuse") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"{folder}: another gameday runs there; wait for its end, or name another folder with --reuse"
            ) from None
        yield


def interrupt_no_more() -> None:
    """Whoever presses Ctrl-C a second time waits all the same, for the wind-down and for what is said after it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Faults are reverted, the world goes down; where even that hangs, the reaper does both."""
    child.terminate()
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _wait(child: subprocess.Popen[bytes], patience: float) -> tuple[int, float]:
    """Its exit code, and the CPU seconds of it and of its children that have ended, theirs included.

    Raises:
        TimeoutExpired: it is still running after `patience` seconds.
    """
    until = time.monotonic() + patience
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage.ru_utime + usage.ru_stime
        if time.monotonic() > until:
            raise subprocess.TimeoutExpired(child.args, patience)
        time.sleep(LOOK_SECONDS)


def _look(path: Path) -> tuple[str, dict[str, Any]]:
    with RunStore(path / STORE) as store:
        return rundir.state(store), store.meta()


def read_note(path: Path) -> Ended | None:
    try:
        return msgspec.json.decode((path / NOTE).read_bytes(), type=Ended)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _last_line(output: Path) -> str:
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith(("report:", "no report"))), "no output")
