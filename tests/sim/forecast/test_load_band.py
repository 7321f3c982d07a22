"""Metastability at 95 % and 105 % of the load: played beside a forecast, and whether yes or no hangs on it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from sim_builders import application, fault, scenario_of, service, setup_of

from scenarios.model import LoadSpec, Scenario, ServiceTime, SloSpec
from sim.calibration.calibrate import calibrate
from sim.forecast.load_band import FEWEST, play_load_bands
from sim.forecast.patience import Clock
from sim.forecast.predict import cold_observation, make_forecast, make_task
from sim.model.setup import read_setup
from sim.replication.course import METASTABLE
from sim.replication.replicate import Outcome, Players, play
from sim.results import LoadBand, Prediction
from sim.scoring.score import detail

SUBJECT = "front-success"


def drill() -> Scenario:
    front = service("front", calls=("back",), workers=50)
    back = service("back", time=ServiceTime(0.02, 0.4), workers=4, queue=8)
    return scenario_of(
        setup_of(
            application(front, back),
            load=LoadSpec(20.0, {"all": 1.0}, 1000, 1.0),
            slos=(SloSpec(SUBJECT, "front", "GET", "/", 0.99),),
            faults=(fault("app-degrade", duration=3.0, service="back", replicas=1, parameters={"freeze": 1.0}),),
            inject_seconds=4.0,
            recover_seconds=30.0,
        )
    )


def metastable_of(most: int) -> Prediction:
    scenario = drill()
    seen = cold_observation(scenario, 1)
    forecast = make_forecast(
        scenario, seen, world="sim", seed=1, planned_injection_at=seen.ended_at + 15.0, time_budget_seconds=60.0,
        processes=1, most_replications=most,
    )  # fmt: skip
    return next(p for p in forecast.predictions if p.quantity == METASTABLE)


def test_a_forecast_keeps_the_probability_at_both_loads() -> None:
    band = metastable_of(24).load_band
    assert band == LoadBand(half_width=0.05, below=0.0, above=0.0, replications=6)


def test_too_few_replications_tell_no_band() -> None:
    assert metastable_of(4 * FEWEST - 1).load_band is None


def test_replications_at_another_load_have_the_same_draws_and_other_rates() -> None:
    scenario = drill()
    seen = cold_observation(scenario, 1)
    task = make_task(read_setup(scenario, 1, seen.world), calibrate(seen, scenario), seen, 1, seen.ended_at + 15.0)
    same, less, more = (
        sum(play(replace(task, load=load), number).requests for number in range(4)) for load in (1.0, 0.95, 1.05)
    )
    # Common random numbers: without them the ratio's own error would be 3 %.
    assert less / same == pytest.approx(0.95, abs=0.012)
    assert more / same == pytest.approx(1.05, abs=0.012)


class Boundary(Players):
    """Sticks above the load, and counts what it was asked to play."""

    def play(self, jobs, enough):  # type: ignore[no-untyped-def]
        played: list[Outcome] = []
        for task, number in jobs:
            if enough(len(played), 0.0):
                break
            played.append(Outcome(number, {(METASTABLE, SUBJECT, "recover"): float(task.load > 1.0)}))
        return played


def test_the_two_loads_are_not_mixed_up_and_a_clock_leaves_as_many_of_each() -> None:
    scenario = drill()
    seen = cold_observation(scenario, 1)
    task = make_task(read_setup(scenario, 1, seen.world), calibrate(seen, scenario), seen, 1, seen.ended_at + 15.0)
    own = [Outcome(number, {(METASTABLE, SUBJECT, "recover"): 0.0}) for number in range(200)]
    players = Boundary(1)
    whole = play_load_bands(players, task, own, lambda started, _: False)
    assert whole == {SUBJECT: LoadBand(half_width=0.05, below=0.0, above=1.0, replications=20)}
    short = play_load_bands(players, task, own, lambda started, _: started >= 2 * FEWEST)
    assert short[SUBJECT].replications == FEWEST
    assert play_load_bands(players, task, own, lambda started, _: started >= 2 * FEWEST - 1) == {}
    assert play_load_bands(players, task, [Outcome(n, {}) for n in range(200)], Clock(0.0, 1e9).enough) == {}


@pytest.mark.parametrize(
    ("below", "at", "above", "splits"),
    [
        (0.0, 0.2, 0.4, False),
        (0.0, 0.2, 0.5, True),
        (0.4, 0.5, 1.0, True),
        (0.5, 0.9, 1.0, False),
        (0.6, 0.4, 0.3, True),
    ],
)
def test_a_verdict_is_in_the_band_where_yes_and_no_both_occur(
    below: float, at: float, above: float, splits: bool
) -> None:
    band = LoadBand(half_width=0.05, below=below, above=above, replications=20)
    prediction = Prediction(
        quantity=METASTABLE, subject=SUBJECT, window="recover", low=0.0, median=at, high=1.0, naive=0.0,
        ensemble=(0.0, 1.0), load_band=band,
    )  # fmt: skip
    row = detail(prediction, 1.0)
    assert row.in_load_band is splits
    assert msgspec.json.decode(msgspec.json.encode(row), type=type(row)) == row
    assert not detail(msgspec.structs.replace(prediction, load_band=None), 1.0).in_load_band
