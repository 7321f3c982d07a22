"""The load of a drill is known beforehand where its record follows its seed's schedule, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from gameday.arrivals import known_arrivals
from loadtests.schedule import Arrival, arrivals
from reports.store import Request, RunStore
from scenarios.load import load_scenario
from scenarios.model import Scenario

ZERO = 1_700_000_000.0
BASELINE = (ZERO + 5.0, ZERO + 20.0)
PLANNED = ZERO + 30.0


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario("retry-storm")


def recorded(path: Path, sent: Iterable[Arrival]) -> RunStore:
    store = RunStore(path / "run.sqlite", create=True)
    store.add_requests(
        Request("GET a /", a.journey, round(ZERO + a.at, 6), ZERO + a.at, ZERO + a.at + 0.01, 200, None, None)
        for a in sent
        if a.at < 20.0
    )
    store.commit()
    return store


def test_what_comes_after_the_baseline_is_on_the_clock_of_the_injection(scenario: Scenario, tmp_path: Path) -> None:
    end = 30.0 + scenario.phases.inject + scenario.phases.recover
    all_of_them = list(arrivals(scenario.load.rate, scenario.load.mix, 7, end))
    with recorded(tmp_path, all_of_them) as store:
        known = known_arrivals(store, scenario, 7, BASELINE, PLANNED)
    assert known is not None
    ahead = [a for a in all_of_them if a.at >= 20.0]
    assert known.at[: len(ahead)] == pytest.approx([a.at - 30.0 for a in ahead], abs=1e-5)
    assert known.journeys[: len(ahead)] == tuple(a.journey for a in ahead)
    assert known.at[-1] >= scenario.phases.inject + scenario.phases.recover - 1.0


@pytest.mark.parametrize("what", ["another seed", "another rate", "nothing", "a stall of the driver"])
def test_a_record_that_does_not_follow_the_schedule_leaves_the_arrivals_open(
    what: str, scenario: Scenario, tmp_path: Path
) -> None:
    rate, mix = scenario.load.rate, scenario.load.mix
    sent = {
        "another seed": list(arrivals(rate, mix, 8, 60.0)),
        "another rate": list(arrivals(rate / 2, mix, 7, 60.0)),
        "nothing": [],
        "a stall of the driver": [a if a.at < 9.0 else a._replace(at=a.at + 0.5) for a in arrivals(rate, mix, 7, 60.0)],
    }[what]
    with recorded(tmp_path, sent) as store:
        assert known_arrivals(store, scenario, 7, BASELINE, PLANNED) is None
