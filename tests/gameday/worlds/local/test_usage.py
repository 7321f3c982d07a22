"""CPU time of the machine: of all cores, or of those that a run may use."""

from __future__ import annotations

import os

from gameday.worlds.local.usage import busy_seconds, usage_of_machine

TICKS = os.sysconf("SC_CLK_TCK")
STAT = """\
cpu  330 30 60 9000 600 6 9 15 77 0
cpu0 300 10 20 4000 300 2 3 5 70 0
cpu1 30 20 40 5000 300 4 6 10 7 0
cpu11 1 1 1 1 1 1 1 1 1 1
intr 1 2 3
"""


def test_only_the_cores_that_are_asked_for_count_and_neither_idle_nor_waiting_nor_guest_time() -> None:
    assert busy_seconds(None, STAT) == (330 + 30 + 60 + 6 + 9 + 15) / TICKS
    assert busy_seconds({0}, STAT) == (300 + 10 + 20 + 2 + 3 + 5) / TICKS
    assert busy_seconds({1}, STAT) == (30 + 20 + 40 + 4 + 6 + 10) / TICKS
    assert busy_seconds({0, 1}, STAT) == busy_seconds(None, STAT)


def test_what_a_run_is_told_of_the_machine_is_of_its_own_cores() -> None:
    before = busy_seconds(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else busy_seconds(None)
    told = usage_of_machine()
    if before is None:
        assert told == []
    else:
        assert 0.0 <= told[0].cpu_seconds - before < 5.0
