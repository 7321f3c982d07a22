"""CPU time and memory of processes, from /proc or, where there is none, from ps."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from reports.store import Usage

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
