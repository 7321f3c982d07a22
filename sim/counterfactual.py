"""What would have saved the SLO: the same days again, with one thing done differently.

Every change of the catalogue, and no change at all, is played on the same replications: same arrivals, same service
times, same parameters (common random numbers), so that a difference between two lines is the change's and not luck.
Changes are played a replication at a time in turn; when the time is over, all have equally many. Changes that make a
leaf live longer are asked of a day on which they had been in force all along.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from scenarios.model import IdentitySettings, Scenario
from sim.calibrate import calibrate
from sim.changes import catalogue
from sim.forecast import Clock, make_task, quantile_of
from sim.observation import Observation, PodState
from sim.quantities import Key
from sim.replicate import Players, Task
from sim.results import Counterfactual, CounterfactualSlo
from sim.setup import Setup, read_setup

UNCHANGED = "nothing changed"
FEWEST_ROUNDS = 10
MOST_ROUNDS = 60
HOLDS_IN = 0.9
"""Share of replications in which an SLO must be held."""


def explain(
    scenario: Scenario,
    observation: Observation,
    *,
    seed: int,
    planned_injection_at: float,
    time_budget_seconds: float,
    processes: int | None = None,
) -> list[Counterfactual]:
    """Each change with its effect on every SLO over inject and recover, the most budget saved first. "nothing
    changed" stands among them, where it belongs. Empty when there are no faults or no change is worth asking."""
    began = time.monotonic()
    setup = read_setup(scenario, observation.load_pods, observation.world)
    changes = catalogue(setup)
    if not changes:
        return []
    with Players(processes) as players:
        calibration = calibrate(observation, scenario)
        base = make_task(setup, calibration, observation, seed, planned_injection_at)
        texts = [UNCHANGED, *(change.text for change in changes)]
        tasks = [base, *(_changed(base, change.setup) for change in changes)]
        clock = _Rounds(began, time_budget_seconds, players.processes, len(tasks))
        outcomes = players.play(_in_turn(tasks), clock.enough)
    found = [
        _judge(text, setup, [outcome.values for outcome in outcomes[index :: len(tasks)]])
        for index, text in enumerate(texts)
    ]
    found.sort(key=lambda pair: pair[0])
    return [counterfactual for _, counterfactual in found]


class _Rounds:
    """Stops at the end of a round only, so that every change has had as many replications."""

    def __init__(self, began: float, budget: float, processes: int, size: int) -> None:
        self._clock = Clock(began, budget, fewest=FEWEST_ROUNDS * size)
        self._processes = processes
        self._size = size

    def enough(self, started: int, mean_seconds: float) -> bool:
        if started % self._size:
            return False
        round_seconds = mean_seconds * self._size / self._processes
        return started >= MOST_ROUNDS * self._size or self._clock.is_over(started, round_seconds)


def _in_turn(tasks: list[Task]) -> Iterator[tuple[Task, int]]:
    for replication in range(MOST_ROUNDS):
        for task in tasks:
            yield task, replication


def _changed(base: Task, setup: Setup) -> Task:
    pods = base.pods
    if setup.identity.leaf_lifetime != base.setup.identity.leaf_lifetime:
        pods = tuple(_stretched(pod, base.setup.identity, setup.identity) for pod in pods)
    return replace(base, setup=setup, pods=pods)


def _stretched(pod: PodState, old: IdentitySettings, new: IdentitySettings) -> PodState:
    """The leaf that the pod would hold had leaves always lived that long: refreshed at the same point of its cycle."""
    life = old.leaf_lifetime + old.clock_skew
    longer = new.leaf_lifetime + new.clock_skew
    expires_at = pod.leaf_refreshed_at + longer * (pod.leaf_expires_at - pod.leaf_refreshed_at) / life
    return PodState(pod.name, pod.service, expires_at, pod.leaf_refreshed_at)


def _judge(
    text: str, setup: Setup, ensembles: Sequence[Mapping[Key, float]]
) -> tuple[tuple[float, float], Counterfactual]:
    """((median, high) budget spent over all SLOs, for ranking; the counterfactual)."""
    slos: list[CounterfactualSlo] = []
    median_in_all = high_in_all = 0.0
    for slo in setup.slos:
        spent = sorted(v["budget_spent", slo.name, "all"] for v in ensembles if ("budget_spent", slo.name, "all") in v)
        if not spent:
            continue
        held = sum(1 for value in spent if value <= 1.0 + 1e-9) / len(spent)
        low, median, high = (quantile_of(spent, share) for share in (0.05, 0.5, 0.95))
        median_in_all += median
        high_in_all += high
        slos.append(
            CounterfactualSlo(
                name=slo.name,
                budget_spent_low=low,
                budget_spent_median=median,
                budget_spent_high=high,
                probability_held=held,
            )
        )
    holds = bool(slos) and all(slo.probability_held >= HOLDS_IN for slo in slos)
    return (median_in_all, high_in_all), Counterfactual(change=text, slos=tuple(slos), holds=holds)
