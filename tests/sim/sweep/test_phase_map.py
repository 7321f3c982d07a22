"""Known answers: from which load a stalled station stays stuck, by policy (reference values: 20 FCFS servers, a try
timeout of 1 s, a full stall of 5 s and more; the lowest stuck load over capacity on a grid of 0.05).

    no retries 0.95 and more · 1 retry 0.50 · 2 retries 0.35 · 3 retries 0.25 · short queue never · budget of 20 % 0.83

The last one is of a budget that grows with every request. Linkerd's grows with requests that end without a wish for a
retry, so in the stuck state it is empty, and the region is that of no retries; that is what the twin must show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sim_builders import application, exponential, fault, parameters_of, rules_of, service, setup_of

from mesh.api.messages import (
    HttpRouteSpec,
    OutboundPolicy,
    Profile,
    ProfileRoute,
    RetryBudgetSpec,
    RetrySpec,
    TimeoutSpec,
)
from scenarios.model import AppService, LoadSpec
from sim.calibration.calibrate import Calibration
from sim.model.draws import Streams
from sim.model.parameters import Parameters
from sim.model.setup import Rules, Setup
from sim.sweep.hysteresis import Ramp, RampJob, play_ramp
from sim.sweep.phase_map import Ground, PhaseMap, make_phase_map, wilson
from sim.sweep.places import Clock, Sweep
from sim.sweep.policy_axis import InvalidPolicy, with_words
from sim.sweep.saturation import boundary, full_load, visits
from sim.sweep.trigger import Fate, Health, NoSuchAxis, Play, play, size_of, with_size

WORKERS, MEAN, TIMEOUT = 4, 0.1, 1.0
CAPACITY = WORKERS / MEAN
STALL = 10.0
TIMED = TimeoutSpec(response_seconds=TIMEOUT)
PARAMETERS = parameters_of(1.0, times={("back", "GET /"): exponential(MEAN)})


def station(queue: int = 10**6) -> Setup:
    """A gate before one station, whose tries time out; the fault freezes the station."""
    front = service("front", calls=("back",), workers=10**6)
    back = service("back", workers=WORKERS, queue=queue)
    retry = RetrySpec(statuses=((500, 599),), limit=1)
    return _shop(
        (front, back), {"back": HttpRouteSpec(name="http", retry=retry, timeouts=TimeoutSpec(response_seconds=TIMEOUT))}
    )


def _shop(
    services: tuple[AppService, ...], routes: dict[str, HttpRouteSpec], profiles: dict[str, Profile] | None = None
) -> Setup:
    rules = {}
    for s in services:
        rules[s.authority] = Rules(
            (profiles or {}).get(s.name) or rules_of(s).profile,
            OutboundPolicy(
                version=1,
                published_at=0.0,
                authority=s.authority,
                exists=True,
                routes=(routes.get(s.name, HttpRouteSpec(name="http")),),
            ),
        )
    return setup_of(
        application(*services),
        load=LoadSpec(CAPACITY, {"all": 1.0}, 10**6, 20.0),
        rules=rules,
        faults=(fault("app-degrade", duration=STALL, service="back", replicas=1, parameters={"freeze": 1.0}),),
        inject_seconds=STALL,
    )


def budgeted(ratio: float, reserve: int = 0, gates: int = 1) -> Setup:
    """Gate → middle → station: the middle answers 502 when the station times out, and the gate's budget retries."""
    front = service("front", calls=("middle",), workers=10**6, replicas=gates)
    middle = service("middle", calls=("back",), workers=10**6)
    back = service("back", workers=WORKERS, queue=10**6)
    profile = Profile(
        version=1,
        published_at=0.0,
        authority=middle.authority,
        exists=True,
        routes=(ProfileRoute(name="all", is_retryable=True),),
        retry_budget=RetryBudgetSpec(retry_ratio=ratio, min_retries_per_second=reserve),
    )
    return _shop(
        (front, middle, back),
        {"back": HttpRouteSpec(name="http", timeouts=TimeoutSpec(response_seconds=TIMEOUT))},
        {"middle": profile},
    )


def fate(
    setup: Setup, load: float, seed: int = 1, size: float = STALL, *, to_the_end: bool = False, wait: float = 60.0
) -> Fate:
    sized = with_size(setup, "duration", size)
    job = Play(sized, None, load, size, seed, 0, wait, None, PARAMETERS, to_the_end=to_the_end)
    health = play(job).health
    assert health is not None
    assert not health.overloaded
    return play(replace(job, health=health))


def lowest_stuck(setup: Setup, grid: list[float]) -> float:
    """The lowest load over capacity from which on the stall sticks, of an ascending grid; 1 where it never does."""
    for share in grid:
        if fate(setup, share * CAPACITY).stuck:
            return share
    return 1.0


@pytest.mark.parametrize(("limit", "expected"), [(1, 0.50), (2, 0.35), (3, 0.25)])
def test_a_stall_sticks_from_the_measured_load_on(limit: int, expected: float) -> None:
    grid = [round(expected + 0.05 * step, 2) for step in (-2, -1, 0, 1)]
    found = lowest_stuck(with_words(station(), f"limit={limit}"), grid)
    assert expected - 0.051 <= found <= expected + 0.051
    assert fate(with_words(station(), f"limit={limit}"), 0.8 * CAPACITY).stuck


@pytest.mark.parametrize("setup", [with_words(station(), "limit=0"), budgeted(0.2)], ids=["no retries", "budget"])
def test_without_retries_or_with_linkerds_budget_it_drains(setup: Setup) -> None:
    assert lowest_stuck(setup, [0.3, 0.6, 0.75]) == 1.0


def drains_below(reserve: float, wait: float, size: float) -> float:
    """Load over capacity. Retries add the reserve m to the load λ, and what is left of C drains the (λ + m)F that a
    stall of F left. All is well once C·T are left, so stuck at the end of a wait W is λ + m > C (W + T)/(W + F)."""
    return (wait + TIMEOUT) / (wait + size) - reserve / CAPACITY


@pytest.mark.parametrize(("reserve", "gates"), [(10, 1), (20, 1), (10, 2)])
def test_a_budgets_reserve_sticks_from_capacity_less_the_reserve_on(reserve: int, gates: int) -> None:
    """In the stuck state every try wants a retry, so nothing deposits, and m retries a second of each proxy are all
    that is left: λ + N·m > C, whatever the ratio. A long wait, since just below it the backlog shrinks slowly; played
    to the end, since an early stop calls some of those stuck that are draining."""
    edge = drains_below(gates * reserve, 3 * 200.0, STALL)
    assert 1.0 - gates * reserve / CAPACITY - edge < 0.02
    for ratio, seed in [(0.1, 3), (0.5, 2)]:
        setup = budgeted(ratio, reserve, gates)
        assert not fate(setup, (edge - 0.05) * CAPACITY, seed, to_the_end=True, wait=200.0).stuck
        assert fate(setup, (edge + 0.03) * CAPACITY, seed, to_the_end=True, wait=200.0).stuck


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_a_reserve_the_boundary_is_how_long_one_waits(seed: int) -> None:
    """Of a stall of 20 s. After one of 10 s the edge is at 0.95, where chance moves a seed's by more than 0.05."""
    size = 2 * STALL
    edge = drains_below(0.0, 3 * 60.0, size)
    for ratio in (0.2, 0.5):
        assert not fate(budgeted(ratio), (edge - 0.05) * CAPACITY, seed, size=size, to_the_end=True).stuck
        assert fate(budgeted(ratio), (edge + 0.02) * CAPACITY, seed, size=size, to_the_end=True).stuck


def test_a_queue_shorter_than_the_timeout_never_sticks() -> None:
    short = with_words(station(int(CAPACITY * TIMEOUT / 2)), "limit=3")
    assert lowest_stuck(short, [0.3, 0.5, 0.7, 0.9]) == 1.0
    assert boundary(short, PARAMETERS).load is None


def test_stopping_early_gives_the_fate_of_the_full_play() -> None:
    for limit, share in [(0, 0.7), (1, 0.3), (1, 0.65), (2, 0.2), (2, 0.5), (3, 0.15), (3, 0.6)]:
        setup = with_words(station(), f"limit={limit}")
        early, full = (fate(setup, share * CAPACITY, 3, to_the_end=end, wait=40.0) for end in (False, True))
        assert (early.stuck, early.recovery_seconds) == (full.stuck, full.recovery_seconds)
        assert early.played_seconds < full.played_seconds


@pytest.mark.parametrize("setup", [with_words(station(), "limit=0"), budgeted(0.2)], ids=["no retries", "budget"])
def test_a_backlog_that_drains_slowly_is_not_called_stuck_early(setup: Setup) -> None:
    """At 0.90 to 0.92 of capacity it takes a minute or two, and grows for some seconds again and again by chance."""
    for share, seed in [(0.9, 1), (0.9, 2), (0.92, 3), (0.92, 4)]:
        early, full = (fate(setup, share * CAPACITY, seed, to_the_end=end) for end in (False, True))
        assert early.stuck is full.stuck, (share, seed)


def test_a_small_trigger_is_shrugged_off_where_a_large_one_sticks() -> None:
    load = 0.6 * CAPACITY
    assert not fate(station(), load, size=0.5).stuck
    assert fate(station(), load, size=10.0).stuck


def test_boundary_on_paper() -> None:
    for limit in range(4):
        setup = with_words(station(), f"limit={limit}")
        assert boundary(setup, PARAMETERS).load == pytest.approx(CAPACITY / (1 + limit))
    assert boundary(with_words(station(), "limit=2,cancels"), PARAMETERS).load is None
    assert full_load(station(), PARAMETERS) == pytest.approx(CAPACITY)
    assert visits(station().app, station().load, "back") == 1.0


# ---- whole maps


class Fixed(Calibration):
    """A calibration that leaves nothing open."""

    def draw(self, streams: Streams) -> Parameters:
        return PARAMETERS

    def best(self) -> Parameters:
        return PARAMETERS

    def __reduce__(self) -> tuple[object, ...]:
        return object.__new__, (Fixed,)


def small_map(seed: int, seconds: float | None = None, sweep: Sweep | None = None) -> PhaseMap:
    calibration = object.__new__(Fixed)
    loads = tuple(share * CAPACITY for share in (0.2, 0.4, 0.6, 0.8, 1.2))
    ground = Ground(calibration, seed, "duration", loads, (0.5, 4.0, 8.0), plays_at_boundary=2)
    return make_phase_map(
        "test", None, [("limit=1", station())], (0.4 * CAPACITY, 4.0), ground, sweep or Sweep(1), Clock(seconds)
    )


def test_a_map_has_all_four_states_in_their_places_and_is_the_same_again() -> None:
    made = small_map(1)
    assert made.complete
    states = {(round(p.load / CAPACITY, 1), p.size): p.state for p in made.panels[0].points}
    assert [states[0.2, size] for size in made.sizes] == ["stable"] * 3
    assert [states[0.6, size] for size in made.sizes] == ["vulnerable", "metastable", "metastable"]
    assert [states[1.2, size] for size in made.sizes] == ["overloaded"] * 3
    edge = [p for p in made.panels[0].points if p.near_boundary]
    assert edge
    assert all(p.plays == 2 for p in edge)
    assert all(p.low <= p.stuck / p.plays <= p.high for p in made.panels[0].points if p.plays)
    assert made == small_map(1)


def test_a_map_without_time_says_so() -> None:
    made = small_map(1, seconds=0.0)
    assert not made.complete
    assert all(p.plays == 0 and p.state == "unknown" for p in made.panels[0].points)
    assert made.notes


class Told(Sweep):
    """Plays nothing: `stuck` says it of (load, size, replication), by index. `most`: plays that there is time for."""

    def __init__(self, loads: int, sizes: int, stuck: Callable[[int, int, int], bool], most: int = 10**6) -> None:
        super().__init__(1)
        self.loads = tuple(10.0 * (x + 1) for x in range(loads))
        self.sizes = tuple(float(y + 1) for y in range(sizes))
        self._stuck = stuck
        self._most = most

    def play(self, play: Callable[[Any], Any], jobs: Sequence[Any], clock: Clock) -> list[Any]:
        jobs = jobs[: self._most - self.played]
        self.played += len(jobs)
        return [self._fate(job) for job in jobs]

    def _fate(self, job: Play) -> Fate:
        if job.health is None:
            return Fate(False, None, 1.0, 0, 0.0, 0, Health({}, 0, False))
        stuck = self._stuck(self.loads.index(job.load), self.sizes.index(job.size), job.replication)
        return Fate(stuck, None if stuck else 0.0, 1.0, 0, 0.0, 0)

    def map(self) -> PhaseMap:
        ground = Ground(object.__new__(Fixed), 1, "duration", self.loads, self.sizes)
        return make_phase_map("test", None, [("limit=1", station())], (10.0, 1.0), ground, self, Clock(None))


def island(x: int, y: int, _: int) -> bool:
    """One stuck point between those of the coarse lattice, all of which come back."""
    return (x, y) == (1, 1)


def test_an_island_that_the_last_points_show_is_played_as_often_as_any_boundary() -> None:
    made = Told(7, 7, island).map()
    edge = [p for p in made.panels[0].points if p.near_boundary]
    assert len(edge) == 9
    assert {p.plays for p in edge} == {8}
    assert (made.complete, made.notes) == (True, ())


def test_without_time_for_what_the_last_points_show_the_map_is_not_complete() -> None:
    enough_for_one_each = 7 + 7 * 7
    made = Told(7, 7, island, enough_for_one_each + 20).map()
    assert made.plays == enough_for_one_each + 20
    assert not made.complete
    assert "time was over" in made.notes[0]


def test_a_boundary_that_moves_with_each_round_of_plays_is_left_and_the_map_says_so() -> None:
    """All points come back in the first play and stick in others, so that each that is played more makes its
    neighbours boundary."""
    made = Told(40, 2, lambda x, y, replication: (x, y) == (1, 0) or replication > 0).map()
    left = [p for p in made.panels[0].points if p.near_boundary and p.plays < 8]
    assert left
    assert not made.complete
    assert made.notes == (
        f"At the boundary {len(left)} points have fewer than 8 plays: each round of plays moved it further.",
    )


def test_wilson_is_the_textbooks() -> None:
    low, high = wilson(8, 10, 1.959964)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 0) == (0.0, 1.0)


# ---- words and sizes


def test_policies_are_what_the_control_plane_would_send() -> None:
    setup = with_words(station(), "limit=3,timeout=500ms,queue=7,replicas=2@back")
    back = setup.app.service("back")
    route = setup.rules[back.authority].policy.routes[0]
    assert route.retry is not None
    assert (route.retry.limit, route.timeouts.response_seconds, back.queue, back.replicas) == (3, 0.5, 7, 2)
    assert with_words(station(), "cancels@back").app.service("back").cancels
    profile = with_words(station(), "budget=30%").rules[back.authority].profile
    assert profile.exists
    assert profile.retry_budget is not None
    assert profile.retry_budget.retry_ratio == pytest.approx(0.3)


@pytest.mark.parametrize(
    "words",
    [
        "limit=x",
        "limit=-1",
        "nonsense",
        "cancels=1",
        "timeout=5",
        "budget=much",
        "limit=1@nobody",
        "replicas=0",
        "replicas=101",
        "",
    ],
)
def test_words_that_are_no_policy_are_refused(words: str) -> None:
    with pytest.raises(InvalidPolicy, match="--policy"):
        with_words(station(), words)


def test_a_size_stretches_the_timeline_and_scales_what_faults_have() -> None:
    setup = station()
    assert size_of(setup, "duration") == STALL
    longer = with_size(setup, "duration", 25.0)
    assert (longer.faults[0].duration, longer.inject_seconds) == (25.0, 25.0)
    with pytest.raises(NoSuchAxis, match="latency"):
        size_of(setup, "latency")


def ramped(limit: int) -> Ramp:
    loads = tuple(share * CAPACITY for share in (0.2, 0.35, 0.5, 0.65, 0.8, 1.1))
    setup = with_words(station(), f"limit={limit}")
    setup = replace(setup, load=replace(setup.load, timeout=10.0))
    return play_ramp(RampJob("test", setup, PARAMETERS, loads, 1))


def test_with_retries_the_way_down_is_not_the_way_up() -> None:
    ramp = ramped(2)
    assert ramp.loop == pytest.approx((0.35 * CAPACITY, 0.8 * CAPACITY))
    assert ramp == ramped(2)


def test_a_short_queue_makes_no_loop() -> None:
    loads = tuple(share * CAPACITY for share in (0.3, 0.6, 0.8, 1.2))
    short = with_words(station(int(CAPACITY * TIMEOUT / 2)), "limit=2")
    assert play_ramp(RampJob("test", short, PARAMETERS, loads, 1)).loop is None
