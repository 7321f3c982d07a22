"""The forecast: replications of the calibrated twin → prediction intervals for this very window.

Each replication draws its own parameters from the baseline's posterior and plays the same windows with the same
rates as the run will, and with the same arrivals where the load generator is ours, so the spread of the ensemble holds
what is unknown and what is chance. On top of each comes a discrepancy, learned from how much the baseline differs from
itself: latencies are multiplied by a log-normal factor, error shares are spread a little more than counting alone does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from scenarios.model import Scenario
from sim.calibration import cpu
from sim.calibration.calibrate import Calibration, calibrate
from sim.calibration.cold import cold_observation
from sim.calibration.identifiability import summary_of
from sim.calibration.outcome import FEW_REQUESTS
from sim.forecast.discrepancy import Learned, choose, load, with_discrepancy
from sim.forecast.intervals import WIDEST, arrival_of, bands_of, column_quantiles, fan_bands_of, tails
from sim.forecast.load_band import TIME_SHARE, may_tell, play_load_bands
from sim.forecast.naive import naive
from sim.model.arrivals import Schedule
from sim.model.faults import check
from sim.model.setup import Setup, read_setup, unplayed
from sim.model.system import WARM_UP_SECONDS
from sim.observation import Observation, PodState
from sim.replication.course import EVENTS, METASTABLE, censored_at, planned
from sim.replication.course import QUANTITIES as COURSE
from sim.replication.mesh_figures import FIGURES, MESH
from sim.replication.quantities import (
    FAN_QUANTITIES,
    PERCENTILES,
    Floats,
    Key,
    called_services,
    steps,
    windows,
)
from sim.replication.replicate import Players, Task
from sim.results import Fan, Forecast, LoadBand, Prediction

__all__ = ["cold_observation", "make_forecast"]

SCHEMA = "gameday.dev/forecast/v1"
FEWEST_REPLICATIONS = 40
TOO_FEW = 5
"""With fewer replications nothing is forecast, and of a quantity nothing where fewer have it."""
MOST_REPLICATIONS = 400
PATIENCE = 1.25
"""How far over its time budget a forecast goes to have the fewest replications."""
LIMITS = ("Latency overheads during the fault are those of the baseline.",)


def make_forecast(
    scenario: Scenario,
    observation: Observation,
    *,
    world: str,
    seed: int,
    planned_injection_at: float,
    time_budget_seconds: float,
    processes: int | None = None,
    most_replications: int = MOST_REPLICATIONS,
    learned: Learned | Literal["shipped"] | None = "shipped",
    calibration: Calibration | None = None,
    schedule: Schedule | None = None,
) -> Forecast:
    """Forecasts the scenario's inject and recover windows from its baseline.

    `planned_injection_at`: Unix seconds. `processes`: None for all cores, 1 for this process only. `learned`: the
    discrepancy of past runs; None for constants alone. `calibration`: made before; None: from the observation.
    `schedule`: who will arrive when, where the load generator's seed is known; None: Poisson arrivals of any kind.
    """
    began = time.monotonic()
    setup = read_setup(scenario, observation.load_pods, observation.world)
    limits = [*LIMITS, *unplayed(setup), *check(setup.faults, {service.name for service in setup.app.services})]
    with Players(processes) as players:
        if calibration is None:
            calibration = calibrate(observation, scenario)
        task = make_task(setup, calibration, observation, seed, planned_injection_at, fan_step(setup))
        task = replace(task, schedule=schedule)
        own_seconds = time_budget_seconds * (1.0 - TIME_SHARE) if may_tell(setup) else time_budget_seconds
        outcomes = players.play(_jobs(task, most_replications), Clock(began, own_seconds).enough)
        load_bands = play_load_bands(players, task, outcomes, Clock(began, time_budget_seconds, fewest=0).enough)
    if calibration.ours and calibration.total < FEW_REQUESTS:
        limits.insert(0, _thin(calibration.total))
    limits[:0] = calibration.cpu.limits() if calibration.cpu is not None else [cpu.WITHOUT]
    stopped = [o.stopped_at for o in outcomes if o.stopped_at is not None]
    if stopped:
        limits.append(
            f"{len(stopped)} of {len(outcomes)} replications ran away and were stopped, the first at"
            f" {min(stopped):.0f} s: what comes later is too mild."
        )
    if len(outcomes) < TOO_FEW:
        limits.append(f"Only {len(outcomes)} replications fitted the time: that is no forecast, and none is given.")
        outcomes = []
    elif len(outcomes) < FEWEST_REPLICATIONS:
        limits.append(f"Only {len(outcomes)} replications fitted the time: intervals are wide, and their ends rough.")
    discrepancy = choose(calibration, setup, world, load() if learned == "shipped" else learned)
    values = [with_discrepancy(outcome, setup, discrepancy, seed) for outcome in outcomes]
    return Forecast(
        schema=SCHEMA,
        scenario=scenario.name,
        variant=scenario.variant,
        world=world,
        seed=seed,
        made_at=time.time(),
        planned_injection_at=planned_injection_at,
        replications=len(outcomes),
        compute_seconds=round(time.monotonic() - began, 3),
        calibration={
            **summary_of(calibration),
            "arrivals": "the drill's own, known from its seed" if schedule is not None else "Poisson, of any seed",
            "discrepancy": discrepancy.statement(),
        },
        predictions=tuple(_predictions(setup, [v for v, _ in values], naive(setup, observation, schedule), load_bands)),
        fans=tuple(_fans(setup, [f for _, f in values])),
        limits=tuple(limits),
    )


def _thin(requests: int) -> str:
    if not requests:
        return "No request was measured: all times and shares are declared or typical ones, and may be wrong."
    seen = f"{requests} requests were" if requests > 1 else "one request was"
    return f"Only {seen} measured: what that does not tell is declared or typical, and may be wrong."


class Clock:
    """Says when there are enough replications."""

    def __init__(self, began: float, budget: float, fewest: int = FEWEST_REPLICATIONS) -> None:
        self._began = began
        self._budget = budget
        self._fewest = fewest

    def is_over(self, started: int, next_seconds: float) -> bool:
        """`started`: replications finished and under way. What takes `next_seconds` must fit what is left."""
        elapsed = time.monotonic() - self._began
        allowed = self._budget * (PATIENCE if started < self._fewest else 1.0)
        return started > 0 and elapsed + next_seconds > allowed

    def enough(self, started: int, mean_seconds: float) -> bool:
        return started >= MOST_REPLICATIONS or self.is_over(started, 1.5 * mean_seconds)


def make_task(
    setup: Setup,
    calibration: Calibration,
    observation: Observation,
    seed: int,
    planned_injection_at: float,
    step: float | None = None,
) -> Task:
    """One replication's needs, with the observed leaves on the replication's clock."""
    pods = tuple(
        PodState(
            pod.name,
            pod.service,
            pod.leaf_expires_at - planned_injection_at,
            pod.leaf_refreshed_at - planned_injection_at,
        )
        for pod in observation.pods
    )
    start = min(observation.ended_at - planned_injection_at, -WARM_UP_SECONDS)
    return Task(replace(setup, zero_at=planned_injection_at), calibration, pods, seed, start, step)


def _jobs(task: Task, most: int) -> Iterator[tuple[Task, int]]:
    for replication in range(most):
        yield task, replication


def fan_step(setup: Setup) -> float:
    return 1.0 if setup.end <= 90.0 else 2.0


# ---- from ensembles to results ---------------------------------------------------------------------------------------


def quantile_of(ascending: list[float], share: float) -> float:
    return float(np.quantile(np.asarray(ascending), share))


def _predictions(
    setup: Setup, ensembles: list[dict[Key, float]], baseline: dict[Key, float], load_bands: dict[str, LoadBand]
) -> Iterator[Prediction]:
    subjects = [(q, slo.name) for slo in setup.slos for q in ("success_rate", *PERCENTILES, "budget_spent")]
    subjects += [(quantity, slo.name) for slo in setup.slos for quantity, _ in COURSE]
    subjects += [("attempts_per_request", service) for service in called_services(setup.app)]
    subjects += [(figure, MESH) for figure in FIGURES]
    limits = censored_at(planned(setup.faults), setup.end)
    for window in windows(setup):
        for quantity, subject in subjects:
            key = (quantity, subject, window)
            values = sorted(v[key] for v in ensembles if key in v)
            if len(values) < TOO_FEW:
                continue  # hardly a replication has such a thing: one of no request that was answered, say
            # An event's middle is its probability.
            middle = math.fsum(values) / len(values) if quantity in EVENTS else quantile_of(values, 0.5)
            low, high = interval(quantity, values)
            yield Prediction(
                quantity=quantity,
                subject=subject,
                window=window,
                low=low,
                median=middle,
                high=high,
                naive=baseline.get(key),
                ensemble=tuple(float(f"{value:.7g}") for value in values),
                bands=() if quantity in EVENTS or len(values) < FEWEST_REPLICATIONS else bands_of(values),
                arrival=arrival_of(values, limits[quantity]) if quantity in limits else None,
                load_band=load_bands.get(subject) if quantity == METASTABLE else None,
            )


def interval(quantity: str, ascending: list[float]) -> tuple[float, float]:
    """The 90 % interval of an ensemble of at least `TOO_FEW`.

    The ends of few values lie too near to each other, so it is at least as wide as Student's prediction interval for
    one more value, and stays within what the quantity can be.
    """
    low, high = quantile_of(ascending, 0.05), quantile_of(ascending, 0.95)
    count = len(ascending)
    if count < FEWEST_REPLICATIONS and quantity not in EVENTS:
        values = np.asarray(ascending)
        reach = student_95(count - 1) * float(values.std(ddof=1)) * math.sqrt(1.0 + 1.0 / count)
        mean = float(values.mean())
        most = 1.0 if quantity in ("success_rate", "M1") else math.inf
        low, high = max(0.0, min(low, mean - reach)), min(most, max(high, mean + reach))
    return low, high


def student_95(freedom: int) -> float:
    """The 95 % quantile of Student's t, within 1 % from four degrees of freedom on (Abramowitz & Stegun 26.7.5)."""
    z = 1.6448536
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    return z + first / freedom + second / freedom**2


def _fans(setup: Setup, ensembles: list[dict[tuple[str, str], Floats]]) -> Iterator[Fan]:
    step = fan_step(setup)
    at = steps(setup, step)
    below, above = tails(WIDEST)
    for slo in setup.slos:
        for quantity in FAN_QUANTITIES:
            rows = [fans[quantity, slo.name] for fans in ensembles if (quantity, slo.name) in fans]
            if not rows:
                continue
            table = np.vstack(rows)
            lows, medians, highs = (column_quantiles(table, share) for share in (below, 0.5, above))
            yield Fan(
                quantity=quantity,
                subject=slo.name,
                step_seconds=step,
                at=at,
                low=lows,
                median=medians,
                high=highs,
                bands=fan_bands_of(table),
            )
