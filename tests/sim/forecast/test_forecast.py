"""Forecasts and counterfactuals as their readers get them."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from sim_builders import application, fault, scenario_of, service, setup_of

from scenarios.model import LoadSpec, Scenario, ServiceTime, SloSpec
from sim.explain.counterfactual import UNCHANGED, explain
from sim.forecast.naive import naive
from sim.forecast.patience import TOO_FEW
from sim.forecast.predict import cold_observation, interval, make_forecast, student_95
from sim.knobs.changes import knobs
from sim.model.arrivals import Schedule
from sim.model.setup import read_setup
from sim.replication.course import EVENTS
from sim.results import Forecast, Prediction

REPLICATIONS = 60


def shop(*faults: object, **annotations: dict[str, str]) -> Scenario:
    front = service("front", calls=("back",), time=ServiceTime(0.002, 0.3), replicas=2, workers=50)
    back = service("back", time=ServiceTime(0.02, 0.4), replicas=2, workers=4, queue=8)
    setup = setup_of(
        application(front, back),
        load=LoadSpec(30.0, {"all": 1.0}, 1000, 10.0),
        slos=(SloSpec("front-success", "front", "GET", "/", 0.99),),
        faults=faults,
        inject_seconds=10.0,
        recover_seconds=5.0,
    )
    return scenario_of(setup, **annotations)


def forecast_of(scenario: Scenario, seed: int = 1, processes: int | None = 1) -> Forecast:
    seen = cold_observation(scenario, seed)
    return make_forecast(
        scenario, seen, world="sim", seed=seed, planned_injection_at=seen.ended_at + 15.0,
        time_budget_seconds=60.0, processes=processes, most_replications=REPLICATIONS,
    )  # fmt: skip


def find(forecast: Forecast, quantity: str, subject: str, window: str) -> Prediction:
    rows = [p for p in forecast.predictions if (p.quantity, p.subject, p.window) == (quantity, subject, window)]
    assert len(rows) == 1
    return rows[0]


def test_without_a_fault_nothing_changes() -> None:
    forecast = forecast_of(shop())
    for window in ("inject", "recover", "all"):
        success = find(forecast, "success_rate", "front-success", window)
        assert (success.low, success.high, success.naive) == (1.0, 1.0, 1.0)
        attempts = find(forecast, "attempts_per_request", "back", window)
        assert attempts.low < 1.0 < attempts.high
        for quantity in ("p50", "p95"):
            row = find(forecast, quantity, "front-success", window)
            assert row.median == pytest.approx(row.naive, rel=0.25)


def test_a_failing_service_costs_what_it_fails() -> None:
    degrade = fault("app-degrade", duration=10.0, service="back", replicas=2, parameters={"errorRate": 0.4})
    forecast = forecast_of(shop(degrade))
    success = find(forecast, "success_rate", "front-success", "inject")
    assert success.low < 0.6 < success.high
    assert find(forecast, "success_rate", "front-success", "recover").median > 0.97
    spent = find(forecast, "budget_spent", "front-success", "inject")
    assert spent.median == pytest.approx((1 - success.median) / 0.01, rel=0.02)
    assert list(success.ensemble) == sorted(success.ensemble)
    assert len(success.ensemble) == forecast.replications


def test_policy_is_read_from_annotations() -> None:
    degrade = fault("app-degrade", duration=10.0, service="back", replicas=2, parameters={"errorRate": 0.4})
    retried = shop(degrade, back={"retry.linkerd.io/http": "5xx", "retry.linkerd.io/limit": "2"})
    attempts = find(forecast_of(retried), "attempts_per_request", "back", "inject")
    assert attempts.low < 1.56 < attempts.high


def test_nothing_changes_is_said_of_the_meshs_figures_too() -> None:
    scenario = shop()
    seen = replace(cold_observation(scenario, 1), mesh={"M1": 0.99, "M2": 0.04, "M3": 6.0, "M5": 60.0})
    found = naive(read_setup(scenario), seen)
    per_second = 6.0 / (seen.ended_at - seen.started_at)
    assert found["M1", "", "inject"] == found["M1", "", "recover"] == 0.99
    assert (found["M2", "", "all"], found["M5", "", "all"]) == (0.04, 60.0)
    assert found["M3", "", "inject"] == pytest.approx(10.0 * per_second)
    assert found["M3", "", "all"] == pytest.approx(15.0 * per_second)
    assert ("M4", "", "all") not in found


def test_nothing_changes_knows_as_well_as_the_twin_who_will_come() -> None:
    """Twice as many a second in the inject window as in the baseline, and none afterwards."""
    scenario = shop()
    setup = read_setup(scenario)
    (journey,) = setup.app.journeys
    seen = replace(cold_observation(scenario, 1), mesh={"M1": 0.99, "M5": 60.0})
    journeys = len(seen.requests) / len(journey.steps)
    rate = 2.0 * journeys / (seen.ended_at - seen.started_at)
    at = tuple(index / rate for index in range(int(setup.inject_seconds * rate)))
    found = naive(setup, seen, Schedule(at, (journey.name,) * len(at)))
    assert found["M5", "", "inject"] == pytest.approx(120.0, rel=0.02)
    assert found["M5", "", "recover"] == 0.0
    assert found["M5", "", "all"] == pytest.approx(120.0 * setup.inject_seconds / setup.end, rel=0.02)
    assert found["M1", "", "inject"] == 0.99


def test_fans_cover_both_windows_in_steps() -> None:
    forecast = forecast_of(shop())
    fans = {(fan.quantity, fan.subject): fan for fan in forecast.fans}
    assert set(fans) == {(q, "front-success") for q in ("success_rate", "p95", "burn")}
    for fan in fans.values():
        assert (fan.at[0], fan.at[-1], len(fan.at)) == (0.0, 14.0, 15)
        assert len(fan.low) == len(fan.median) == len(fan.high) == 15
    burn = [value for value in fans["burn", "front-success"].median if value is not None]
    assert burn == sorted(burn)


def test_narrower_intervals_lie_within_the_wider_ones() -> None:
    degrade = fault("app-degrade", duration=10.0, service="back", replicas=2, parameters={"errorRate": 0.4})
    forecast = forecast_of(shop(degrade))
    for row in forecast.predictions:
        if row.quantity in EVENTS:
            assert row.bands == ()
            continue
        assert [band.level for band in row.bands] == [0.8, 0.5]
        wide, middle = row.bands
        assert row.low <= wide.low <= middle.low <= row.median <= middle.high <= wide.high <= row.high
        for band in row.bands:
            # The ensemble is written with seven digits.
            slack = 1e-6 * max(abs(band.low), abs(band.high))
            inside = sum(band.low - slack <= value <= band.high + slack for value in row.ensemble)
            assert inside >= band.level * len(row.ensemble) - 1
    for fan in forecast.fans:
        for ends in zip(
            fan.low, fan.bands[0].low, fan.bands[1].low, fan.bands[1].high, fan.bands[0].high, fan.high, strict=True
        ):
            known = [end for end in ends if end is not None]
            assert len(known) in (0, 6)
            assert known == sorted(known)


def test_a_time_that_may_not_come_is_told_with_how_often_it_does() -> None:
    degrade = fault("app-degrade", duration=10.0, service="back", replicas=2, parameters={"errorRate": 0.4})
    forecast = forecast_of(shop(degrade))
    for row in forecast.predictions:
        assert (row.arrival is not None) == row.quantity.startswith("time_to_")
        if row.arrival is not None:
            came = [value for value in row.ensemble if value < row.arrival.within]
            assert row.arrival.share == len(came) / len(row.ensemble)
            assert max(row.ensemble) <= row.arrival.within
            if row.arrival.low is not None and row.arrival.high is not None:
                assert min(came) <= row.arrival.low <= row.arrival.high <= max(came)
    first = find(forecast, "time_to_page 1h/5m", "front-success", "all").arrival
    assert first is not None
    assert (first.share, first.within) == (1.0, 15.0)


def test_what_the_twin_cannot_represent_is_a_limit() -> None:
    forecast = forecast_of(shop(fault("solar-flare", service="back")))
    assert any("solar-flare" in limit for limit in forecast.limits)


@pytest.mark.parametrize(("requests", "limit"), [(0, "No request was measured"), (1, "Only one request was measured")])
def test_a_baseline_of_next_to_nothing_is_said_and_gives_wide_intervals(requests: int, limit: str) -> None:
    scenario = shop()
    seen = cold_observation(scenario, 1)
    thin = replace(seen, requests=seen.requests[:requests], route_times={}, attempts={}, mesh={})
    forecast, usual = (
        make_forecast(
            scenario, some, world="sim", seed=1, planned_injection_at=seen.ended_at + 15.0, time_budget_seconds=60.0,
            processes=1, most_replications=REPLICATIONS,
        )
        for some in (thin, seen)
    )  # fmt: skip
    assert any(text.startswith(limit) for text in forecast.limits)
    assert not any("was measured" in text for text in usual.limits)
    for quantity in ("p50", "p95", "p99"):
        wide, narrow = (find(some, quantity, "front-success", "inject") for some in (forecast, usual))
        assert wide.high / wide.low > 1.5 * narrow.high / narrow.low, quantity
    success = find(forecast, "success_rate", "front-success", "inject")
    assert success.low < 1.0


def test_a_replication_does_not_depend_on_who_played_it() -> None:
    """Two workers or none: the ensembles that both have agree value by value."""
    here, pooled = forecast_of(shop(), processes=1), forecast_of(shop(), processes=2)
    a = set(find(here, "p95", "front-success", "inject").ensemble)
    b = set(find(pooled, "p95", "front-success", "inject").ensemble)
    assert len(a & b) == min(len(a), len(b))


def test_forecasts_are_plain_json() -> None:
    forecast = forecast_of(shop())
    assert msgspec.json.decode(msgspec.json.encode(forecast), type=Forecast) == forecast


def test_counterfactuals_put_the_cure_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service two thirds of whose capacity is gone is saved by capacity, and not by giving up retries."""
    monkeypatch.setattr("sim.explain.counterfactual.MOST_DAYS", 10)
    monkeypatch.setattr("sim.explain.counterfactual.PRICE_DAYS", 2)
    monkeypatch.setattr("sim.explain.causes.MOST_DAYS", 4)
    monkeypatch.setattr(
        "sim.explain.counterfactual.knobs",
        lambda c: [knob for knob in knobs(c) if knob.name in ("retry limit", "workers")],
    )
    degrade = fault("app-degrade", duration=10.0, service="back", replicas=2, parameters={"latencySeconds": 0.35})
    scenario = shop(degrade, back={"retry.linkerd.io/http": "5xx", "retry.linkerd.io/limit": "2"})
    seen = cold_observation(scenario, 1)
    found = explain(
        scenario, seen, seed=1, planned_injection_at=seen.ended_at + 15.0, time_budget_seconds=60.0, processes=2
    )  # all replications, however busy the machine is
    assert found is not None
    texts = [remedy.change for remedy in found.remedies]
    assert UNCHANGED in texts
    assert found.remedies[0].holds
    assert texts[0].startswith("workers in back 4 →")
    before = found.remedies[texts.index(UNCHANGED)].slos[0]
    assert found.remedies[0].slos[0].probability_held >= 0.9 > before.probability_held
    assert found.remedies[0].slos[0].budget_spent_high < before.budget_spent_low
    assert {cause.kind for cause in found.causes} == {"fault", "mechanism"}


def test_without_faults_there_is_nothing_to_ask() -> None:
    scenario = shop()
    seen = cold_observation(scenario, 1)
    assert explain(scenario, seen, seed=1, planned_injection_at=seen.ended_at, time_budget_seconds=1.0) is None


@pytest.mark.parametrize(("freedom", "table"), [(4, 2.132), (9, 1.833), (20, 1.725), (38, 1.686)])
def test_student_is_that_of_the_tables(freedom: int, table: float) -> None:
    assert student_95(freedom) == pytest.approx(table, rel=0.01)


def test_few_replications_make_wide_intervals_and_very_few_none() -> None:
    assert interval("p50", [1.0, 1.1, 1.2, 1.3, 1.4]) == (pytest.approx(0.83, abs=0.02), pytest.approx(1.57, abs=0.02))
    assert interval("success_rate", [0.99, 0.992, 0.994, 0.996, 0.998])[1] == 1.0
    scenario = shop()
    seen = cold_observation(scenario, 1)
    thin, few = (
        make_forecast(
            scenario, seen, world="sim", seed=1, planned_injection_at=seen.ended_at + 15.0,
            time_budget_seconds=60.0, processes=1, most_replications=most,
        )
        for most in (TOO_FEW - 1, TOO_FEW)
    )  # fmt: skip
    assert (thin.predictions, thin.fans, thin.replications) == ((), (), 0)
    assert any(limit.startswith("NO FORECAST: 4 replications") for limit in thin.limits)
    assert few.predictions
    assert any("intervals are wide" in limit for limit in few.limits)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_said_of_what_hardly_a_replication_has(seed: int) -> None:
    """A request in a minute or so: in ten seconds of most replications there is none, and its latency is in a few."""
    scenario = shop()
    rare = replace(scenario, load=replace(scenario.load, rate=0.01))
    seen = replace(cold_observation(rare, seed), requests=())
    found = make_forecast(
        rare, seen, world="sim", seed=seed, planned_injection_at=seen.ended_at + 15.0,
        time_budget_seconds=60.0, processes=1, most_replications=20,
    )  # fmt: skip
    assert found.replications == 20
    assert all(len(prediction.ensemble) >= TOO_FEW for prediction in found.predictions)
