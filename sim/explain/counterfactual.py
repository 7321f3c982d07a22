"""What would have saved the SLO, what that costs when nothing is wrong, and why it burned: the twin asked after a run.

    unchanged   the day as it was, on ten replications and more as they are needed; where ten take most of the time, on
                as many as fit half of it, two at least, and with wider intervals
    search      the smallest change that holds every SLO (sim.explain.search)
    intervals   the changes to be reported, and the unchanged day, on as many whole replications as fit
    price       the same changes on days without faults (sim.explain.price)
    causes      mechanisms switched off one at a time (sim.explain.causes)

All on common random numbers: same arrivals, service times and parameters, so that a difference between two lines is the
change's and not luck. Each step has a share of the time, and what one does not use the next ones have. Budgets are
spread by the discrepancy of forecasts, so that an interval is one for a real day. Changes that make leaves live longer
or renew more often are asked of a day on which they had been in force all along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from scenarios.model import IdentitySettings, Scenario
from sim.calibration.calibrate import calibrate
from sim.calibration.outcome import Calibration
from sim.explain import causes as why
from sim.explain.explanation import UNCHANGED, Explanation, Price, Remedy, Setting
from sim.explain.price import PRICE_DAYS, PRICE_ROUND, healthy, price
from sim.explain.search import Search
from sim.explain.student import t90
from sim.explain.trial import WHOLE, Candidate, Day, Stage, TimeOver, now, outcome_of
from sim.forecast.discrepancy import Discrepancy, Learned, choose, load, with_discrepancy
from sim.forecast.predict import make_task, quantile_of
from sim.knobs.changes import knobs, renewal_period
from sim.knobs.configuration import Configuration, read_configuration
from sim.knobs.knob import Knob
from sim.knobs.written import CannotWrite, write
from sim.model.setup import Setup
from sim.observation import Observation, PodState
from sim.replication.quantities import Key
from sim.replication.replicate import Players, Task
from sim.results import CounterfactualSlo

__all__ = ["UNCHANGED", "explain"]

HOLDS_IN = 0.9
"""Share of replications in which all SLOs must be held."""
FIRST_DAYS, FEWEST_DAYS, MOST_DAYS, ROUND = 10, 2, 60, 5
FIRST_SHARE = 0.5
"""Of the time, for the first unchanged days, where ten would take more."""
LONGER = "`gameday explain RUN --seconds 60` takes more"
SEARCH_SHARE, INTERVALS_SHARE, PRICES_SHARE = 0.4, 0.58, 0.75
"""Of the time after the first days of an unchanged run: when each must be over; causes have the rest."""
REPORTED = 4
"""Changes that are reported beside `nothing changed`."""


def explain(
    scenario: Scenario,
    observation: Observation,
    *,
    seed: int,
    planned_injection_at: float,
    time_budget_seconds: float,
    processes: int | None = None,
    learned: Learned | Literal["shipped"] | None = "shipped",
) -> Explanation | None:
    """Asks the twin that was calibrated on the baseline. None where there is nothing to ask: no fault or no SLO. Where
    there was no time for an answer, it says so. `learned` as in `sim.forecast.predict.make_forecast`."""
    began = now()
    configuration = read_configuration(scenario, observation.load_pods, observation.world)
    turnable = knobs(configuration)
    if not scenario.faults or not scenario.slos:
        return None
    with Players(processes) as players:
        calibration = calibrate(observation, scenario)
        base = make_task(configuration.setup(), calibration, observation, seed, planned_injection_at)
        discrepancy = choose(calibration, base.setup, observation.world, load() if learned == "shipped" else learned)
        asked = _Asked(configuration, base, calibration, discrepancy, Stage(players, began + time_budget_seconds))
        return asked.answer(turnable, began, time_budget_seconds)


class _Asked:
    """One explanation under way."""

    def __init__(
        self,
        configuration: Configuration,
        base: Task,
        calibration: Calibration,
        discrepancy: Discrepancy,
        stage: Stage,
    ) -> None:
        self._configuration = configuration
        self._base = base
        self._calibration = calibration
        self._discrepancy = discrepancy
        self._stage = stage

    def answer(self, turnable: list[Knob], began: float, seconds: float) -> Explanation:
        stage = self._stage
        stage.warm()
        began = now()  # the start of the workers and the calibration are not the search's
        stage.deadline = began + seconds
        stage.unchanged = self._first_days(began, seconds)
        if not stage.unchanged:
            return Explanation(
                remedies=(),
                causes=(),
                verdict=f"There was no time to play the day twice in the twin; {LONGER}.",
                tried=0,
                plays=stage.plays,
                seconds=round(now() - began, 3),
                complete=False,
            )
        # On a slow machine these days take long; the search is not to pay for them alone.
        searching, whole = now(), began + seconds
        left = whole - searching
        search = Search(stage, self._configuration, self._base, self._task, turnable)
        stage.deadline = searching + SEARCH_SHARE * left
        if not _holds(stage.unchanged):
            search.run()
        else:
            search.complete = True
        chosen = search.holding()[:REPORTED]
        for candidate in (*(search.saving() if not chosen else ()), *search.helping()):
            if len(chosen) < REPORTED and candidate.turned not in {known.turned for known in chosen}:
                chosen.append(candidate)
        stage.deadline = searching + INTERVALS_SHARE * left
        days = self._whole_days(chosen)
        stage.deadline = searching + PRICES_SHARE * left
        prices = self._prices(chosen)
        stage.deadline = whole
        causes = why.attribute(stage, self._base)
        remedies = [self._remedy(None, stage.unchanged, None)]
        for candidate, played, cost in zip(chosen, days, prices, strict=True):
            if played:
                remedies.append(self._remedy(candidate, played, cost))
        loss = _lost(remedies[0])
        remedies = [remedy for remedy in remedies if remedy.holds or _lost(remedy) <= loss]
        remedies.sort(key=_rank)
        return Explanation(
            remedies=tuple(remedies),
            causes=tuple(causes),
            verdict=_verdict(remedies, search, len(stage.unchanged)),
            tried=len(search.tried()),
            plays=stage.plays,
            seconds=round(now() - began, 3),
            complete=search.complete,
        )

    # ---- playing

    def _first_days(self, began: float, seconds: float) -> list[Day]:
        """Unchanged days; none where not even the fewest fit the time."""
        stage = self._stage
        try:
            days = stage.full_days([self._base], range(FEWEST_DAYS))[0]
            stage.deadline = began + FIRST_SHARE * seconds
            more = stage.fitting(FIRST_DAYS - FEWEST_DAYS)
            while more > 0:
                try:
                    days += stage.full_days([self._base], range(FEWEST_DAYS, FEWEST_DAYS + more))[0]
                    break
                except TimeOver:  # slower than the first ones were
                    more = stage.fitting(more // 2)
        except TimeOver:
            return []
        return days

    def _task(self, configuration: Configuration) -> Task:
        """The base task of another configuration."""
        setup = replace(configuration.setup(), zero_at=self._base.setup.zero_at)
        identity, before = setup.identity, self._base.setup.identity
        pods = self._base.pods
        if identity != before:
            pods = tuple(_in_force(pod, before, identity, self._base.start) for pod in pods)
        return replace(self._base, setup=setup, pods=pods)

    def _whole_days(self, chosen: Sequence[Candidate]) -> list[list[Day]]:
        """Whole days of each candidate, and as many of the unchanged day: equally many, as many rounds as fit. Where
        not even one round does, it is played for the first of them alone."""
        found: list[list[Day]] = [[] for _ in chosen]
        among = list(zip(chosen, found, strict=True))
        while among:
            try:
                for first in range(0, MOST_DAYS, ROUND):
                    self._round(among, range(first, first + ROUND))
            except TimeOver:
                if found[0] or len(among) == 1:
                    break
                among = among[: len(among) // 2]
                continue
            break
        return found

    def _round(self, among: Sequence[tuple[Candidate, list[Day]]], numbers: range) -> None:
        fresh = [number for number in numbers if number >= len(self._stage.unchanged)]
        if fresh:
            self._stage.unchanged += self._stage.full_days([self._base], range(fresh[0], fresh[-1] + 1))[0]
        played = self._stage.full_days([candidate.task for candidate, _ in among], numbers)
        for (_, days), new in zip(among, played, strict=True):
            days += new

    def _prices(self, chosen: Sequence[Candidate]) -> list[Price | None]:
        """Of each candidate, or where that does not fit of the first alone."""
        for among in (chosen, chosen[:1]):
            tasks = [healthy(self._base), *(healthy(candidate.task) for candidate in among)]
            days: list[list[Day]] = [[] for _ in tasks]
            for size in (PRICE_ROUND, 2):  # few days are better than none
                try:
                    while len(days[0]) < PRICE_DAYS:
                        numbers = range(len(days[0]), len(days[0]) + size)
                        for known, new in zip(days, self._stage.full_days(tasks, numbers), strict=True):
                            known += new
                except TimeOver:
                    continue
            plain, *changed = days
            if plain:
                found = [
                    price(self._base.setup, candidate.task.setup, plain, played)
                    for candidate, played in zip(among, changed, strict=True)
                ]
                return found + [None] * (len(chosen) - len(found))
        return [None] * len(chosen)

    # ---- telling

    def _remedy(self, candidate: Candidate | None, days: Sequence[Day], cost: Price | None) -> Remedy:
        ensembles = [self._spread(day) for day in days]
        slos = _effect(self._base.setup, ensembles)
        holds = bool(slos) and _all_held(self._base.setup, ensembles) >= HOLDS_IN
        if candidate is None:
            return Remedy(change=UNCHANGED, settings=(), size=0.0, slos=slos, holds=holds, replications=len(days))
        overrides: tuple[str, ...] = ()
        files: dict[str, str] = {}
        unverifiable = next((knob.unverifiable for knob, _ in candidate.settings if knob.unverifiable), None)
        if unverifiable is None:
            try:
                written = write(candidate.configuration, self._configuration)
                overrides, files = written.overrides, written.files
            except CannotWrite as reason:
                unverifiable = str(reason)
        return Remedy(
            change=candidate.text,
            settings=tuple(
                Setting(knob=knob.name, place=knob.place, before=_finite(knob.today), after=_finite(value))
                for knob, value in candidate.settings
            ),
            size=candidate.size,
            slos=slos,
            holds=holds,
            replications=len(days),
            price=cost,
            overrides=overrides,
            files=files,
            unverifiable=unverifiable,
        )

    def _spread(self, day: Day) -> Mapping[Key, float]:
        values, _ = with_discrepancy(outcome_of(day), self._base.setup, self._discrepancy, self._base.seed)
        return values


def _effect(setup: Setup, ensembles: Sequence[Mapping[Key, float]]) -> tuple[CounterfactualSlo, ...]:
    found = []
    for slo in setup.slos:
        key = ("budget_spent", slo.name, "all")
        spent = sorted(values[key] for values in ensembles if key in values)
        if len(spent) < FEWEST_DAYS:
            continue
        low, median, high = _interval(spent)
        found.append(
            CounterfactualSlo(
                name=slo.name,
                budget_spent_low=low,
                budget_spent_median=median,
                budget_spent_high=high,
                probability_held=float(np.mean([value <= WHOLE for value in spent])),
            )
        )
    return tuple(found)


def _all_held(setup: Setup, ensembles: Sequence[Mapping[Key, float]]) -> float:
    """Share of days on which every SLO is held: SLOs that fail on different days lose more of them together than any
    does alone. One without a request on a day is held there."""
    keys = [("budget_spent", slo.name, "all") for slo in setup.slos]
    return float(np.mean([all(values.get(key, 0.0) <= WHOLE for key in keys) for values in ensembles]))


def _interval(spent: list[float]) -> tuple[float, float, float]:
    """(low, median, high) of ascending values, 90 % between. Fewer than ten have no such quantiles: there it is the
    interval for one more of a normal distribution, and at least what was seen."""
    median = quantile_of(spent, 0.5)
    if len(spent) >= FIRST_DAYS:
        return quantile_of(spent, 0.05), median, quantile_of(spent, 0.95)
    half = t90(len(spent) - 1) * float(np.std(spent, ddof=1)) * (1.0 + 1.0 / len(spent)) ** 0.5
    return max(0.0, min(spent[0], median - half)), median, max(spent[-1], median + half)


def _holds(days: Sequence[Day]) -> bool:
    return bool(days) and sum(day.held for day in days) >= HOLDS_IN * len(days)


def _lost(remedy: Remedy) -> float:
    return sum(slo.budget_spent_median for slo in remedy.slos)


def _rank(remedy: Remedy) -> tuple[bool, float, float, float]:
    """Those that hold, by size, then by price; then by what they lose."""
    lost = _lost(remedy)
    cost = (remedy.price.work_change + remedy.price.pods) if remedy.price is not None else 0.0
    return (not remedy.holds, remedy.size if remedy.holds else lost, cost, lost)


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _verdict(remedies: Sequence[Remedy], search: Search, days: int) -> str:
    found = _found(remedies, search)
    if days >= FIRST_DAYS or not search.tried():
        return found
    more = "" if LONGER in found else f"; {LONGER}"
    return f"{found} It rests on {days} days only, so that its intervals are wide{more}."


def _found(remedies: Sequence[Remedy], search: Search) -> str:
    holding = [remedy for remedy in remedies if remedy.holds]
    tried = len(search.tried())
    ended = "" if search.complete else "; the search was cut off by its time, so a smaller one may exist"
    if holding and holding[0].change == UNCHANGED:
        return "The twin holds every SLO with nothing changed."
    if holding:
        return f"The smallest of {tried} changes tried that holds every SLO: {holding[0].change}{ended}."
    if not tried:
        if search.complete:
            return "There is no knob for these faults: no change was tried."
        return f"There was no time to try a change; {LONGER}."
    parts = _in_parts(remedies, search)
    if search.complete:
        return f"No change of those tried holds every SLO ({tried} tried, of one knob and of two).{parts}"
    return f"No change tried in time holds every SLO ({tried} tried); {LONGER}.{parts}"


def _in_parts(remedies: Sequence[Remedy], search: Search) -> str:
    """Where several SLOs are lost and nothing holds all: what saves some of them, and which nothing does."""
    unchanged = next(remedy for remedy in remedies if remedy.change == UNCHANGED)
    lost = [slo.name for slo in unchanged.slos if slo.probability_held < HOLDS_IN]
    if len(lost) < 2:
        return ""
    text, open_still = "", list(lost)
    for remedy in sorted(remedies, key=lambda remedy: remedy.size):
        held = {slo.name for slo in remedy.slos if slo.probability_held >= HOLDS_IN}
        saves = [name for name in open_still if name in held]
        if saves:
            text += f" {_and(saves)}: saved by {remedy.change}."
            open_still = [name for name in open_still if name not in held]
    hopeless = [name for name in open_still if not any(name in candidate.saved for candidate in search.singles())]
    return text + (f" {_and(hopeless)}: saved by no change of one knob that was tried." if hopeless else "")


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _in_force(pod: PodState, old: IdentitySettings, new: IdentitySettings, start: float) -> PodState:
    """The leaf that the pod would hold had `new` always been in force: at the same point of its cycle at `start`."""
    cycle = renewal_period(new) / renewal_period(old)
    refreshed_at = start - (start - pod.leaf_refreshed_at) * cycle
    return PodState(pod.name, pod.service, refreshed_at + new.leaf_lifetime + new.clock_skew, refreshed_at)
