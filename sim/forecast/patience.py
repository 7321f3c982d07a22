"""How many replications a forecast is made of, and how long is waited for them.

A run decides when its fault goes in before the twin has played, since certificates and arrivals depend on it. So it
asks first what a replication costs here and now: beside a busy world on one core that is many times what it costs
alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

FEWEST_REPLICATIONS = 40
"""That are wanted: with fewer, intervals are widened."""
FEW_REPLICATIONS = 10
"""That are waited for however long it takes, up to `LONGEST_SECONDS`."""
TOO_FEW = 5
"""With fewer replications nothing is forecast, and of a quantity nothing where fewer have it."""
MOST_REPLICATIONS = 400
PATIENT_SECONDS = 20.0
"""A forecast may play so long to have the fewest replications."""
LONGEST_SECONDS = 120.0
MARGIN = 1.25
"""How far over its time a forecast goes to have the fewest replications, and by how much costs are overestimated."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a game day waits for its forecast. `usual`: seconds, calibrating included."""

    usual: float

    def seconds(self, each: float, spent: float) -> float:
        """To play for, where a replication takes `each` and `spent` have passed, all in seconds."""
        wanted = min(FEWEST_REPLICATIONS * each * MARGIN, PATIENT_SECONDS)
        return min(max(self.usual - spent, wanted, FEW_REPLICATIONS * each * MARGIN), LONGEST_SECONDS)


class Clock:
    """Says when there are enough replications. `began`: of time.monotonic(). Below `floor` replications it waits for
    `LONGEST_SECONDS`, below `fewest` for somewhat more than `budget` seconds."""

    def __init__(self, began: float, budget: float, fewest: int = FEWEST_REPLICATIONS, floor: int = TOO_FEW) -> None:
        self._began = began
        self._budget = budget
        self._fewest = fewest
        self._floor = floor

    def is_over(self, started: int, next_seconds: float) -> bool:
        """`started`: replications finished and under way. What takes `next_seconds` must fit what is left."""
        elapsed = time.monotonic() - self._began
        if started < self._floor:
            return elapsed > max(self._budget, LONGEST_SECONDS)
        allowed = self._budget * (MARGIN if started < self._fewest else 1.0)
        return elapsed + next_seconds > allowed

    def enough(self, started: int, mean_seconds: float) -> bool:
        return started >= MOST_REPLICATIONS or self.is_over(started, 1.5 * mean_seconds)


def too_few(replications: int) -> Iterator[str]:
    """What a reader must know of a forecast from so few, if anything."""
    fitted = f"{replications} replications" if replications != 1 else "one replication"
    if replications < TOO_FEW:
        yield (
            f"NO FORECAST: {fitted} of the {TOO_FEW} it takes fitted {LONGEST_SECONDS:.0f} s on this machine; lower"
            " load.rate, shorten the phases, or give the run more cores."
        )
    elif replications < FEWEST_REPLICATIONS:
        yield f"Only {fitted} fitted the time: intervals are wide, and their ends rough."
