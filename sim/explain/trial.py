"""Trials: one change, played on the same replications as every other, until it is clear whether it holds the SLOs.

A replication is given up as soon as more requests are bad than any SLO's budget allows for the whole window: the day is
lost, whatever comes; where it is to be told which SLOs a change saves, when all are that are lost without it. Over
replications runs Wald's sequential probability ratio test between "holds in nine of ten" and "holds in six of ten", at
5 % error: two days lost at the start end a trial, eight held in a row settle it.

Results depend on the seed and on what was played, never on who played it or how fast.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from scenarios.model import SloSpec
from sim.knobs.configuration import Configuration
from sim.knobs.knob import Knob
from sim.model.distributions import LogNormal
from sim.model.draws import Streams
from sim.model.parameters import Parameters
from sim.model.system import System
from sim.replication.quantities import Key, Requests, quantities
from sim.replication.replicate import Outcome, Players, Task

WHOLE = 1.0 + 1e-9
"""Budgets spent up to which an SLO is held."""
LOOKS = 10
"""How often a replication is looked at for whether it is lost."""
LOST = 1.03
"""Budgets spent at which a day is given up: over 1, since a changed day may have a few more requests."""
HOLDS, HOLDS_NOT = 0.9, 0.6
ERROR = 0.05
SETTLED = math.log((1.0 - ERROR) / ERROR)
GIVEN_UP = -2.7
"""Just within what two lost days at the start come to (2 log(0.1/0.4) = -2.77): an error of 6 %."""
STEP_HELD = math.log(HOLDS / HOLDS_NOT)
STEP_LOST = math.log((1.0 - HOLDS) / (1.0 - HOLDS_NOT))
MOST_TRIALS = 20
CHUNK = 8
"""Trials handed out at a time at most: what is played when time runs out is kept."""
Tweak = Literal["handshakes", "discovery", "cpu"]
TINY = LogNormal(1e-6, 0.0)
J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Day:
    """One replication of one change."""

    replication: int
    spent: dict[str, float]
    """Budget spent by SLO; of a day that was given up, what its first part would come to."""
    lost_at: float | None
    """When it was given up, seconds from the injection."""
    values: dict[Key, float]
    """All quantities, where it was played to its end."""
    totals: dict[str, int]
    """Requests of each SLO over the window, likewise."""
    hops: int = 0

    @property
    def held(self) -> bool:
        return self.lost_at is None and all(value <= WHOLE for value in self.spent.values())

    @property
    def badness(self) -> float:
        """Doublings of the budget, over all SLOs: 0 for a day on which all hold."""
        return sum(math.log2(max(1.0, value)) for value in self.spent.values())


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is asked."""

    task: Task
    replication: int
    totals: dict[str, int] | None = None
    """Requests of each SLO on the unchanged day: with them the day may be given up."""
    apart: frozenset[str] = frozenset()
    """SLOs that have to be lost, each of them, before it is."""
    without: tuple[Tweak, ...] = ()
    """What the parameters of the replication are freed of."""


def play_day(job: Job) -> Day:
    """Plays one replication, to its end or until it is lost."""
    task = job.task
    setup = task.setup
    streams = Streams(task.seed, job.replication)
    parameters = _freed(task.calibration.draw(streams), job.without)
    system = System(setup, parameters, streams, pods=task.pods, start=task.start)
    if job.totals is not None:
        for look in range(1, LOOKS):
            at = setup.end * look / LOOKS
            if not system.advance(at):
                break
            spent = {slo.name: _spent_by_now(system, slo, job.totals[slo.name]) for slo in setup.slos}
            lost = {name for name, share in spent.items() if share > LOST}
            if lost and lost >= job.apart:
                pace = setup.end / at
                return Day(job.replication, {name: value * pace for name, value in spent.items()}, at, {}, {})
    record = system.run()
    values = quantities(record, setup)
    spent = {slo.name: values.get(("budget_spent", slo.name, "all"), 0.0) for slo in setup.slos}
    everything = Requests.of(record)
    totals = {slo.name: len(everything.select(slo.route, 0.0, setup.end)) for slo in setup.slos}
    hops = sum(sum(seconds.values()) for seconds in record.reached.values())
    return Day(job.replication, spent, None, values, totals, hops)


def _spent_by_now(system: System, slo: SloSpec, total: int) -> float:
    """Budget of the whole window that is spent for sure: requests that ended badly, over those allowed of `total`."""
    record, setup = system.record, system.setup
    limit = min(slo.threshold if slo.threshold is not None else math.inf, setup.load.timeout)
    ends = zip(record.route, record.intended_at, record.latency, record.status, strict=True)
    bad = sum(
        latency is None or latency > limit or not 0 < status < 500
        for route, begun, latency, status in ends
        if begun >= 0.0 and (slo.route is None or route == slo.route)
    )
    return bad / total / max(1.0 - slo.objective, 1e-3 / total) if total else 0.0


def _freed(parameters: Parameters, without: Sequence[Tweak]) -> Parameters:
    for tweak in without:
        match tweak:
            case "handshakes":
                parameters = replace(parameters, handshake=TINY)
            case "discovery":
                delays = replace(parameters.delays, endpoint_update=0.0)
                parameters = replace(parameters, delays=delays, discovery=TINY)
            case "cpu":
                parameters = replace(parameters, cpu=None)
    return parameters


def outcome_of(day: Day) -> Outcome:
    """For `sim.forecast.discrepancy`, which spreads outcomes."""
    return Outcome(day.replication, day.values)


@dataclass(slots=True, eq=False)
class Candidate:
    """A change under trial."""

    settings: tuple[tuple[Knob, float], ...]
    configuration: Configuration
    task: Task
    base: Task
    days: list[Day] = field(default_factory=list)

    @property
    def size(self) -> float:
        return sum(knob.size(value) for knob, value in self.settings)

    @property
    def turned(self) -> frozenset[tuple[str, str]]:
        """The knobs that it turns."""
        return frozenset((knob.name, knob.place) for knob, _ in self.settings)

    @property
    def text(self) -> str:
        return "; ".join(knob.say(value) for knob, value in self.settings)

    @property
    def verdict(self) -> bool | None:
        """Holds, does not, or not known yet."""
        ratio = 0.0
        for day in self.days[:MOST_TRIALS]:
            ratio += STEP_HELD if day.held else STEP_LOST
            if ratio >= SETTLED:
                return True
            if ratio <= GIVEN_UP:
                return False
        if len(self.days) >= MOST_TRIALS:
            return sum(day.held for day in self.days) >= HOLDS * len(self.days)
        return None

    @property
    def saved(self) -> frozenset[str]:
        """The SLOs that its first day holds."""
        return frozenset(name for name, spent in self.days[0].spent.items() if spent <= WHOLE)

    @property
    def badness(self) -> float:
        return sum(day.badness for day in self.days) / len(self.days) if self.days else math.inf


class TimeOver(Exception):
    """What was asked for does not fit the time; what was played before it stands."""


class Stage:
    """Plays trials in rounds, on all cores, until a deadline. Round n is replication n of everything in it."""

    def __init__(self, players: Players, deadline: float) -> None:
        self._players = players
        self.deadline = deadline
        self.plays = 0
        self._pace: dict[bool, float] = {}
        """Seconds for each whole day (True), and for each that may be given up."""
        self.unchanged: list[Day] = []
        """The unchanged days, to their end; what is tried is given up against these."""

    def each(self, function: Callable[[J], R], jobs: Sequence[J], *, whole: bool = True) -> list[R]:
        """The results in order. `whole`: none of the jobs may be given up.

        Raises:
            TimeOver: the deadline passed, or would by the pace of the round before; the round is void, so that a result
                never depends on where it was cut.
        """
        began = now()
        if not jobs:
            return []
        if began + self._pace.get(whole, 0.0) * len(jobs) > self.deadline:
            raise TimeOver
        found = self._players.each(function, jobs, self.deadline)
        if found is None:
            raise TimeOver
        each = (now() - began) / len(jobs)
        self._pace[whole] = (self._pace.get(whole, each) + each) / 2.0
        self.plays += len(found)
        return found

    def warm(self) -> None:
        """Waits until the workers are there, so that their start is not taken for the price of a day."""
        self._players.each(abs, [0] * (4 * self._players.processes), self.deadline)

    def try_out(self, candidates: Iterable[Candidate], until: int, *, apart: bool = False) -> None:
        """Plays each candidate whose verdict is open until it has that many days. `apart`: its first day tells for each
        SLO that is lost without it whether it saves that one."""
        wanted = [candidate for candidate in candidates if candidate.verdict is None]
        for number in range(until):
            behind = [c for c in wanted if len(c.days) == number and c.verdict is None]
            if behind and self.unchanged and number >= len(self.unchanged):
                first = len(self.unchanged)
                self.unchanged += self.full_days([behind[0].base], range(first, first + CHUNK))[0]
            while behind:
                size = self._chunk()
                chunk, behind = behind[:size], behind[size:]
                lost = self.lost() if apart and number == 0 else frozenset()
                jobs = [Job(c.task, number, self._totals(number), lost) for c in chunk]
                for candidate, day in zip(chunk, self.each(play_day, jobs, whole=False), strict=True):
                    candidate.days.append(day)

    def _chunk(self) -> int:
        """As many as there is time for, within `CHUNK`: a slow machine tries a few rather than none."""
        return max(self._players.processes, self.fitting(CHUNK, whole=False))

    def fitting(self, most: int, *, whole: bool = True) -> int:
        """How many of `most` jobs fit the time left, by the pace of the rounds before."""
        pace = self._pace.get(whole, self._pace.get(True, 0.0))
        return min(most, int((self.deadline - now()) / pace)) if pace else most

    def _totals(self, number: int) -> dict[str, int] | None:
        return self.unchanged[number].totals if number < len(self.unchanged) else None

    def lost(self) -> frozenset[str]:
        """SLOs that the first unchanged day does not hold."""
        return frozenset(name for day in self.unchanged[:1] for name, spent in day.spent.items() if spent > WHOLE)

    def settle(self, candidates: Iterable[Candidate]) -> None:
        """Plays each candidate until its verdict is known."""
        self.try_out(candidates, MOST_TRIALS)

    def full_days(self, tasks: Sequence[Task], days: range, without: Sequence[Tweak] = ()) -> list[list[Day]]:
        """Each task's days, played to their end."""
        jobs = [Job(task, number, without=tuple(without)) for task in tasks for number in days]
        found = iter(self.each(play_day, jobs))
        return [[next(found) for _ in days] for _ in tasks]


def now() -> float:
    return time.monotonic()
