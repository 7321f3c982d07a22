"""Whether the machine was as fast during the fault as before it.

The load generator does the same for every request, whatever becomes of it. So the CPU time that a request costs it
gauges the machine and not the fault: on a virtual machine whose host has other guests, that share its caches and its
memory, the same instructions take a third longer at times. No baseline can tell of that beforehand, and latencies
follow it, so a reader must know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from reports.cpu import cpu_by_process
from reports.run import Run, Window
from reports.store import LOAD_PROCESS

TICK_SECONDS = 0.01
"""What a kernel's account of a process is off by."""
STEADY = 0.1
"""A machine that differs by no more is called the same."""


@dataclass(frozen=True, slots=True)
class Pace:
    """CPU seconds that a request cost the load generator."""

    before: float
    during: float
    error: float
    """Standard error of the log of their ratio: the account's ticks."""

    @property
    def ratio(self) -> float:
        """Above 1: the machine was slower."""
        return self.during / self.before

    @property
    def is_steady(self) -> bool:
        return abs(math.log(self.ratio)) <= max(math.log1p(STEADY), 2.0 * self.error)


def pace(run: Run, window: str) -> Pace | None:
    """Of a window, beside the baseline's; None where nobody counted."""
    if not {"baseline", window} <= set(run.windows):
        return None
    seconds, requests = zip(*(_spent(run, run.windows[name]) for name in ("baseline", window)), strict=True)
    if min(seconds) <= 0.0 or min(requests) == 0:
        return None
    before, during = (s / n for s, n in zip(seconds, requests, strict=True))
    return Pace(before, during, math.hypot(*(TICK_SECONDS / s for s in seconds)))


def _spent(run: Run, window: Window) -> tuple[float, int]:
    sent = sum(request.sent_at is not None for request in run.requests(window))
    return cpu_by_process(run, window).get(LOAD_PROCESS, 0.0), sent


def unsteady(before: float, during: float) -> str:
    """For a reader, of a machine that was not steady; seconds as in `Pace`."""
    change = f"{during / before - 1.0:.0%} slower" if during > before else f"{before / during - 1.0:.0%} faster"
    return (
        f"The machine was {change} during the fault than in the baseline: a request cost the load generator, which does"
        f" the same for each, {1e3 * during:.2f} ms of CPU time, and {1e3 * before:.2f} ms before. Latencies changed"
        " for that reason too, which no forecast could know."
    )
