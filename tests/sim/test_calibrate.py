"""Calibration finds what made a synthetic baseline."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

import numpy as np
import pytest
from sim_builders import application, scenario_of, service, setup_of

from scenarios.model import LoadSpec, Scenario, ServiceTime, SloSpec
from sim import cold
from sim.calibrate import calibrate, failures
from sim.cold import cold_observation
from sim.distributions import LogNormal, Tabled, WithStalls
from sim.fit import fit_route
from sim.model.draws import Streams
from sim.observation import ClientSample, Observation, RouteTimes

DECLARED = ServiceTime(0.004, 0.4)


def times_of(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> RouteTimes:
    buckets = [0] * (len(cold.BOUNDS) + 1)
    for value in values.tolist():
        buckets[bisect_left(cold.BOUNDS, value)] += 1
    return RouteTimes(len(values), float(values.mean()), cold.BOUNDS, tuple(buckets))


def shop(rate: float = 50.0) -> Scenario:
    front = service("front", calls=("back",), time=ServiceTime(0.002, 0.3), workers=50)
    back = service("back", time=DECLARED, workers=50, replicas=2)
    slos = (SloSpec("all", "front", "GET", "/", 0.99, threshold=0.25),)
    setup = setup_of(application(front, back), load=LoadSpec(rate, {"all": 1.0}, 1000, 10.0), slos=slos)
    return scenario_of(setup)


@pytest.mark.parametrize(
    "truth",
    [
        WithStalls(LogNormal(0.002, 0.4), 0.0, 0.0),
        WithStalls(LogNormal(0.004, 0.3), 0.004, 0.03),
        WithStalls(LogNormal(0.001, 0.7), 0.0, 0.0),
    ],
)
def test_overhead_of_a_hop_is_recovered(truth: WithStalls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "TYPICAL_OVERHEAD", truth)
    scenario = shop()
    found = calibrate(cold_observation(scenario, 3), scenario).overhead
    assert found.body.median == pytest.approx(truth.body.median, rel=0.15)
    assert found.body.sigma == pytest.approx(truth.body.sigma, rel=0.3)
    if truth.share:
        assert found.share * found.stall_mean == pytest.approx(truth.share * truth.stall_mean, rel=0.8)
    else:
        assert found.share * found.stall_mean < 0.0002


def test_rate_and_self_times_are_recovered() -> None:
    scenario = shop()
    scenario = replace(scenario, app=scenario.app)
    calibration = calibrate(cold_observation(scenario, 1), scenario)
    assert calibration.best().rate == pytest.approx(50.0, rel=0.1)
    back = calibration.routes["back", "GET /"].distribution
    assert isinstance(back, LogNormal)
    assert back.median == pytest.approx(0.004, rel=0.05)
    assert back.sigma == pytest.approx(0.4, rel=0.1)


def test_draws_differ_and_surround_the_centre() -> None:
    scenario = shop()
    calibration = calibrate(cold_observation(scenario, 1), scenario)
    drawn = [calibration.draw(Streams(1, replication)) for replication in range(60)]
    rates = [parameters.rate for parameters in drawn]
    assert len(set(rates)) == 60
    assert min(rates) < calibration.best().rate < max(rates)
    assert calibration.draw(Streams(1, 7)) == drawn[7]


def test_a_histogram_of_the_declared_family_gives_its_parameters() -> None:
    values = np.random.default_rng(1).lognormal(np.log(0.02), 0.5, 400)
    found = fit_route(times_of(values), ServiceTime(0.03, 0.3))
    assert isinstance(found, LogNormal)
    assert found.median == pytest.approx(0.02, rel=0.06)
    assert found.sigma == pytest.approx(0.5, rel=0.1)


def test_a_histogram_of_two_modes_is_taken_as_it_is() -> None:
    generator = np.random.default_rng(2)
    values = np.concatenate(
        [generator.lognormal(np.log(0.002), 0.1, 3_000), generator.lognormal(np.log(0.2), 0.1, 900)]
    )
    found = fit_route(times_of(values), DECLARED)
    assert isinstance(found, Tabled)
    drawn = found.block(np.random.default_rng(3), 20_000)
    assert found.mean == pytest.approx(values.mean(), rel=0.01)
    assert np.quantile(drawn, 0.95) == pytest.approx(np.quantile(values, 0.95), rel=0.1)


def test_a_mean_alone_scales_the_declared_shape() -> None:
    found = fit_route(RouteTimes(50, 0.010), DECLARED)
    assert isinstance(found, LogNormal)
    assert found.mean == pytest.approx(0.010)
    assert found.sigma == DECLARED.sigma


def test_an_empty_baseline_widens_instead_of_guessing() -> None:
    scenario = shop()
    empty = Observation(0.0, 20.0, (), {}, {}, ())
    calibration = calibrate(empty, scenario)
    seen = calibrate(cold_observation(scenario, 1), scenario)
    assert calibration.drift > 2 * seen.drift
    assert calibration.residual["p50"] > 2 * seen.residual["p50"]
    assert any("declared" in note for note in calibration.notes)


def test_one_request_is_not_enough_to_fit_an_overhead() -> None:
    scenario = shop()
    one = Observation(0.0, 20.0, (ClientSample("GET front /", 1.0, 0.01, True),), {}, {}, ())
    assert any("overhead" in note for note in calibrate(one, scenario).notes)


def test_slow_is_not_failed() -> None:
    slos = (SloSpec("fast", "front", "GET", "/", 0.99, threshold=0.1),)
    samples = (
        ClientSample("GET front /", 0.0, 0.05, True),
        ClientSample("GET front /", 0.0, 0.05, False),
        ClientSample("GET front /", 0.0, 0.5, False),
        ClientSample("GET front /", 0.0, None, False),
    )
    assert failures(samples, slos) == [False, True, False, True]
