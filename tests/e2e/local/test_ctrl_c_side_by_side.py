"""Ctrl-C of commands that have several runs under way: `gameday accuracy`, `gameday verify --seeds`, with `--jobs 2`.

Each is interrupted twice, the second time after the same command was given again: once it alone gets the signal, as
from `kill -INT`, once all processes in front of a terminal get it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gameday import rundir
from reports.store import RunStore
from tests.e2e.local.conftest import GAMEDAY, PHASE_TIMEOUT_SECONDS, TINY, eventually_gone, has_event

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("interruptible"),
    pytest.mark.skipif(
        not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="runs want a core each"
    ),
]
PROMPTLY_SECONDS = 30.0
"""From the signal to the end: worlds go down, reports are written."""
SUITE = f"""
apiVersion: gameday.dev/v1
kind: AccuracySuite
metadata: {{name: mine}}
spec:
  loads: [30/s]
  heldOutLoads: [20/s]
  cases:
    - {{name: one, scenario: {TINY}}}
    - {{name: two, scenario: {TINY}, part: held-out}}
"""


@dataclass
class Command:
    """One that is to be interrupted once two runs in its folder are under way."""

    process: subprocess.Popen[bytes]
    folder: Path
    output: Path
    interrupted_at: float = 0.0

    @classmethod
    def start(cls, folder: Path, *arguments: str) -> Command:
        output = folder.with_suffix(".txt")
        with output.open("w") as file:
            process = subprocess.Popen(
                [*GAMEDAY, *arguments, "--jobs", "2", "--reuse", str(folder)], stdout=file, stderr=file,
                cwd=folder.parent, start_new_session=True, env={**os.environ, "STARTED_FOR": str(folder)},
            )  # fmt: skip
        return cls(process, folder, output)

    def has_begun(self, phase: str) -> bool:
        """Whether two runs have."""
        assert self.process.poll() is None, self.output.read_text()
        runs = [store.parent for store in self.folder.glob("*/run.sqlite") if _is_running(store)]
        return sum(has_event(run, "phase", phase) for run in runs) == 2

    def interrupt(self, send: Callable[[int, int], None]) -> None:
        self.interrupted_at = time.monotonic()
        send(self.process.pid, signal.SIGINT)

    def check(self) -> None:
        code = self.process.wait(PHASE_TIMEOUT_SECONDS)
        seconds, said = time.monotonic() - self.interrupted_at, self.output.read_text()
        assert code == 3, said
        assert seconds < PROMPTLY_SECONDS
        assert "Traceback" not in said
        assert said.count("winding down what is under way") == 1, said
        assert "stopped; the same command goes on from here" in said
        assert eventually_gone(self.folder, 3.0) == []


def _is_running(path: Path) -> bool:
    with RunStore(path) as store:
        return rundir.state(store) == "running"


@pytest.mark.parametrize("command", ["accuracy", "verify"])
def test_all_runs_under_way_wind_down_soon_and_the_same_command_goes_on(tmp_path: Path, command: str) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE)
    arguments = {
        "accuracy": ("accuracy", "--suite", "suite.yaml", "--seeds", "1"),
        "verify": ("verify", str(TINY), "--seeds", "2"),
    }[command]
    for send, phase in ((os.kill, "warmup"), (os.killpg, "up")):
        under_way = Command.start(tmp_path / "runs", *arguments)
        try:
            deadline = time.monotonic() + PHASE_TIMEOUT_SECONDS
            while not under_way.has_begun(phase):
                assert time.monotonic() < deadline, "the moment never came"
                time.sleep(0.1)
            under_way.interrupt(send)
            time.sleep(0.3)
            send(under_way.process.pid, signal.SIGINT)  # a second one changes nothing
            under_way.check()
        finally:
            under_way.process.kill()
            assert eventually_gone(under_way.folder, 60.0) == []
