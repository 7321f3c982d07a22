"""A machine that is slower during the fault than before it is told from a fault that makes all slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports import story
from reports.assemble import assemble
from reports.material import gather
from reports.pace import Pace, pace, unsteady
from reports.run import Run
from reports.store import LOAD_PROCESS, RunStore, Usage
from tests.reports.synthetic import SyntheticRun


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(SyntheticRun().write(tmp_path / "run.sqlite"))


def count(store: RunStore, slower: float) -> Run:
    """The load generator's CPU, once a second: so many times as much for a request from the injection on."""
    windows = Run(store).windows
    second, used = windows["warmup"][0], 0.0
    rows = []
    while second <= windows["all"][1] + 1.0:
        rows.append(Usage(second, LOAD_PROCESS, used, 1))
        used += 0.03 * (slower if second >= windows["inject"][0] else 1.0)
        second += 1.0
    store.add_usage(rows)
    store.commit()
    return Run(store)


@pytest.mark.parametrize(("slower", "steady"), [(1.0, True), (1.06, True), (1.4, False), (0.7, False)])
def test_the_load_generators_cost_of_a_request_gauges_the_machine(store: RunStore, slower: float, steady: bool) -> None:
    found = pace(count(store, slower), "all")
    assert found is not None
    assert found.ratio == pytest.approx(slower, rel=0.04)  # arrivals are random, and windows end between two looks
    assert found.is_steady is steady


def test_where_nobody_counted_nothing_is_said(store: RunStore) -> None:
    assert pace(Run(store), "all") is None
    document = assemble(gather(Run(store)))
    assert document.load is not None
    assert document.load.pace is None
    assert not any("The machine was" in line for line in document.surprises)


def test_a_few_ticks_more_are_no_slower_machine() -> None:
    assert Pace(before=0.0010, during=0.0013, error=0.2).is_steady
    assert not Pace(before=0.0010, during=0.0013, error=0.02).is_steady


def test_a_report_begins_with_it(store: RunStore) -> None:
    document = assemble(gather(count(store, 1.4)))
    assert story.surprises(document)[0].startswith("The machine was 4")
    assert document.surprises[0].startswith("The machine was 4")
    assert document.load is not None
    assert document.load.pace is not None
    assert not document.load.pace.steady


def test_forecasts_of_latencies_are_read_at_the_pace_that_the_machine_had(store: RunStore) -> None:
    document = assemble(gather(count(store, 1.4)))
    for row in document.predictions:
        if row.quantity in ("p50", "p95", "p99"):
            assert row.at_pace == pytest.approx(row.median * 1.4**0.5, rel=0.03)
        else:
            assert row.at_pace is None
    for row in document.predictions:
        row.inside, row.measured = False, 2.0 * row.high
    lines = [line for line in story.surprises(document) if "measured" in line]
    told = [line for line in lines if "At the machine's pace the forecast reads" in line]
    assert told
    assert all("latency" in line for line in told)
    assert len(told) < len(lines)


def test_on_a_steady_machine_there_is_nothing_to_read_anew(store: RunStore) -> None:
    document = assemble(gather(count(store, 1.0)))
    assert not any("the forecast reads" in line for line in document.surprises)


def test_slower_and_faster_are_told_in_words() -> None:
    assert unsteady(0.001, 0.0014).startswith("The machine was 40% slower")
    assert unsteady(0.0014, 0.001).startswith("The machine was 40% faster")
