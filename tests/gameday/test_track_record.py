"""`gameday accuracy` without a suite."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gameday import ledger
from gameday.accuracy.command import AccuracyOptions, run_accuracy
from gameday.accuracy.track import drift_lines
from gameday.errors import BadInput
from gameday.ledger import Record
from sim.scoring.score import Detail

ROW = Detail(
    quantity="p95", subject="checkout", window="inject", measured=0.2, naive=0.1, low=0.1, median=0.19, high=0.3,
    inside=(True, True, True), pit=(0.5, 0.51), width=1.0, interval=1.0, crps=0.05, crps_naive=0.5,
)  # fmt: skip
MISS = msgspec.structs.replace(ROW, inside=(False, False, False), pit=(0.99, 1.0))


STILL = msgspec.structs.replace(ROW, measured=0.1, crps_naive=0.01)


def judged(number: int, *rows: Detail, family: str = "pod-kill", scenario: str = "s", rate: float = 60.0) -> Record:
    return Record(
        run=f"run-{number}", at=1_790_000_000.0 + number, machine="m", scenario=scenario, family=family, world="local",
        seed=number, rate=rate, app="retail", replications=40, rows=rows,
    )  # fmt: skip


def moved(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The number of moved quantities of each line of the table."""
    run_accuracy(AccuracyOptions())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    return {words[0]: words[-2] for words in lines[: lines.index([])]}


def fill(path: Path, good: int, bad: int) -> None:
    for index in range(good + bad):
        ledger.append(judged(index, ROW if index < good else MISS, ROW), path)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger.jsonl"
    monkeypatch.setenv(ledger.VARIABLE, str(path))
    return path


def test_an_empty_ledger_says_how_to_fill_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_accuracy(AccuracyOptions()) == 0
    assert "every `gameday run` adds one" in capsys.readouterr().out


def test_each_kind_of_fault_has_its_line_and_few_runs_are_called_few(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(path, 3, 0)
    assert run_accuracy(AccuracyOptions()) == 0
    out = capsys.readouterr().out
    assert "pod-kill" in out
    assert "100/100/100" in out
    assert "0.90" in out  # skill
    assert "too few runs to tell (3 on this machine" in out


def test_a_fall_of_coverage_is_called_drift_with_the_run_where_it_began(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(path, 12, 6)
    run_accuracy(AccuracyOptions())
    out = capsys.readouterr().out
    assert "50% in the last 6 runs, 100% in the 12 before: DRIFT" in out
    assert "from about run run-12 on" in out


def test_skipped_lines_are_said(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(path, 1, 0)
    with path.open("a") as file:
        file.write("half a li")
    run_accuracy(AccuracyOptions())
    assert "1 lines are no record and were skipped (line 2)" in capsys.readouterr().out


def test_options_of_a_suite_without_one_are_refused(path: Path) -> None:
    with pytest.raises(BadInput, match="need --suite"):
        run_accuracy(AccuracyOptions(seeds=3))


def test_an_outlier_of_one_run_is_nothing_that_the_fault_moved(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, row in enumerate((STILL, STILL, ROW)):
        ledger.append(judged(number, row), path)
    assert moved(capsys) == {"pod-kill": "0"}


def test_what_most_runs_of_a_scenario_at_a_load_moved_counts_in_all_of_them(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, row in enumerate((ROW, ROW, STILL)):
        ledger.append(judged(number, row), path)
        ledger.append(judged(number + 3, STILL, scenario="mild"), path)
        ledger.append(judged(number + 6, STILL, rate=20.0), path)
    assert moved(capsys) == {"pod-kill": "3"}


def test_without_a_fault_nothing_counts_as_moved(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        ledger.append(judged(number, ROW, family="none"), path)
        ledger.append(judged(number + 3, ROW), path)
    assert moved(capsys) == {"all": "3", "none": "0", "pod-kill": "3"}


def test_drift_is_of_intervals_and_leaves_events_out(path: Path) -> None:
    """The odds of an event that nearly always comes as foretold would hide the intervals that do not."""
    event = msgspec.structs.replace(ROW, quantity="metastable", naive=None, pit=(0.0, 1.0))
    runs = [judged(number, ROW if number < 12 else MISS, *(event,) * 30) for number in range(18)]
    runs.append(judged(18, event))
    coverage, bias = drift_lines(runs)
    assert "0% in the last 6 runs, 100% in the 12 before: DRIFT" in coverage
    assert "0.99 in the last 6 runs, 0.51 in the 12 before: DRIFT" in bias
