"""Who will arrive when: the load of a drill is ours, and its seed decides it before the fault does anything.

The forecast is of this drill, so it may know its load, as it knows its faults. It is told the schedule only where the
requests so far are those of the schedule: several locust workers, for one, have schedules of their own.
"""

from __future__ import annotations

from bisect import bisect_left

from loadtests.schedule import arrivals
from reports.store import RunStore
from scenarios.model import Scenario
from sim.model.arrivals import Schedule

CLOSE_SECONDS = 0.002
"""Between a scheduled arrival and its recorded one: the same number but for its rounding."""
ENOUGH = 0.99
"""Of the arrivals of the baseline that must be found in the record."""
SETTLED_SECONDS = 2.0
"""Before the baseline's end: a request is recorded when it has ended, and the record is written now and then."""


def known_arrivals(
    store: RunStore, scenario: Scenario, seed: int, baseline: tuple[float, float], planned_injection_at: float
) -> Schedule | None:
    """The arrivals from the baseline's end to the end of the drill, in seconds from the planned injection; None where
    the record does not follow the schedule of this seed."""
    recorded = [request.intended_at for request in store.requests(0.0, baseline[1])]
    if not recorded:
        return None
    phases = scenario.phases
    until = planned_injection_at + phases.inject + phases.recover - recorded[0] + 1.0
    found = list(arrivals(scenario.load.rate, scenario.load.mix, seed, until))
    if not found:
        return None
    zero = recorded[0] - found[0].at
    settled = baseline[1] - SETTLED_SECONDS
    expected = [zero + arrival.at for arrival in found if baseline[0] <= zero + arrival.at < settled]
    seen = sum(_is_near(recorded, at) for at in expected)
    if not expected or seen < ENOUGH * len(expected):
        return None
    ahead = [arrival for arrival in found if zero + arrival.at >= baseline[1]]
    return Schedule(
        tuple(zero + arrival.at - planned_injection_at for arrival in ahead),
        tuple(arrival.journey for arrival in ahead),
    )


def _is_near(ascending: list[float], at: float) -> bool:
    index = bisect_left(ascending, at - CLOSE_SECONDS)
    return index < len(ascending) and ascending[index] <= at + CLOSE_SECONDS
