"""Real runs of the command line, with a small application and, once, with the shipped one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reports.store import RunStore

TINY = Path(__file__).parent / "tiny" / "scenario.yaml"
GAMEDAY = [sys.executable, "-m", "gameday"]
PHASE_TIMEOUT_SECONDS = 90.0


@dataclass
class Running:
    """A `gameday run` under way."""

    process: subprocess.Popen[str]
    out: Path

    def events(self) -> list[tuple[str, str]]:
        return events_of(self.out)

    def has(self, kind: str, text: str = "") -> bool:
        """Whether the run store has such an event."""
        if has_event(self.out, kind, text):
            return True
        assert self.process.poll() is None, f"the run ended before {kind} {text}: {self.output()}"
        return False

    def wait_for(self, kind: str, text: str = "") -> None:
        """Until the run store has such an event."""
        deadline = time.monotonic() + PHASE_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self.has(kind, text):
                return
            time.sleep(0.1)
        raise AssertionError(f"no {kind} {text} within {PHASE_TIMEOUT_SECONDS} s")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait(self, timeout: float = 120.0) -> int:
        return self.process.wait(timeout)

    def output(self) -> str:
        return (self.out.parent / f"{self.out.name}.txt").read_text()


def events_of(run: Path) -> list[tuple[str, str]]:
    if not (run / "run.sqlite").is_file():
        return []
    with RunStore(run / "run.sqlite") as store:
        return [(event.kind, event.text) for event in store.events()]


def has_event(run: Path, kind: str, text: str = "") -> bool:
    return any(k == kind and text in t for k, t in events_of(run))


class Starter:
    """Starts runs and sees to it that none is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Running] = []

    def __call__(self, scenario: str | Path, *arguments: str, name: str = "run") -> Running:
        out = self._folder / name
        output = (self._folder / f"{name}.txt").open("w")
        command = [*GAMEDAY, "run", str(scenario), "--out", str(out), "--plain", *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True, cwd=self._folder)
        output.close()
        run = Running(process, out)
        self._running.append(run)
        return run

    def clean_up(self) -> None:
        for run in self._running:
            if run.process.poll() is None:
                run.process.kill()
                run.process.wait()
            if (run.out / "run.sqlite").is_file():
                subprocess.run([*GAMEDAY, "recover", str(run.out)], check=False, capture_output=True, cwd=self._folder)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    starter.clean_up()


def processes_of(out: Path) -> list[int]:
    """Processes that carry the run's folder in their command line or environment."""
    mark = str(out).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "cmdline").read_bytes() or mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile, or is not ours to look at
    return found


def eventually_gone(out: Path, seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := processes_of(out)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
