"""What a window could not tell is named, and is as wide as before it."""

from __future__ import annotations

import pytest
from sim_builders import application, scenario_of, service, setup_of

from scenarios.model import LoadSpec, Scenario, ServiceTime
from sim.calibration.calibrate import calibrate
from sim.calibration.cold import cold_observation
from sim.calibration.identifiability import Finding, findings, summary_of
from sim.observation import Observation


def shop(rate: float) -> Scenario:
    front = service("front", calls=("back",), time=ServiceTime(0.002, 0.3), workers=50)
    back = service("back", time=ServiceTime(0.004, 0.4), workers=50, replicas=2)
    return scenario_of(setup_of(application(front, back), load=LoadSpec(rate, {"all": 1.0}, 1000, 10.0)))


def told(rate: float) -> dict[str, Finding]:
    scenario = shop(rate)
    return {row.parameter: row for row in findings(calibrate(cold_observation(scenario, 1), scenario))}


def empty() -> dict[str, Finding]:
    return {row.parameter: row for row in findings(calibrate(Observation(0.0, 20.0, (), {}, {}, ()), shop(50.0)))}


def test_a_busy_baseline_tells_times_and_overhead() -> None:
    rows = told(50.0)
    for parameter in ("self time back GET /", "overhead of a hop", "arrival rate", "failures without a cause"):
        assert rows[parameter].told
        assert rows[parameter].narrowed > 0.6
    assert not rows["retries"].told


def test_an_empty_baseline_tells_nothing_and_says_so() -> None:
    rows = empty()
    for parameter in ("self time back GET /", "overhead of a hop", "failures without a cause", "noise floor of p50"):
        assert not rows[parameter].told
        assert rows[parameter].narrowed == 0.0 or parameter == "noise floor of p50"
    assert rows["overhead of a hop"].high > 4 * rows["overhead of a hop"].low


def test_what_no_healthy_window_shows_is_named_with_its_width() -> None:
    """However busy the window was: how long a pod takes to restart is the kind of world's, and wide."""
    for rows in (told(50.0), empty()):
        for parameter in ("time to restart a pod", "CPU to start a proxy", "time to ask for a destination"):
            assert not rows[parameter].told
            assert rows[parameter].narrowed == 0.0
            assert rows[parameter].high > 1.2 * rows[parameter].low > 0.0


def test_more_load_narrows_more() -> None:
    few, many = told(2.0), told(60.0)
    for parameter in ("self time back GET /", "overhead of a hop"):
        assert many[parameter].narrowed > few[parameter].narrowed


def test_a_forecasts_summary_names_what_was_not_told() -> None:
    scenario = shop(50.0)
    summary = summary_of(calibrate(Observation(0.0, 20.0, (), {}, {}, ()), scenario))
    assert "overhead of a hop" in str(summary["not told by this window"])
    assert " to " in str(summary["90 % of self time back GET /"])


@pytest.mark.parametrize("rate", [2.0, 60.0])
def test_every_interval_holds_its_estimate(rate: float) -> None:
    for row in told(rate).values():
        if row.estimate == row.estimate:  # not NaN
            assert row.low <= row.estimate <= row.high
