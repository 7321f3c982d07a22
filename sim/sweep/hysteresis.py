"""The ramp: offered load goes up step by step and down again, with no fault at all.

A system without a metastable region serves on the way down what it served on the way up. One with a region does not:
once overloaded it stays bad down to a load that it had served with ease, and the two branches make a loop. The loads at
which they part and meet are the region's ends (HotOS 2021; load is the trigger here).

Each load is held for a while, the first half of which is not counted, and on as long as the system is bad and its
backlog shrinks: a queue that drains slowly is no loop. One system plays the whole ramp, so that the
backlog of one step is what the next begins with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from sim.model.draws import Streams
from sim.model.parameters import Parameters
from sim.model.setup import Setup
from sim.model.system import System
from sim.observation import PodState
from sim.sweep.trigger import GOOD_SHARE, Counter, at_load, pooled, worst_share

SHORTEST_HOLD_SECONDS = 20.0
SETTLE_SECONDS = 10.0
SHRINKS = 0.1
"""Of what a hold offers: a backlog that loses more in a hold is shrinking."""
MOST_HOLDS = 200
"""For one load with a backlog that shrinks."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One load of the ramp."""

    load: float
    """Journeys a second."""
    share: float
    """Answered well on the worst client route, over the second half of the last hold."""


class Ramp(msgspec.Struct, frozen=True, kw_only=True):
    """Up and down under one policy."""

    policy: str
    hold_seconds: float
    up: tuple[Step, ...]
    """Ascending loads."""
    down: tuple[Step, ...]
    """Descending loads; the peak is the last of `up`."""

    @property
    def loop(self) -> tuple[float, float] | None:
        """(lowest, highest) load that is served on the way up and not on the way down; None where there is none."""
        bad = {step.load for step in self.down if step.share < GOOD_SHARE}
        apart = [step.load for step in self.up if step.share >= GOOD_SHARE and step.load in bad]
        return (min(apart), max(apart)) if apart else None


@dataclass(frozen=True, slots=True)
class RampJob:
    """One ramp to play."""

    policy: str
    setup: Setup
    parameters: Parameters
    loads: tuple[float, ...]
    """Ascending."""
    seed: int
    pods: tuple[PodState, ...] = ()
    start: float = 0.0


def hold_of(setup: Setup) -> float:
    """Seconds for which a load is held: twice the client's timeout, so that what is given up shows."""
    return max(SHORTEST_HOLD_SECONDS, 2.0 * setup.load.timeout)


def play_ramp(job: RampJob) -> Ramp:
    """Plays one ramp."""
    hold = hold_of(job.setup)
    loads = (*job.loads, *reversed(job.loads[:-1]))
    setup = replace(at_load(job.setup, job.loads[-1]), faults=())
    parameters = replace(job.parameters, rate=loads[0])
    end = SETTLE_SECONDS + MOST_HOLDS * hold * len(loads)
    system = System(setup, parameters, Streams(job.seed, 0), pods=job.pods, start=min(job.start, -6.0), end=end)
    system.advance(SETTLE_SECONDS)
    counter = Counter(system, setup.load.timeout)
    steps: list[Step] = []
    now = SETTLE_SECONDS
    for load in loads:
        system.offer(load)
        share = 0.0
        for _ in range(MOST_HOLDS):
            before = system.backlog
            system.advance(now + 0.5 * hold)
            counter.take()
            now += hold
            alive = system.advance(now)
            share = _share(system, counter) if alive else 0.0
            if not alive or share >= GOOD_SHARE or before - system.backlog <= SHRINKS * load * hold:
                break
        steps.append(Step(load=load, share=round(share, 4)))
    top = len(job.loads)
    return Ramp(policy=job.policy, hold_seconds=hold, up=tuple(steps[:top]), down=tuple(steps[top:]))


def _share(system: System, counter: Counter) -> float:
    """Of the worst route, since the counter was last emptied."""
    share = worst_share(pooled([counter.take()]), {})
    if share is None:  # nothing ended
        return 0.0 if system.backlog else 1.0
    return share
