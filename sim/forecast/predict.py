"""The forecast: replications of the calibrated twin → prediction intervals for this very window.

Each replication draws its own parameters from the baseline's posterior and plays the same windows with the same
rates as the run will, and with the same arrivals where the load generator is ours, so the spread of the ensemble holds
what is unknown and what is chance. On top of each comes a discrepancy, learned from how much the baseline differs from
itself: latencies are multiplied by a log-normal factor, error shares are spread a little more than counting alone does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, Self

import numpy as np

from scenarios.model import Scenario
from sim.calibration import cpu
from sim.calibration.calibrate import Calibration, calibrate
from sim.calibration.cold import cold_observation
from sim.calibration.identifiability import summary_of
from sim.calibration.outcome import FEW_REQUESTS
from sim.forecast import elasticity
from sim.forecast.discrepancy import Learned, choose, load, with_discrepancy
from sim.forecast.elasticity import elasticities, play_slower
from sim.forecast.intervals import WIDEST, arrival_of, bands_of, column_quantiles, fan_bands_of, tails
from sim.forecast.load_band import TIME_SHARE, may_tell, play_load_bands
from sim.forecast.naive import naive
from sim.forecast.patience import FEWEST_REPLICATIONS, MOST_REPLICATIONS, TOO_FEW, Clock, Patience, too_few
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
from sim.replication.replicate import Outcome, Players, Task
from sim.results import Fan, Forecast, LoadBand, Prediction

__all__ = ["Forecaster", "cold_observation", "make_forecast"]

SCHEMA = "gameday.dev/forecast/v1"


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

    `planned_injection_at`: Unix seconds. `time_budget_seconds`: calibrating included; a slow machine takes longer, to
    have the few replications without which there is no forecast. `schedule`: who will arrive when, where the load
    generator's seed is known; None: Poisson arrivals of any kind. The rest as in `Forecaster`.
    """
    began = time.monotonic()
    with Forecaster(
        scenario, observation, world=world, seed=seed, processes=processes, learned=learned, calibration=calibration
    ) as twin:
        seconds = began + time_budget_seconds - time.monotonic()
        return twin.forecast(planned_injection_at, seconds, schedule, most_replications)


class Forecaster:
    """A calibrated twin with its workers at hand. Use as a context manager, or close it.

    `processes`: None for all cores, 1 for this process only. `learned`: the discrepancy of past runs; None for
    constants alone. `calibration`: made before; None: from the observation.
    """

    def __init__(
        self,
        scenario: Scenario,
        observation: Observation,
        *,
        world: str,
        seed: int,
        processes: int | None = None,
        learned: Learned | Literal["shipped"] | None = "shipped",
        calibration: Calibration | None = None,
    ) -> None:
        self._began = time.monotonic()
        self._scenario, self._observation, self._world, self._seed = scenario, observation, world, seed
        self._setup = read_setup(scenario, observation.load_pods, observation.world)
        self._players = Players(processes)
        self._closed = False
        try:
            self._calibration = calibration if calibration is not None else calibrate(observation, scenario)
            terms = load() if learned == "shipped" else learned
            self._discrepancy = choose(self._calibration, self._setup, world, terms)
        except BaseException:
            self._players.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers, whatever they play."""
        self._closed = True
        self._players.close()

    def seconds_needed(self, patience: Patience) -> float:
        """How long a forecast should play here, in seconds: plays one replication in each worker to find out."""
        task = self._task(self._observation.ended_at + patience.usual)
        workers = self._players.processes
        pilots = self._players.play(_jobs(task, workers), lambda started, _: started >= workers)
        mean = math.fsum(pilot.seconds for pilot in pilots) / len(pilots)
        return patience.seconds(mean / workers / self._own_share, time.monotonic() - self._began)

    def forecast(
        self,
        planned_injection_at: float,
        seconds: float,
        schedule: Schedule | None = None,
        most_replications: int = MOST_REPLICATIONS,
    ) -> Forecast:
        """Plays for so many seconds and says what that tells. `planned_injection_at` and `schedule` as in
        `make_forecast`."""
        began = time.monotonic()
        task = replace(self._task(planned_injection_at, fan_step(self._setup)), schedule=schedule)
        on_slower = Clock(began, seconds * elasticity.TIME_SHARE, fewest=0, floor=0)
        slower = play_slower(self._players, task, self._until(on_slower))
        own = Clock(began, seconds * (1.0 - self._kept_for_bands))
        all_of_it = Clock(began, seconds, fewest=0, floor=0)
        outcomes = self._players.play(_jobs(task, most_replications), self._until(own))
        load_bands = play_load_bands(self._players, task, outcomes, self._until(all_of_it))
        limits = self._limits(outcomes)
        outcomes = outcomes if len(outcomes) >= TOO_FEW else []
        values = [with_discrepancy(outcome, self._setup, self._discrepancy, self._seed) for outcome in outcomes]
        before = naive(self._setup, self._observation, schedule)
        return Forecast(
            schema=SCHEMA,
            scenario=self._scenario.name,
            variant=self._scenario.variant,
            world=self._world,
            seed=self._seed,
            made_at=time.time(),
            planned_injection_at=planned_injection_at,
            replications=len(outcomes),
            compute_seconds=round(time.monotonic() - self._began, 3),
            calibration={
                **summary_of(self._calibration),
                "arrivals": "the drill's own, known from its seed" if schedule is not None else "Poisson, of any seed",
                "discrepancy": self._discrepancy.statement(),
            },
            predictions=tuple(
                _predictions(self._setup, [v for v, _ in values], before, load_bands, elasticities(outcomes, slower))
            ),
            fans=tuple(_fans(self._setup, [f for _, f in values])),
            limits=limits,
        )

    @property
    def _own_share(self) -> float:
        """Of the time, what the forecast's own replications have at least; the rest is for the slower machine and for
        bands of the load."""
        return 1.0 - elasticity.TIME_SHARE - self._kept_for_bands

    @property
    def _kept_for_bands(self) -> float:
        return TIME_SHARE if may_tell(self._setup) else 0.0

    def _task(self, planned_injection_at: float, step: float | None = None) -> Task:
        return make_task(self._setup, self._calibration, self._observation, self._seed, planned_injection_at, step)

    def _until(self, clock: Clock) -> Callable[[int, float], bool]:
        return lambda started, mean_seconds: self._closed or clock.enough(started, mean_seconds)

    def _limits(self, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
        """What the reader must know of a forecast from these, the most important first."""
        calibration, services = self._calibration, {service.name for service in self._setup.app.services}
        limits = [_pace(calibration.drift), *unplayed(self._setup), *check(self._setup.faults, services)]
        if calibration.ours and calibration.total < FEW_REQUESTS:
            limits.insert(0, _thin(calibration.total))
        limits[:0] = calibration.cpu.limits() if calibration.cpu is not None else [cpu.WITHOUT]
        stopped = [o.stopped_at for o in outcomes if o.stopped_at is not None]
        if stopped:
            limits.append(
                f"{len(stopped)} of {len(outcomes)} replications ran away and were stopped, the first at"
                f" {min(stopped):.0f} s: what comes later is too mild."
            )
        return (*too_few(len(outcomes)), *limits)


def _pace(drift: float) -> str:
    return f"Nobody can tell how fast the machine will be: each replication has its own pace, give or take {drift:.0%}."


def _thin(requests: int) -> str:
    if not requests:
        return "No request was measured: all times and shares are declared or typical ones, and may be wrong."
    seen = f"{requests} requests were" if requests > 1 else "one request was"
    return f"Only {seen} measured: what that does not tell is declared or typical, and may be wrong."


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
    setup: Setup,
    ensembles: list[dict[Key, float]],
    baseline: dict[Key, float],
    load_bands: dict[str, LoadBand],
    with_pace: dict[Key, float],
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
                elasticity=with_pace.get(key),
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
