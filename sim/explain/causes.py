"""Why it burned: mechanisms switched off one at a time in the twin, on the same days.

    share = mean over days of   1 - budget spent without the mechanism / budget spent with it

Days are paired (common random numbers), so the interval is that of the difference. The SLO asked about is the one that
burned most. A fault is a mechanism like any other, and usually takes all of the burn with it; what is of interest are
the others, which turned so much of a fault into so much of a burn. A mechanism that is off anyway is not listed.

Leave-one-out charges two mechanisms that need each other (retries, and the queue that they fill) with the same burn
twice. So among the mechanisms that matter, four at most, the Shapley value is computed too, over all their subsets,
when the time allows: there every order of switching off counts alike, and the parts sum to what they add together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import msgspec
import numpy as np

from mesh.api.messages import HttpRouteSpec, OutboundPolicy, QueueSpec, TimeoutSpec
from sim.explain.explanation import Cause
from sim.explain.student import t90
from sim.explain.trial import Day, Job, Stage, TimeOver, Tweak, play_day
from sim.model.setup import Rules, Setup
from sim.observation import PodState
from sim.replication.replicate import Task

ROUND, MOST_DAYS = 4, 20
UNBOUNDED = 1_000_000
FOREVER = 1e9
MATTERS = 0.03
"""Share from which a mechanism takes part in the Shapley value."""
MOST_PLAYERS = 4
SHAPLEY_DAYS = 8


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Something that can be switched off."""

    name: str
    kind: Literal["fault", "mechanism"]
    off: Callable[[Task], Task]
    tweak: Tweak | None = None

    def without(self, job: Job) -> Job:
        """The same day without it."""
        more = (self.tweak,) if self.tweak is not None else ()
        return replace(job, task=self.off(job.task), without=(*job.without, *more))


def mechanisms(task: Task) -> list[Mechanism]:
    """Those that are at work in the task's system, faults first."""
    setup = task.setup
    found = [
        Mechanism(f"the fault {fault.name}", "fault", lambda t, name=fault.name: _without_fault(t, name))  # type: ignore[misc]
        for fault in setup.faults
    ]
    found += [
        Mechanism("retries", "mechanism", _policies(_unretried)),
        Mechanism("timeouts of requests and tries", "mechanism", _policies(_untimed)),
        Mechanism("circuit breakers", "mechanism", _policies(_unbroken)),
        Mechanism("fail-fast and load shedding in proxies", "mechanism", _policies(_patient)),
        Mechanism("bounded queues in apps", "mechanism", _unbounded),
        Mechanism("work for callers that have left", "mechanism", _cancelling),
        Mechanism("leaves that expire", "mechanism", _everlasting),
    ]
    found = [mechanism for mechanism in found if mechanism.off(task) is not task]
    found.append(Mechanism("time that handshakes take", "mechanism", _same, "handshakes"))
    found.append(Mechanism("discovery that is late, or forgets", "mechanism", _remembering, "discovery"))
    if task.calibration.cpu is not None:
        found.append(Mechanism("sharing of the machine's CPU", "mechanism", _same, "cpu"))
    return found


# ---- switches --------------------------------------------------------------------------------------------------------


def _same(task: Task) -> Task:
    return task


def _without_fault(task: Task, name: str) -> Task:
    others = tuple(fault for fault in task.setup.faults if fault.name != name)
    return replace(task, setup=replace(task.setup, faults=others))


def _policies(change: Callable[[Rules], Rules]) -> Callable[[Task], Task]:
    """Changes every authority's rules; the very task where that changes nothing."""

    def off(task: Task) -> Task:
        rules = {authority: change(one) for authority, one in task.setup.rules.items()}
        return task if rules == task.setup.rules else replace(task, setup=replace(task.setup, rules=rules))

    return off


def _routes(rules: Rules, change: Callable[[HttpRouteSpec], HttpRouteSpec]) -> OutboundPolicy:
    return msgspec.structs.replace(rules.policy, routes=tuple(change(route) for route in rules.policy.routes))


def _unretried(rules: Rules) -> Rules:
    routes = tuple(msgspec.structs.replace(route, is_retryable=False) for route in rules.profile.routes)
    profile = msgspec.structs.replace(rules.profile, routes=routes)
    return Rules(profile, _routes(rules, lambda route: msgspec.structs.replace(route, retry=None)))


def _untimed(rules: Rules) -> Rules:
    def patient(route: HttpRouteSpec) -> HttpRouteSpec:
        retry = route.retry
        if retry is not None:
            retry = msgspec.structs.replace(retry, timeout_seconds=None)
        return msgspec.structs.replace(route, timeouts=TimeoutSpec(), retry=retry)

    routes = tuple(msgspec.structs.replace(route, timeout_seconds=None) for route in rules.profile.routes)
    return Rules(msgspec.structs.replace(rules.profile, routes=routes), _routes(rules, patient))


def _unbroken(rules: Rules) -> Rules:
    return replace(rules, policy=msgspec.structs.replace(rules.policy, failure_accrual=None))


def _patient(rules: Rules) -> Rules:
    endless = QueueSpec(capacity=UNBOUNDED, failfast_seconds=FOREVER)
    return replace(rules, policy=msgspec.structs.replace(rules.policy, queue=endless))


def _unbounded(task: Task) -> Task:
    services = tuple(replace(service, queue=UNBOUNDED) for service in task.setup.app.services)
    return replace(task, setup=replace(task.setup, app=replace(task.setup.app, services=services)))


def _cancelling(task: Task) -> Task:
    """Where an app could be told: one that burns CPU hears nothing meanwhile."""
    app = task.setup.app
    services = tuple(replace(s, cancels=True) if s.work == "wait" else s for s in app.services)
    if services == app.services:
        return task
    return replace(task, setup=replace(task.setup, app=replace(app, services=services)))


def _everlasting(task: Task) -> Task:
    if not any(fault.kind in ("cert-expiry", "control-plane-down") for fault in task.setup.faults):
        return task
    pods = tuple(PodState(pod.name, pod.service, FOREVER, pod.leaf_refreshed_at) for pod in task.pods)
    identity = replace(task.setup.identity, leaf_lifetime=FOREVER, max_refresh=FOREVER)
    return replace(task, setup=replace(task.setup, identity=identity), pods=pods)


def _remembering(task: Task) -> Task:
    return replace(task, setup=replace(task.setup, discovery_idle_seconds=FOREVER))


# ---- shares ----------------------------------------------------------------------------------------------------------


def burning(setup: Setup, days: Sequence[Day]) -> str | None:
    """The SLO that burned most over the days; None where none burned."""
    spent = {slo.name: sum(day.spent[slo.name] for day in days) for slo in setup.slos}
    worst = max(spent, key=lambda name: spent[name], default=None)
    return worst if worst is not None and spent[worst] > 0.0 else None


def attribute(stage: Stage, task: Task) -> list[Cause]:
    """Every mechanism's share, faults first, then by share. Uses the unchanged days that the stage has played; what
    does not fit the stage's time is left out."""
    slo = burning(task.setup, stage.unchanged)
    if slo is None:
        return []
    known = mechanisms(task)
    days: dict[str, list[Day]] = {mechanism.name: [] for mechanism in known}
    count = min(MOST_DAYS, len(stage.unchanged))
    done = 0
    for size in (ROUND, 2):  # few days are better than none
        try:
            while done < count:
                numbers = range(done, min(count, done + size))
                jobs = [mechanism.without(Job(task, number)) for mechanism in known for number in numbers]
                played = iter(stage.each(play_day, jobs))
                for mechanism in known:
                    days[mechanism.name] += [next(played) for _ in numbers]
                done = numbers.stop
        except TimeOver:
            continue
    causes = [
        _cause(mechanism, slo, stage.unchanged[: len(days[mechanism.name])], days[mechanism.name])
        for mechanism in known
        if days[mechanism.name]
    ]
    causes = _with_shapley(stage, task, slo, known, causes)
    return sorted(causes, key=lambda cause: (cause.kind != "fault", -cause.share))


def _cause(mechanism: Mechanism, slo: str, with_it: Sequence[Day], without: Sequence[Day]) -> Cause:
    """Ratio of means: a day that burned little says little. Its interval by the delta method, with Student's t: there
    may be two days only."""
    x = np.asarray([day.spent[slo] for day in with_it])
    y = np.asarray([day.spent[slo] for day in without])
    mean = float(x.mean())
    share = 1.0 - float(y.mean()) / mean if mean > 0.0 else 0.0
    residual = (x - y) - share * x
    error = float(residual.std(ddof=1)) / math.sqrt(len(x)) / mean if len(x) > 1 and mean > 0.0 else 0.0
    reach = t90(max(1, len(x) - 1)) * error
    return Cause(
        mechanism=mechanism.name,
        kind=mechanism.kind,
        slo=slo,
        share=share,
        low=share - reach,
        high=share + reach,
        replications=len(x),
    )


def _with_shapley(stage: Stage, task: Task, slo: str, known: Sequence[Mechanism], causes: list[Cause]) -> list[Cause]:
    by_name = {mechanism.name: mechanism for mechanism in known}
    ranked = sorted(
        (c for c in causes if c.kind == "mechanism" and abs(c.share) >= MATTERS), key=lambda c: -abs(c.share)
    )
    players = [cause.mechanism for cause in ranked[:MOST_PLAYERS]]
    if len(players) < 2:
        return causes
    numbers = range(min(SHAPLEY_DAYS, len(stage.unchanged)))
    subsets = [frozenset(chosen) for size in range(len(players) + 1) for chosen in combinations(players, size)]
    jobs = []
    for off in subsets:
        for number in numbers:
            job = Job(task, number)
            for name in sorted(off):
                job = by_name[name].without(job)
            jobs.append(job)
    try:
        played = iter(stage.each(play_day, jobs))
    except TimeOver:
        return causes
    burn = {off: sum(next(played).spent[slo] for _ in numbers) for off in subsets}
    whole = burn[frozenset()]
    if whole <= 0.0:
        return causes
    values = {name: sum(_marginals(name, players, burn)) / whole for name in players}
    return [msgspec.structs.replace(cause, shapley=values.get(cause.mechanism)) for cause in causes]


def _marginals(name: str, players: Sequence[str], burn: Mapping[frozenset[str], float]) -> Iterator[float]:
    """Weighted differences that switching `name` off makes; together its Shapley value."""
    others = [other for other in players if other != name]
    for size in range(len(others) + 1):
        weight = math.factorial(size) * math.factorial(len(players) - size - 1) / math.factorial(len(players))
        for chosen in combinations(others, size):
            off = frozenset(chosen)
            yield weight * (burn[off] - burn[off | {name}])
