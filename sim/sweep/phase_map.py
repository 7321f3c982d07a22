"""The phase map: load × size of the fault × policy → what becomes of the system once the fault is gone.

    overloaded    bad at this load without any fault
    metastable    this fault leaves it stuck: bad long after the fault is gone, in at least half of the plays
    vulnerable    it comes back from this fault, but a larger one of those tested leaves it stuck at the same load, or
                  this one does now and then
    stable        it comes back from this and every larger fault tested
    unknown       the time was over before anything was played nearby

after Bronson et al. (HotOS 2021) and Huang et al. (OSDI 2022); "bad" and "stuck" are those of `sim.sweep.trigger`.
Words are about the sizes that were tested: a larger fault may find what a stable column hides.

Points are played where it matters first: every load without a fault; a coarse lattice; today's point; what lies
between lattice points that differ, until the boundary is a closed line; eight plays instead of one for every point at
the line, so that P(stuck) comes with a binomial interval there; then all the rest; and eight plays for whatever
boundary only the rest has shown. Whatever the time does not reach takes the state of its surroundings and is marked so.
Play 0 has the centre of what the baseline tells, every other play a draw.

Rejected: bisection in each column (half the plays, but an island of stuck points would never be seen, and both the
breaker and bounded queues make such).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

import msgspec

from sim.calibration.calibrate import Calibration
from sim.model.setup import Setup
from sim.observation import PodState
from sim.sweep.hysteresis import Ramp
from sim.sweep.places import Clock, Sweep
from sim.sweep.saturation import Line, boundary
from sim.sweep.trigger import Fate, Health, Play, play, wait_of, with_size

SCHEMA = "gameday.dev/phase-map/v1"
State = Literal["stable", "vulnerable", "metastable", "overloaded", "unknown"]
STRIDE = 3
PLAYS_AT_BOUNDARY = 8
BOUNDARY_ROUNDS = 3
"""Each time that the boundary is settled: more plays of a point may make it mixed, and its neighbours boundary too."""
Z = 1.645
"""Of a two-sided 90 % interval."""
Where = tuple[int, int, int]
"""(panel, index of load, index of size)."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One place of the map."""

    load: float
    """Journeys a second."""
    size: float
    state: State
    plays: int
    """0: nothing was played here; the state is that of the points around."""
    stuck: int
    low: float
    high: float
    """90 % interval of P(stuck) (Wilson); of its own plays alone, 0 to 1 where there are none."""
    recovery_seconds: float | None = None
    """Median over the plays that came back."""
    near_boundary: bool = False
    """A neighbour ends differently, or plays differ here: read P(stuck), not the state."""


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One policy."""

    policy: str
    points: tuple[Point, ...]
    """By load, then by size."""
    boundary_load: float | None = None
    """Where the load times (1 + retries) is the capacity, if the formula applies."""
    boundary_note: str = ""
    """In words with its numbers, or why no formula applies."""


class PhaseMap(msgspec.Struct, frozen=True, kw_only=True):
    """What `gameday phase-map -o json` prints."""

    schema: str
    scenario: str
    variant: str | None
    seed: int
    axis: str
    """What the size of a fault is: duration or latency in seconds, errors as a share, replicas as a number."""
    loads: tuple[float, ...]
    sizes: tuple[float, ...]
    operating_load: float
    operating_size: float
    panels: tuple[Panel, ...]
    wait_seconds: float
    plays: int
    hops: int
    complete: bool
    """Whether every point was played, and those at the boundary as often as wanted."""
    notes: tuple[str, ...] = ()
    ramps: tuple[Ramp, ...] = ()
    """Up and down without a fault, one for each policy, where asked for."""

    @property
    def has_today(self) -> bool:
        """Whether today's load and size lie among those tested."""
        return (
            self.loads[0] <= self.operating_load <= self.loads[-1]
            and self.sizes[0] <= self.operating_size <= self.sizes[-1]
        )


@dataclass(frozen=True, slots=True)
class Ground:
    """What is common to all points."""

    calibration: Calibration
    seed: int
    axis: str
    loads: tuple[float, ...]
    sizes: tuple[float, ...]
    pods: tuple[PodState, ...] = ()
    start: float = 0.0
    plays_at_boundary: int = PLAYS_AT_BOUNDARY
    today: tuple[int, int] | None = None
    """Indices of load and size that are as often played as those at the boundary."""


@dataclass(slots=True)
class _Cell:
    fates: list[Fate] = field(default_factory=list)
    wanted: int = 0

    @property
    def is_stuck(self) -> bool:
        return 2 * sum(fate.stuck for fate in self.fates) >= len(self.fates)

    @property
    def is_mixed(self) -> bool:
        return len({fate.stuck for fate in self.fates}) > 1


def make_phase_map(
    scenario: str,
    variant: str | None,
    policies: Sequence[tuple[str, Setup]],
    operating: tuple[float, float],
    ground: Ground,
    sweep: Sweep,
    clock: Clock,
    progress: Callable[[str], None] = lambda _: None,
) -> PhaseMap:
    """Plays the map. `policies`: name and setup of each panel; `operating`: today's (load, size)."""
    survey = _Survey([setup for _, setup in policies], ground, sweep, clock, progress)
    in_time = survey.explore()
    unsettled = len(survey.unsettled())
    hops = sum(fate.hops for cell in survey.cells.values() for fate in cell.fates) + survey.healthy_hops
    panels = []
    for number, (policy, setup) in enumerate(policies):
        line = boundary(setup, ground.calibration.best())
        panels.append(_panel(policy, line, number, survey, ground))
    return PhaseMap(
        schema=SCHEMA,
        scenario=scenario,
        variant=variant,
        seed=ground.seed,
        axis=ground.axis,
        loads=ground.loads,
        sizes=ground.sizes,
        operating_load=operating[0],
        operating_size=operating[1],
        panels=tuple(panels),
        wait_seconds=max(wait_of(setup) for _, setup in policies),
        plays=sweep.played,
        hops=hops,
        complete=in_time and not unsettled,
        notes=_notes(in_time, unsettled, ground.plays_at_boundary),
    )


def _notes(in_time: bool, unsettled: int, times: int) -> tuple[str, ...]:
    if not in_time:
        return ("The time was over before every point had its plays; more seconds settle the rest.",)
    if unsettled:
        points = "1 point has" if unsettled == 1 else f"{unsettled} points have"
        return (f"At the boundary {points} fewer than {times} plays: each round of plays moved it further.",)
    return ()


class _Survey:
    """Which points are played when, and what they said."""

    def __init__(
        self, setups: list[Setup], ground: Ground, sweep: Sweep, clock: Clock, progress: Callable[[str], None]
    ) -> None:
        self._setups = [[with_size(setup, ground.axis, size) for size in ground.sizes] for setup in setups]
        self._waits = [wait_of(setup) for setup in setups]
        self._ground = ground
        self._sweep = sweep
        self._clock = clock
        self._progress = progress
        self.health: dict[tuple[int, int], Health] = {}
        self.healthy_hops = 0
        self.cells: dict[Where, _Cell] = {}

    def explore(self) -> bool:
        """Plays in the order of what it tells; False where the time was over before."""
        self._progress("every load without a fault")
        if not self._learn_health():
            return False
        if not self._play_all("a coarse lattice", (w for w in self._open() if self._on_lattice(w))):
            return False
        if not self._play_all("today's point", (w for w in self._open() if w[1:] == self._ground.today), self._times):
            return False
        while found := [w for w in self._open() if w not in self.cells and self._is_between(w)]:
            if not self._play_all("the boundary", found):
                return False
        if not self._settle_boundary():
            return False
        if not self._play_all("all other points", (w for w in self._open() if w not in self.cells)):
            return False
        return self._settle_boundary()

    def unsettled(self) -> list[Where]:
        """Points near the boundary with fewer plays than those are to have."""
        return [w for w in self.cells if self.is_near_boundary(w) and self._count(w) < self._times]

    def _settle_boundary(self) -> bool:
        for _ in range(BOUNDARY_ROUNDS):
            found = self.unsettled()
            if found and not self._play_all("P(stuck) at the boundary", found, self._times):
                return False
        return True

    @property
    def _times(self) -> int:
        return self._ground.plays_at_boundary

    def _open(self) -> Iterator[Where]:
        """All points at loads that are served without a fault."""
        for panel in range(len(self._setups)):
            for load in range(len(self._ground.loads)):
                health = self.health.get((panel, load))
                if health is not None and not health.overloaded:
                    for size in range(len(self._ground.sizes)):
                        yield panel, load, size

    def _learn_health(self) -> bool:
        wheres = [(p, load) for p in range(len(self._setups)) for load in range(len(self._ground.loads))]
        jobs = [self._job((panel, load, 0), 0, None) for panel, load in wheres]
        fates = self._sweep.play(play, jobs, self._clock)
        for where, fate in zip(wheres, fates, strict=False):
            assert fate.health is not None
            self.health[where] = fate.health
            self.healthy_hops += fate.hops
        return len(fates) == len(jobs)

    def _play_all(self, what: str, wheres: Iterable[Where], times: int = 1) -> bool:
        wanted = [(w, n) for w in wheres for n in range(self._count(w), times)]
        self._progress(f"{what}: {len(wanted)} plays")
        jobs = [self._job(w, n, self.health[w[0], w[1]]) for w, n in wanted]
        fates = self._sweep.play(play, jobs, self._clock)
        for (where, _), fate in zip(wanted, fates, strict=False):
            self.cells.setdefault(where, _Cell()).fates.append(fate)
        return len(fates) == len(jobs)

    def _job(self, where: Where, replication: int, health: Health | None) -> Play:
        panel, load, size = where
        ground = self._ground
        return Play(
            setup=self._setups[panel][size],
            calibration=ground.calibration if replication else None,
            load=ground.loads[load],
            size=0.0 if health is None else ground.sizes[size],
            seed=ground.seed,
            replication=replication,
            wait=self._waits[panel],
            health=health,
            parameters=None if replication else ground.calibration.best(),
            pods=ground.pods,
            start=ground.start,
        )

    def _count(self, where: Where) -> int:
        cell = self.cells.get(where)
        return len(cell.fates) if cell is not None else 0

    # ---- where the boundary is

    def _on_lattice(self, where: Where) -> bool:
        loads, sizes = len(self._ground.loads), len(self._ground.sizes)
        _, load, size = where
        return (load % STRIDE == 0 or load == loads - 1) and (size % STRIDE == 0 or size == sizes - 1)

    def outcome(self, where: Where) -> bool | None:
        """Stuck or not, by its plays; overload counts as stuck; None where nothing was played."""
        health = self.health.get((where[0], where[1]))
        if health is not None and health.overloaded:
            return True
        cell = self.cells.get(where)
        return cell.is_stuck if cell is not None else None

    def _around(self, where: Where, reach: int) -> Iterator[Where]:
        panel, load, size = where
        for x in range(max(0, load - reach), min(len(self._ground.loads), load + reach + 1)):
            for y in range(max(0, size - reach), min(len(self._ground.sizes), size + reach + 1)):
                if (x, y) != (load, size):
                    yield panel, x, y

    def _is_between(self, where: Where) -> bool:
        """Lattice points on its sides, or played neighbours, end differently."""
        for reach in (1, STRIDE - 1):
            played = {self.outcome(w) for w in self._around(where, reach)} - {None}
            if len(played) > 1:
                return True
        return False

    def is_near_boundary(self, where: Where) -> bool:
        """It is mixed, or a neighbour is, or ends differently."""
        if self.cells[where].is_mixed:
            return True
        mine = self.outcome(where)
        for other in self._around(where, 1):
            cell = self.cells.get(other)
            if (cell is not None and cell.is_mixed) or self.outcome(other) not in (None, mine):
                return True
        return False

    def surroundings(self, where: Where) -> bool | None:
        """Whether the nearest played point of the panel is stuck; None where none was played."""
        panel, load, size = where
        nearest = min(
            (w for w in self.cells if w[0] == panel),
            key=lambda w: ((w[1] - load) ** 2 + (w[2] - size) ** 2, w),
            default=None,
        )
        return self.cells[nearest].is_stuck if nearest is not None else None


def _panel(policy: str, line: Line, number: int, survey: _Survey, ground: Ground) -> Panel:
    points: list[Point] = []
    for x, load in enumerate(ground.loads):
        column = [_point(survey, (number, x, y), load, size) for y, size in enumerate(ground.sizes)]
        worse = False
        named: list[Point] = []
        for point in reversed(column):
            if point.state == "stable" and worse:
                point = msgspec.structs.replace(point, state="vulnerable")
            worse = worse or point.state == "metastable"
            named.append(point)
        points.extend(reversed(named))
    return Panel(policy=policy, points=tuple(points), boundary_load=line.load, boundary_note=line.why)


def _point(survey: _Survey, where: Where, load: float, size: float) -> Point:
    """A point by itself: vulnerable by larger faults is for its column to say."""
    health = survey.health.get((where[0], where[1]))
    if health is not None and health.overloaded:
        return Point(load=load, size=size, state="overloaded", plays=0, stuck=0, low=0.0, high=1.0)
    cell = survey.cells.get(where)
    if cell is None:
        around = survey.surroundings(where)
        state: State = "unknown" if around is None else "metastable" if around else "stable"
        return Point(load=load, size=size, state=state, plays=0, stuck=0, low=0.0, high=1.0)
    stuck, plays = sum(fate.stuck for fate in cell.fates), len(cell.fates)
    low, high = wilson(stuck, plays)
    back = [fate.recovery_seconds for fate in cell.fates if fate.recovery_seconds is not None]
    return Point(
        load=load,
        size=size,
        state="metastable" if cell.is_stuck else "vulnerable" if stuck else "stable",
        plays=plays,
        stuck=stuck,
        low=round(low, 4),
        high=round(high, 4),
        recovery_seconds=median(back) if back else None,
        near_boundary=survey.is_near_boundary(where),
    )


def wilson(hits: int, trials: int, z: float = Z) -> tuple[float, float]:
    """Wilson's interval of a binomial share; 90 % by default."""
    if trials == 0:
        return 0.0, 1.0
    share = hits / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1.0 - share) / trials + z * z / (4 * trials * trials))
    scale = 1.0 + z * z / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
