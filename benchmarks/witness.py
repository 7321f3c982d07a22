"""`python -m benchmarks.witness CORE FILE`: when a core ran nobody at all.

It sleeps a millisecond at a time on the core, with a real-time priority that nothing else there has, so that only one
thing can make it late: the core itself was away (the hypervisor gave it to another guest, or an interrupt's handler
held it). The kernel books such a time to whoever was running, as CPU or as sleep, and not as steal or as a wait for a
core; without a witness it looks like the program's own stall. Gaps are appended to FILE as lines of JSON (`Gap`).
Needs CAP_SYS_NICE; without it there is no witness and nothing is taken off.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from benchmarks.machine import pinned

STEP_SECONDS = 0.001
NOTED_SECONDS = 0.0005
PRIORITY = 50


class Gap(msgspec.Struct, frozen=True):
    """Seconds of time.monotonic() between which the core was away."""

    since: float
    until: float


@contextlib.contextmanager
def witness(core: int, path: Path) -> Iterator[bool]:
    """Watches as long as the context lasts; false where it is not allowed to."""
    path.touch()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except PermissionError:
        yield False
        return
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    watching = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.witness", str(core), str(path)], preexec_fn=pinned(core)
    )
    try:
        yield True
    finally:
        watching.kill()
        watching.wait()


def gaps(path: Path) -> list[Gap]:
    return [msgspec.json.decode(line, type=Gap) for line in path.read_bytes().splitlines()]


def away_ms(seen: Iterable[Gap], since: float, until: float) -> float:
    """How much of this span the core was away for, milliseconds."""
    return sum(max(0.0, min(until, gap.until) - max(since, gap.since)) for gap in seen) * 1e3


def main() -> None:
    core, path = int(sys.argv[1]), sys.argv[2]
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    last = time.monotonic()
    while True:
        time.sleep(STEP_SECONDS)
        now = time.monotonic()
        due = last + STEP_SECONDS
        if now - due >= NOTED_SECONDS:
            os.write(file, msgspec.json.encode(Gap(due, now)) + b"\n")
        last = time.monotonic()


if __name__ == "__main__":
    main()
