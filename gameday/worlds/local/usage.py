"""CPU time and memory of processes, from /proc or, where there is none, from ps; CPU time of the machine from /proc.

The machine's time says what other programs use of the cores that a run shares with them. Cores that the run may not
use are no part of its machine.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from reports.store import MACHINE_PROCESS, Usage
from sim.cores import own_cores

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
    """One entry: what the cores that are ours have done since the start. None where there is no /proc."""
    busy = busy_seconds(own_cores())
    return [] if busy is None else [Usage(time.time(), MACHINE_PROCESS, busy, 0)]


def busy_seconds(cores: Collection[int] | None, stat: str | None = None) -> float | None:
    """CPU seconds that these cores, or all, have been busy since the machine started; None where there is no /proc.

    `stat`: the text of /proc/stat, where it is at hand.
    """
    if stat is None:
        if not _HAS_PROC:
            return None
        stat = Path("/proc/stat").read_text()
    wanted = {"cpu"} if cores is None else {f"cpu{core}" for core in cores}
    total = 0
    for line in stat.splitlines():
        name, _, ticks = line.partition(" ")
        if name in wanted:
            # user nice system idle iowait irq softirq steal; the guests' time is in user's already.
            user, nice, system, _, _, irq, softirq, steal = map(int, ticks.split()[:8])
            total += user + nice + system + irq + softirq + steal
    return total / _TICKS


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
