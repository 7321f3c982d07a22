"""Arrivals that are known beforehand are sent at their moments, whatever the parameters say of the rate."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim_builders import application, exponential, parameters_of, played, service, setup_of

from scenarios.model import Journey, JourneyStep, LoadSpec
from sim.model.arrivals import Schedule
from sim.model.distributions import LogNormal
from sim.model.system import HISTORY_SECONDS

APP = replace(
    application(service("only")),
    journeys=(
        Journey("one", 0.5, (JourneyStep("only", "GET", "/"),)),
        Journey("two", 0.5, (JourneyStep("only", "GET", "/"), JourneyStep("only", "GET", "/"))),
    ),
)
SETUP = setup_of(APP, load=LoadSpec(50.0, {"one": 1.0, "two": 0.0}, 10**6, 5.0), inject_seconds=10.0)


def test_each_comes_at_its_moment_and_is_its_journey() -> None:
    schedule = Schedule((-900.0, 1.0, 1.25, 7.5, 900.0), ("one", "one", "two", "one", "one"))
    record = played(SETUP, parameters_of(50.0), schedule=schedule)
    at = sorted(record.intended_at)
    assert at[0] == 1.0
    assert at[1] == 1.25
    assert 1.25 < at[2] < 1.3  # the second step of the journey that has two
    assert at[3:] == [7.5]


def test_replications_have_them_all_in_common_and_the_rest_is_chance() -> None:
    schedule = Schedule(tuple(0.1 * number for number in range(1, 80)), ("one",) * 79)
    some = parameters_of(50.0, times={("only", "GET /"): exponential(0.01)})
    first, second = (played(SETUP, some, seed=seed, schedule=schedule) for seed in (1, 2))
    assert sorted(first.intended_at) == sorted(second.intended_at) == pytest.approx(schedule.at)
    assert sorted(first.latency, key=float) != sorted(second.latency, key=float)  # type: ignore[arg-type]


def test_what_came_since_the_observation_is_played_and_leaves_its_traces() -> None:
    """A destination that was asked nine and five seconds ago is still known when the fault comes, four after."""
    schedule = Schedule((-30.0, -9.0, -5.0, -1.0), ("one",) * 4)
    slow = replace(parameters_of(50.0), discovery=LogNormal(0.5, 0.0))
    record = played(SETUP, slow, start=-25.0, schedule=schedule)
    assert record.intended_at == pytest.approx([-9.0, -5.0, -1.0])
    assert [latency > 0.5 for latency in record.latency if latency is not None] == [True, False, False]


@pytest.mark.parametrize(("start", "first"), [(-3.0, -3.0), (-12.0, -12.0), (-400.0, -HISTORY_SECONDS)])
def test_load_begins_where_the_observation_ended_if_that_was_lately(start: float, first: float) -> None:
    record = played(SETUP, parameters_of(50.0), start=start)
    assert first <= min(record.intended_at) < first + 0.5
