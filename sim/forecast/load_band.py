"""Whether "metastable or not" hangs on the load: first replications again, at 95 % and at 105 % of it.

A system is metastable from some load on, and nobody knows his load better than to a few per cent. Where yes or no
differs among these loads, a single run proves neither forecast wrong. The replications keep their random streams and
their draws of the parameters, so that nothing but the rate of arrivals differs. They are bounded by number and by a
share of the forecast's time; where too few fit, no band is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sim.model.setup import Setup
from sim.replication.course import METASTABLE, planned
from sim.replication.replicate import Outcome, Players, Task
from sim.results import LoadBand

HALF_WIDTH = 0.05
"""Of the load; the acceptance bar of the twin names it."""
REPLICATIONS = 20
"""At each of the two loads: P = 0.5 is then known to ±0.2, and far from the boundary all agree anyway."""
FEWEST = 5
TIME_SHARE = 0.2
"""Of a forecast's time that is kept for this."""
REPLICATIONS_SHARE = 4
"""At each load at most one for so many of the forecast's own."""


def may_tell(setup: Setup) -> bool:
    """Whether metastability may be told of this setup at all; only then is time kept for its band."""
    return planned(setup.faults) is not None and any(slo.threshold is None for slo in setup.slos)


def play_load_bands(
    players: Players, task: Task, outcomes: Sequence[Outcome], enough: Callable[[int, float], bool]
) -> dict[str, LoadBand]:
    """SLO → its band; of those of which `outcomes`, the forecast's own, tell metastability."""
    subjects = {subject for outcome in outcomes for quantity, subject, _ in outcome.values if quantity == METASTABLE}
    most = min(REPLICATIONS, len(outcomes) // REPLICATIONS_SHARE)
    if not subjects or most < FEWEST:
        return {}
    beside = players.play(_jobs(replace(task, fan_step=None), most), enough)
    found = {}
    for subject in sorted(subjects):
        below, above = (_told(beside[side::2], subject) for side in (0, 1))
        count = min(len(below), len(above))
        if count >= FEWEST:
            found[subject] = LoadBand(
                half_width=HALF_WIDTH,
                below=sum(below) / len(below),
                above=sum(above) / len(above),
                replications=count,
            )
    return found


def _jobs(task: Task, most: int) -> Iterator[tuple[Task, int]]:
    """Both loads in turn, so that a clock that stops them leaves as many of each."""
    for replication in range(most):
        for load in (1.0 - HALF_WIDTH, 1.0 + HALF_WIDTH):
            yield replace(task, load=load), replication


def _told(outcomes: Sequence[Outcome], subject: str) -> list[float]:
    key = (METASTABLE, subject, "recover")
    return [outcome.values[key] for outcome in outcomes if key in outcome.values]
