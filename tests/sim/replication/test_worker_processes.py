"""Workers of a killed or interrupted process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from chaos.processes import started_at

CALLER = """
import time
from tests.sim.replication.test_worker_processes import nothing
from sim.replication.workers import spawn_workers
if __name__ == "__main__":
    pool = spawn_workers(2, nothing)
    print(*pool._processes, flush=True)
    time.sleep({wait})
    print(sum(pool.map(abs, [-1, -2])), flush=True)
    pool.shutdown()
"""


def nothing() -> None:
    pass


def caller(wait: float) -> subprocess.Popen[str]:
    """A process with a pool, in a group of its own; its first line names the workers."""
    return subprocess.Popen(
        [sys.executable, "-c", CALLER.format(wait=wait)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.e2e
def test_workers_end_with_a_caller_that_is_killed() -> None:
    process = caller(60.0)
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10.0
    while (left := [pid for pid in workers if started_at(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.communicate()
    assert left == []


@pytest.mark.e2e
@pytest.mark.parametrize("after", [0.0, 1.5])
def test_ctrl_c_ends_no_worker_whether_it_still_starts_or_works(after: float) -> None:
    process = caller(after + 0.5)
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    time.sleep(after)
    for pid in workers:
        os.kill(pid, signal.SIGINT)
    said, errors = process.communicate(timeout=30.0)
    assert (said, errors, process.returncode) == ("3\n", "", 0)
