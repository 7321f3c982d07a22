"""Arrivals that are known beforehand are sent at their moments, whatever the parameters say of the rate."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim_builders import application, exponential, parameters_of, played, service, setup_of

from scenarios.model import Journey, JourneyStep, LoadSpec
from sim.model.arrivals import Schedule

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
