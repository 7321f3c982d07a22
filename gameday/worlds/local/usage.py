"""CPU time and memory of processes, from /proc or, where there is none, from ps; CPU time of the machine from /proc.

The machine's time says what other programs use of the cores that a run shares with them.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from reports.store import MACHINE_PROCESS, Usage

_HAS_PROC = Path("/proc/self/stat").exists()
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def usage_of(processes: Mapping[str, int]) -> list[Usage]:
    """One entry for each process that is still there."""
    now = time.time()
    if not _HAS_PROC:
        return _by_ps(processes, now)
    found = []
    for name, pid in processes.items():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue  # it ended between the list and the look
        fields = stat[stat.rindex(")") + 2 :].split()
        cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        found.append(Usage(now, name, cpu, int(fields[21]) * _PAGE))
    return found


def usage_of_machine() -> list[Usage]:
    """One entry: what all of the machine's cores have done since its start. None where there is no /proc."""
    if not _HAS_PROC:
        return []
    # user nice system idle iowait irq softirq steal; the guests' time is in user's already.
    ticks = [int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return [Usage(time.time(), MACHINE_PROCESS, (sum(ticks) - idle) / _TICKS, 0)]


def cores() -> int:
    """How many of them this process, and what it starts, may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _by_ps(processes: Mapping[str, int], now: float) -> list[Usage]:
    names = {pid: name for name, pid in processes.items()}
    if not names:
        return []
    answer = subprocess.run(
        ["ps", "-o", "pid=,time=,rss=", "-p", ",".join(map(str, names))],
        capture_output=True,
        text=True,
        check=False,
    )
    found = []
    for line in answer.stdout.splitlines():
        pid, cpu, rss = line.split()
        found.append(Usage(now, names[int(pid)], _seconds(cpu), int(rss) * 1024))
    return found


def _seconds(text: str) -> float:
    """`[[dd-]hh:]mm:ss.cc` of ps."""
    days, _, clock = text.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = total * 60 + float(part)
    return total + 86_400 * int(days or 0)
