"""Processes that must not outlive their purpose: who they are, whether they live, and how they end.

A pid alone names nobody (pids are reused), so every record carries the start time that the system gives for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

CHILDREN = "children.ndjson"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def started_at(pid: int) -> str | None:
    """An opaque mark of the moment `pid` started; None where no such process lives (a zombie does not)."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        return None if fields[0] == "Z" else fields[19]
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def is_alive(pid: int, start: str | None) -> bool:
    """Whether the very process that had this pid and start lives."""
    return pid > 0 and start is not None and started_at(pid) == start


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel sends SIGTERM when the parent dies (Linux; elsewhere the record has to do)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def killed_with_parent() -> None:
    """The same with SIGKILL, for processes that would take their time over SIGTERM, or ignore it."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Recorded:
    name: str
    pid: int
    start: str


def record_child(run_dir: Path, name: str, pid: int) -> None:
    """Notes a process of the run, for `gameday recover`."""
    start = started_at(pid)
    if start is None:
        return  # gone already
    with (run_dir / CHILDREN).open("ab") as file:
        file.write(msgspec.json.encode([name, pid, start]) + b"\n")


def recorded_children(run_dir: Path) -> list[Recorded]:
    """All processes noted for the run, dead ones included. A torn last line is passed over."""
    try:
        lines = (run_dir / CHILDREN).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):
            name, pid, start = msgspec.json.decode(line, type=tuple[str, int, str])
            found.append(Recorded(name, pid, start))
    return found


def end(process: Recorded, grace_seconds: float) -> bool:
    """Ends the process and its group: SIGTERM, then SIGKILL. False if it was gone already."""
    if not is_alive(process.pid, process.start):
        return False
    for number, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, number)
            else:
                os.kill(process.pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not is_alive(process.pid, process.start):
                return True
            time.sleep(0.05)
    return not is_alive(process.pid, process.start)
