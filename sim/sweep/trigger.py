"""One trigger, played: does the system come back by itself once the fault is gone?

    healthy ─► fault of some size ─► fault gone ─► played on until it is plain, or until the wait is over

Bad means: on some client route less than 90 % of what the same load gets without the fault is answered well (a status
below 500, before the client's timeout), counted when the request ends. Stuck means bad at the end of the wait, which is
much longer than every timeout. A backlog that shrinks is given up to three waits: slow to drain is not stuck (the
definitions are those of Bronson et al., HotOS 2021, and Huang et al., OSDI 2022).

What is plain before the wait is over, looked at every second:

    back    five seconds of goodput, and no more work in the pods than a healthy system has
    stuck   fifteen seconds and more of at most half the goodput, and a backlog that does not get back to a healthy one
            within the longest wait, even if its drift since and its luck to come are each lower by what a random walk
            allows; or half the wait of that with a queue that was full all along

Both are checked against plays to the end in tests/sim/sweep/test_phase_map.py. Rejected: calling a backlog stuck that
grew from five to five to five seconds. One that drains at a twentieth of capacity does so by chance, and is looked at
every second: budgets' edges came out 0.05 to 0.10 of capacity too low. Not tried: importance splitting for rare escapes
from the stuck state; a map that gives P(stuck) from a few plays has coarser questions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from scenarios.model import FaultSpec
from sim.calibration.calibrate import Calibration
from sim.model.draws import Streams
from sim.model.parameters import Parameters
from sim.model.setup import Setup
from sim.model.system import System
from sim.observation import PodState

GOOD_SHARE = 0.9
SETTLED_SECONDS = 5
LOST_SECONDS = 15
"""Of little goodput before a play may be called stuck."""
LAG = 5
"""Seconds over which a backlog's steps are taken to be independent: longer than most timeouts of tries."""
SURE = 3.5
"""Sigmas; a play is looked at every second."""
FEW = 10
"""Requests in the last seconds below which a route says nothing."""
HEALTHY_SECONDS = 30.0
LONGER = 3.0
"""Waits that a shrinking backlog gets."""
SHORTEST_WAIT = 60.0
SHARE_LOST = 0.5


@dataclass(frozen=True, slots=True)
class Health:
    """One load without a fault."""

    good: dict[str, float]
    """Client route → share answered well."""
    backlog: int
    """The most work in the pods at the end of a second."""
    overloaded: bool
    """Some route gets less than 90 % of what it is offered, fault or no fault."""


@dataclass(frozen=True, slots=True)
class Play:
    """One replication to play. `parameters` None: a draw of the calibration."""

    setup: Setup
    calibration: Calibration | None
    load: float
    """Journeys a second."""
    size: float
    """Of the trigger, on the axis that made `setup`; 0 where there is no fault."""
    seed: int
    replication: int
    wait: float
    health: Health | None = None
    """None: play the load without a fault, to learn it."""
    parameters: Parameters | None = None
    pods: tuple[PodState, ...] = ()
    start: float = 0.0
    """Where the observation ended on the replication's clock, whose 0 is the injection."""
    to_the_end: bool = False
    """No early stopping."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one play."""

    stuck: bool
    recovery_seconds: float | None
    """From the end of the trigger until goodput is back for good; None where it did not come back."""
    goodput: float
    """Of the worst route in the end, as a share of its healthy one."""
    backlog: int
    played_seconds: float
    """Simulated, after the trigger."""
    hops: int
    health: Health | None = None
    """Of a play without a fault."""


def wait_of(setup: Setup) -> float:
    """Seconds to wait after the trigger: six times the longest timeout that is set anywhere, and a minute at least."""
    longest = setup.load.timeout
    for rules in setup.rules.values():
        for route in rules.policy.routes:
            timeouts = route.timeouts
            longest = max(longest, timeouts.request_seconds or 0.0, timeouts.response_seconds or 0.0)
    return max(SHORTEST_WAIT, 6.0 * longest)


def at_load(setup: Setup, load: float) -> Setup:
    """The setup at another load; as much more may be in flight, since that bound is the load generator's."""
    spec = setup.load
    cap = max(spec.max_in_flight, round(spec.max_in_flight * load / spec.rate)) if spec.rate > 0 else spec.max_in_flight
    return replace(setup, load=replace(spec, rate=load, max_in_flight=cap))


def play(job: Play) -> Fate:
    """Plays one job. The result depends on its fields alone, not on where or when it is played."""
    system = _system(job)
    fate = _without_fault(system, job) if job.health is None else _Watch(system, job, job.health).outcome()
    system.record.settle()
    hops = sum(sum(seconds.values()) for seconds in system.record.reached.values())
    return replace(fate, hops=hops)


def _system(job: Play) -> System:
    streams = Streams(job.seed, job.replication)
    parameters = job.parameters
    if parameters is None:
        assert job.calibration is not None
        parameters = job.calibration.draw(streams)
    setup = at_load(job.setup, job.load)
    if job.health is None:
        setup = replace(setup, faults=())
    # Arrivals go on for as long as anybody looks.
    end = setup.inject_seconds + LONGER * job.wait + HEALTHY_SECONDS
    start = min(job.start, -6.0)
    return System(setup, replace(parameters, rate=job.load), streams, pods=job.pods, start=start, end=end)


class Counter:
    """Good and all requests of each route, second by second, from a record that it empties."""

    def __init__(self, system: System, timeout: float) -> None:
        self._record = system.record
        self._timeout = timeout

    def take(self) -> dict[str, tuple[int, int]]:
        """Route → (good, all) of the requests that ended since the last call."""
        record, timeout = self._record, self._timeout
        found: dict[str, tuple[int, int]] = {}
        for route, latency, status in zip(record.route, record.latency, record.status, strict=True):
            good, total = found.get(route, (0, 0))
            answered = latency is not None and latency <= timeout and 0 < status < 500
            found[route] = (good + answered, total + 1)
        for column in (record.route, record.intended_at, record.latency, record.status):
            column.clear()
        return found


def pooled(seconds: Iterable[dict[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    """Counts of several stretches of time as one."""
    found: dict[str, tuple[int, int]] = {}
    for second in seconds:
        for route, (good, total) in second.items():
            so_far = found.get(route, (0, 0))
            found[route] = (so_far[0] + good, so_far[1] + total)
    return found


def worst_share(counts: Mapping[str, tuple[int, int]], healthy: Mapping[str, float]) -> float | None:
    """The lowest share answered well over the routes that say something, each relative to its healthy share; None
    where no request ended."""
    if not counts:
        return None
    worst = 1.0
    for route, (good, total) in counts.items():
        usual = healthy.get(route, 1.0)
        if total >= FEW and usual > 0.0:
            worst = min(worst, good / total / usual)
    return worst


def _without_fault(system: System, job: Play) -> Fate:
    """Half a minute of the load alone, counted after ten seconds: is it served, and with how much work in the pods?"""
    counter = Counter(system, job.setup.load.timeout)
    system.advance(0.0)
    counter.take()
    seconds: list[dict[str, tuple[int, int]]] = []
    backlogs: list[int] = []
    # A journey that waits shows only at its timeout; queues of an overloaded system are seen to grow.
    for second in range(int(HEALTHY_SECONDS)):
        if not system.advance(second + 1.0):
            break
        seconds.append(counter.take())
        backlogs.append(system.backlog)
    counts = pooled(seconds[10:])
    shares = {route: good / total for route, (good, total) in counts.items()}
    worst = worst_share(counts, {})
    worst = 0.0 if worst is None and backlogs and backlogs[-1] else 1.0 if worst is None else worst
    middle, last = sum(backlogs[10:20]) / 10.0, sum(backlogs[20:30]) / 10.0
    # More than a fifth of what came in the last ten seconds stayed, and it had been growing before.
    growing = last - middle > 0.1 * job.load * 10.0 and middle > sum(backlogs[:10]) / 10.0
    overloaded = worst < GOOD_SHARE or growing
    health = Health(shares, max(backlogs, default=0), overloaded)
    return Fate(overloaded, None, worst, backlogs[-1] if backlogs else 0, HEALTHY_SECONDS, 0, health)


class _Watch:
    """Plays a trigger and looks every second until its fate is plain."""

    def __init__(self, system: System, job: Play, health: Health) -> None:
        self._system = system
        self._job = job
        self._health = health
        self._counter = Counter(system, job.setup.load.timeout)
        self._seconds: deque[dict[str, tuple[int, int]]] = deque(maxlen=SETTLED_SECONDS)
        self._backlogs: list[int] = []
        self._shares: list[float] = []
        self._rejected: list[int] = []

    def outcome(self) -> Fate:
        job, system = self._job, self._system
        gone = max((f.at + f.duration for f in job.setup.faults), default=0.0)
        system.advance(gone)
        self._counter.take()
        limit = job.wait
        elapsed = 0
        stuck: bool | None = None
        while elapsed < limit:
            elapsed += 1
            if not system.advance(gone + elapsed):
                stuck = True  # it ran away
                break
            self._look()
            if not job.to_the_end:
                stuck = self._verdict()
                if stuck is not None:
                    break
            if elapsed >= limit and limit < LONGER * job.wait and self._is_bad() and self._shrinks():
                limit = min(LONGER * job.wait, limit + 10.0)
        if stuck is None:
            stuck = self._is_bad()
        return Fate(
            stuck,
            None if stuck else self._recovery(),
            self._shares[-1] if self._shares else 0.0,
            system.backlog,
            float(elapsed),
            0,
        )

    def _look(self) -> None:
        self._seconds.append(self._counter.take())
        self._backlogs.append(self._system.backlog)
        self._shares.append(self._worst())
        self._rejected.append(sum(pod.rejected for pods in self._system.pods.values() for pod in pods))

    def _worst(self) -> float:
        """Goodput of the worst route over the last seconds, as a share of its healthy one."""
        worst = worst_share(pooled(self._seconds), self._health.good)
        if worst is None:  # nothing ends at all: as bad as can be, unless there is nothing to do
            return 0.0 if self._backlogs[-1] else 1.0
        return worst

    def _is_bad(self) -> bool:
        return not self._shares or self._shares[-1] < GOOD_SHARE

    def _verdict(self) -> bool | None:
        """Stuck, back (False), or not plain yet."""
        backlogs, shares = self._backlogs, self._shares
        count = len(shares)
        if count >= SETTLED_SECONDS:
            calm = max(backlogs[-SETTLED_SECONDS:]) <= self._calm_backlog
            if calm and shares[-1] >= GOOD_SHARE:
                return False
        lost = next((n for n, share in enumerate(reversed(shares)) if share >= SHARE_LOST), count)
        if lost >= LOST_SECONDS and count > LOST_SECONDS and self._never_drains(min(lost, count - 1)):
            return True
        half = int(0.5 * self._job.wait)
        if lost >= half and self._is_full(half) and not self._shrinks():
            return True
        return None

    def _never_drains(self, seconds: int) -> bool:
        """Whether the backlog, a random walk with the drift of the last `seconds`, is there to the end of the wait."""
        backlogs = self._backlogs[-seconds - 1 :]
        drift = (backlogs[-1] - backlogs[0]) / seconds
        steps = [later - before - LAG * drift for before, later in zip(backlogs, backlogs[LAG:], strict=False)]
        # Arrivals and departures alone make as much, and few steps may show less.
        variance = max(sum(step * step for step in steps) / len(steps) / LAG, 2.0 * self._job.load)
        left = LONGER * self._job.wait - len(self._shares)
        error = math.sqrt(variance * left * (left / seconds + 1.0))
        return backlogs[-1] + left * drift - SURE * error > self._calm_backlog

    @property
    def _calm_backlog(self) -> float:
        return 1.5 * self._health.backlog + 5

    def _is_full(self, seconds: int) -> bool:
        """Whether queues turned requests away all the time."""
        looks = self._rejected[-seconds - 1 :: SETTLED_SECONDS]
        return all(later > before for before, later in pairwise(looks))

    def _shrinks(self) -> bool:
        """The backlog of the last ten seconds is below that of ten seconds half a wait earlier, or as early as was
        seen: by chance it may grow for a while."""
        before = max(0, len(self._backlogs) - 10 - int(0.5 * self._job.wait))
        earlier = self._backlogs[before : before + 10]
        return sum(self._backlogs[-10:]) < 0.98 * sum(earlier)

    def _recovery(self) -> float:
        """Seconds after the trigger from which on goodput was never bad again."""
        bad = [index for index, share in enumerate(self._shares) if share < GOOD_SHARE]
        # A share looks back over five seconds: it turns good when the last bad second leaves them.
        return max(0.0, bad[-1] + 2.0 - SETTLED_SECONDS) if bad else 0.0


# ---- sizes -----------------------------------------------------------------------------------------------------------

AXES = ("duration", "latency", "errors", "replicas")
UNITS = {"duration": "s", "latency": "s", "errors": "", "replicas": ""}


class NoSuchAxis(ValueError):
    """The faults have nothing of that kind to be larger or smaller; the text is for the user."""


def size_of(setup: Setup, axis: str) -> float:
    """The scenario's own size on an axis: seconds from first injection to last revert, seconds of added latency,
    share of errors, or pods hit.

    Raises:
        NoSuchAxis: no fault has one.
    """
    faults = setup.faults
    if axis == "duration":
        size = max((f.at + f.duration for f in faults), default=0.0) - min((f.at for f in faults), default=0.0)
    elif axis == "replicas":
        size = float(max((int(f.targets.get("replicas", 0)) for f in faults), default=0))
    else:
        name = {"latency": "latencySeconds", "errors": "errorRate"}[axis]
        size = max((float(f.parameters.get(name, 0.0)) for f in faults), default=0.0)
    if size <= 0.0:
        raise NoSuchAxis(f"no fault of the scenario has a {axis} that could be larger or smaller")
    return size


def with_size(setup: Setup, axis: str, size: float) -> Setup:
    """The setup with its faults of another size, the first of them at second 0. Faults that have none of the axis stay.

    With several faults, `duration` stretches the whole timeline and `latency` and `errors` scale all in proportion.
    """
    own = size_of(setup, axis)
    first = min(f.at for f in setup.faults)
    factor = size / own

    def sized(fault: FaultSpec) -> FaultSpec:
        if axis == "duration":
            return replace(fault, at=(fault.at - first) * factor, duration=fault.duration * factor)
        fault = replace(fault, at=fault.at - first)
        if axis == "replicas":
            pods = fault.targets.get("replicas")
            return fault if pods is None else replace(fault, targets={**fault.targets, "replicas": round(size)})
        name = {"latency": "latencySeconds", "errors": "errorRate"}[axis]
        if name not in fault.parameters:
            return fault
        value = float(fault.parameters[name]) * factor
        return replace(fault, parameters={**fault.parameters, name: min(1.0, value) if axis == "errors" else value})

    faults = tuple(sized(fault) for fault in setup.faults)
    return replace(setup, faults=faults, inject_seconds=max(f.at + f.duration for f in faults))
