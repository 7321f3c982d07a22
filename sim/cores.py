"""The cores that this process, and what it starts, may use: those of its affinity mask, where the system has one.

A run that is pinned to one core of many is a run on a machine with one core, for the twin as for the world.
"""

from __future__ import annotations

import os


def own_cores() -> frozenset[int] | None:
    """Their numbers; None where processes cannot be pinned, so that all are ours."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def count_cores() -> int:
    """How many they are."""
    mine = own_cores()
    return len(mine) if mine is not None else os.cpu_count() or 1
