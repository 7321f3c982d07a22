"""A forecast is always there: on a slow machine it waits for the replications that it takes, and is not cut off."""

from __future__ import annotations

import threading
import time

import pytest

from sim.forecast import patience
from sim.forecast.patience import (
    FEW_REPLICATIONS,
    FEWEST_REPLICATIONS,
    LONGEST_SECONDS,
    MARGIN,
    PATIENT_SECONDS,
    TOO_FEW,
    Clock,
    Patience,
    too_few,
)
from sim.forecast.predict import Forecaster, cold_observation, make_forecast
from sim.replication.replicate import Outcome, Players
from tests.sim.forecast.test_forecast import shop


class Watch:
    """Stands for `time` in the clock, and goes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    found = Watch()
    monkeypatch.setattr(patience, "time", found)
    return found


def played(watch: Watch, clock: Clock, first: float, later: float) -> int:
    """Replications one after the other, of these seconds, until the clock has enough."""
    count, spent = 0, 0.0
    while not clock.enough(count, spent / count if count else 0.0):
        seconds = first if count == 0 else later
        watch.now += seconds
        spent += seconds
        count += 1
    return count


def test_a_first_replication_that_takes_all_the_time_is_not_the_only_one(watch: Watch) -> None:
    assert played(watch, Clock(watch.now, 4.0), first=4.0, later=0.2) >= TOO_FEW


@pytest.mark.parametrize("each", [0.1, 1.0, 10.0, 23.0])
def test_there_is_a_forecast_however_long_a_replication_takes(watch: Watch, each: float) -> None:
    assert played(watch, Clock(watch.now, 4.0), each, each) >= TOO_FEW


def test_even_so_it_ends(watch: Watch) -> None:
    began = watch.now
    assert played(watch, Clock(began, 4.0), 100.0, 100.0) < TOO_FEW
    assert watch.now - began <= LONGEST_SECONDS + 100.0


@pytest.mark.parametrize(
    ("each", "seconds"),
    [
        (0.01, 3.0),  # what is left of the usual time is plenty
        (0.2, FEWEST_REPLICATIONS * 0.2 * MARGIN),
        (1.0, PATIENT_SECONDS),
        (4.0, FEW_REPLICATIONS * 4.0 * MARGIN),
        (60.0, LONGEST_SECONDS),
    ],
)
def test_a_run_waits_for_its_forecast_as_long_as_a_replication_tells(each: float, seconds: float) -> None:
    assert Patience(5.0).seconds(each, 2.0) == pytest.approx(seconds)


@pytest.mark.parametrize("each", [0.15, 0.39])
def test_the_time_that_a_pilot_asks_for_is_enough_for_the_fewest(watch: Watch, each: float) -> None:
    clock = Clock(watch.now, Patience(4.0).seconds(each, 1.0))
    assert played(watch, clock, each, each) >= FEWEST_REPLICATIONS


def test_what_is_said_of_few() -> None:
    assert list(too_few(FEWEST_REPLICATIONS)) == []
    assert next(too_few(TOO_FEW)).startswith(f"Only {TOO_FEW} replications fitted the time")
    assert next(too_few(1)).startswith("NO FORECAST: one replication of the 5 it takes")


class SlowPlayers(Players):
    """Two workers whose replications take 0.6 s each."""

    def __init__(self, processes: int | None = None) -> None:
        super().__init__(1)
        self.processes = 2

    def play(self, jobs, enough):  # type: ignore[no-untyped-def]
        return [Outcome(number, {}, seconds=0.6) for number in range(2)]


def test_a_run_plays_one_replication_in_each_worker_to_know_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.forecast.predict.Players", SlowPlayers)
    scenario = shop()
    with Forecaster(scenario, cold_observation(scenario, 1), world="sim", seed=1) as twin:
        assert twin.seconds_needed(Patience(4.0)) == pytest.approx(FEWEST_REPLICATIONS * 0.3 * MARGIN / twin._own_share)


def test_a_budget_that_is_used_up_before_it_begins_gives_a_rough_forecast() -> None:
    scenario = shop()
    seen = cold_observation(scenario, 1)
    found = make_forecast(
        scenario, seen, world="sim", seed=1, planned_injection_at=seen.ended_at + 15.0, time_budget_seconds=0.0,
        processes=1,
    )  # fmt: skip
    assert found.replications == TOO_FEW
    assert found.limits[0].startswith("Only 5 replications")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_forecast_that_nobody_waits_for_any_more_ends(processes: int) -> None:
    scenario = shop()
    seen = cold_observation(scenario, 1)
    twin = Forecaster(scenario, seen, world="sim", seed=1, processes=processes)
    playing = threading.Thread(target=_play, args=(twin, seen.ended_at + 15.0), daemon=True)
    playing.start()
    time.sleep(0.5)
    twin.close()
    playing.join(30.0)
    assert not playing.is_alive()


def _play(twin: Forecaster, planned: float) -> None:
    try:
        twin.forecast(planned, 600.0, most_replications=10**9)
    except Exception:  # noqa: BLE001 - that its workers are gone may be told in any way; that it ends is what counts
        return
