"""`gameday accuracy` without a suite."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gameday import ledger
from gameday.accuracy.command import AccuracyOptions, run_accuracy
from gameday.errors import BadInput
from gameday.ledger import Record
from sim.scoring.score import Detail

ROW = Detail(
    quantity="p95", subject="checkout", window="inject", measured=0.2, naive=0.1, low=0.1, median=0.19, high=0.3,
    inside=(True, True, True), pit=(0.5, 0.51), width=1.0, interval=1.0, crps=0.05, crps_naive=0.5,
)  # fmt: skip
MISS = msgspec.structs.replace(ROW, inside=(False, False, False), pit=(0.99, 1.0))


def fill(path: Path, good: int, bad: int) -> None:
    for index in range(good + bad):
        row = ROW if index < good else MISS
        ledger.append(
            Record(
                run=f"run-{index}", at=1_790_000_000.0 + index, machine="m", scenario="s", family="pod-kill",
                world="local", seed=index, rate=60.0, app="retail", replications=40, rows=(row, ROW),
            ),
            path,
        )  # fmt: skip


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


def test_what_one_run_of_ten_moved_is_chance_and_no_skill(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = msgspec.structs.replace(ROW, measured=0.1)
    for index in range(10):
        ledger.append(
            Record(
                run=f"run-{index}", at=float(index), machine="m", scenario="s", family="pod-kill", world="local",
                seed=index, rate=60.0, app="retail", replications=40, rows=(ROW if index == 3 else still,),
            ),
            path,
        )  # fmt: skip
    run_accuracy(AccuracyOptions())
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("pod-kill"))
    assert line.split()[-2:] == ["0", "–"]


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
