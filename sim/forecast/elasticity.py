"""How latencies go with the pace of the machine: first replications again, on one that is slower by a quarter.

No baseline tells how fast the machine will be during the fault: on a virtual machine whose host has other guests the
same instructions take a third longer at times. Nobody can forecast that, but what it does to a latency can be, and
sealed with the rest: by how many per cent the latency changes where everything takes one per cent more CPU time (in
economics an elasticity). After the run the forecast is read at the pace that was measured (`reports.pace`), which tells
what the twin got wrong from what the machine did.

Replications keep their random streams and their draws of the parameters, so that nothing but the pace differs, and few
of them tell it. In three runs the standard error of eight was 0.03 to 0.06 for a median and 0.05 to 0.08 for a p99; at
a pace of 1.3 an error of 0.06 is 1.6 %. They are played first, for a share of the forecast's time; where fewer than
three fit, none is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sim.replication.quantities import PERCENTILES, Key
from sim.replication.replicate import Outcome, Players, Task

SLOWER = 1.25
REPLICATIONS = 8
FEWEST = 3
TIME_SHARE = 0.15
"""Of a forecast's time that is kept for this."""


def play_slower(players: Players, task: Task, enough: Callable[[int, float], bool]) -> list[Outcome]:
    """The first replications of `task`, on the slower machine."""
    return players.play(_jobs(task), enough)


def _jobs(task: Task) -> Iterator[tuple[Task, int]]:
    slower = replace(task, calibration=task.calibration.at_pace(SLOWER), fan_step=None)
    for replication in range(REPLICATIONS):
        yield slower, replication


def elasticities(outcomes: Sequence[Outcome], slower: Sequence[Outcome]) -> dict[Key, float]:
    """Of each latency; none where fewer than `FEWEST` replications have it at both paces."""
    pairs: dict[Key, list[float]] = {}
    for own, other in zip(outcomes, slower, strict=False):
        for key, value in own.values.items():
            there = other.values.get(key)
            if key[0] in PERCENTILES and there is not None and value > 0.0 < there:
                pairs.setdefault(key, []).append(math.log(there / value) / math.log(SLOWER))
    return {key: math.fsum(some) / len(some) for key, some in pairs.items() if len(some) >= FEWEST}
