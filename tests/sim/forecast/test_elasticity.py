"""What a slower machine does to a latency is sealed with its forecast, and reads right at other paces."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest
from sim_builders import application, scenario_of, service, setup_of

from scenarios.model import LoadSpec, Scenario, ServiceTime, SloSpec
from sim.calibration.calibrate import calibrate
from sim.calibration.cold import cold_observation
from sim.calibration.cpu import CpuFit
from sim.forecast.elasticity import FEWEST, REPLICATIONS, SLOWER, elasticities
from sim.forecast.predict import Forecaster
from sim.model.distributions import WithStalls
from sim.model.draws import Streams
from sim.model.parameters import CpuCosts
from sim.observation import Observation
from sim.replication.replicate import Outcome
from sim.results import Forecast, Prediction

SUBJECT = "front-success"
KEY = ("p50", SUBJECT, "all")
CPU = CpuFit(
    CpuCosts(cores=2.0, background=0.1, proxy_inbound=4e-4, proxy_outbound=4e-4, app_serve=2e-4, client=4e-4),
    sigma=0.05,
    utilisation=0.1,
    whole=True,
)


def drill(seconds: float) -> tuple[Scenario, Observation]:
    """A service whose own work takes so long, whatever the machine does."""
    scenario = scenario_of(
        setup_of(
            application(service("front", time=ServiceTime(seconds, 0.05), workers=50)),
            load=LoadSpec(40.0, {"all": 1.0}, 1000, 2.0),
            slos=(SloSpec(SUBJECT, "front", "GET", "/", 0.99),),
            inject_seconds=10.0,
            recover_seconds=5.0,
        )
    )
    return scenario, cold_observation(scenario, 1)


def forecast_of(seconds: float, pace: float = 1.0, time_budget: float = 60.0) -> Forecast:
    scenario, seen = drill(seconds)
    calibration = replace(calibrate(seen, scenario), cpu=CPU).at_pace(pace)
    with Forecaster(scenario, seen, world="sim", seed=1, processes=1, calibration=calibration, learned=None) as twin:
        return twin.forecast(seen.ended_at + 15.0, time_budget, most_replications=20)


def p50_of(forecast: Forecast) -> Prediction:
    return next(p for p in forecast.predictions if (p.quantity, p.subject, p.window) == KEY)


def test_what_the_machine_takes_goes_with_its_pace_and_what_an_app_waits_for_does_not() -> None:
    quick, slow = p50_of(forecast_of(0.0001)).elasticity, p50_of(forecast_of(0.3)).elasticity
    assert quick is not None
    assert slow is not None
    assert 0.85 < quick < 1.15
    assert 0.0 < slow < 0.1


@pytest.mark.parametrize("pace", [0.75, 1.3])
def test_a_forecast_read_at_another_pace_is_the_one_made_for_it(pace: float) -> None:
    read = p50_of(forecast_of(0.004)).at_pace(pace)
    assert read == pytest.approx(p50_of(forecast_of(0.004, pace)).median, rel=0.04)
    assert read != pytest.approx(p50_of(forecast_of(0.004)).median, rel=0.08)


def test_on_a_slower_machine_a_hop_takes_longer_and_stalls_are_longer_and_met_more_often() -> None:
    scenario, seen = drill(0.004)
    calibration = replace(calibrate(seen, scenario), cpu=CPU)
    before, after = (c.draw(Streams(1, 3)) for c in (calibration, calibration.at_pace(1.5)))
    assert isinstance(before.overhead, WithStalls)
    assert isinstance(after.overhead, WithStalls)
    assert after.overhead.body.median == pytest.approx(1.5 * before.overhead.body.median)
    assert after.overhead.share == pytest.approx(1.5 * before.overhead.share)
    assert after.overhead.stall_mean == pytest.approx(1.5 * before.overhead.stall_mean)
    assert before.cpu is not None
    assert after.cpu is not None
    assert astuple(after.cpu) == pytest.approx(astuple(before.cpu.scaled(1.5, 1.5)))
    assert after.times == before.times


def test_only_latencies_have_one() -> None:
    forecast = forecast_of(0.004)
    told = {p.quantity for p in forecast.predictions if p.elasticity is not None}
    assert told == {"p50", "p95", "p99"}
    assert all(p.at_pace(1.2) is None for p in forecast.predictions if p.quantity == "success_rate")


def test_where_there_is_no_time_there_is_none_and_a_forecast_still() -> None:
    forecast = forecast_of(0.004, time_budget=0.0)
    assert forecast.replications >= 5
    assert p50_of(forecast).elasticity is None
    assert p50_of(forecast).at_pace(1.2) is None


def test_pairs_that_are_too_few_tell_nothing() -> None:
    own = [Outcome(number, {KEY: 0.010}) for number in range(REPLICATIONS)]
    slower = [Outcome(number, {KEY: 0.010 * SLOWER}) for number in range(REPLICATIONS)]
    assert elasticities(own, slower) == {KEY: pytest.approx(1.0)}
    assert elasticities(own, slower[:FEWEST]) == {KEY: pytest.approx(1.0)}
    assert elasticities(own, slower[: FEWEST - 1]) == {}
    assert elasticities(own, [Outcome(number, {}) for number in range(REPLICATIONS)]) == {}
