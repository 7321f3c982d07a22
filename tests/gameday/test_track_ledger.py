"""The ledger: whole lines or none, whoever writes and dies at the same time."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import msgspec
import pytest

from gameday import judge, ledger
from gameday.accuracy.evidence import sealed_forecast
from gameday.ledger import Record
from reports.run import Run
from reports.store import RunStore
from sim.scoring.score import Detail
from tests.reports.synthetic import SyntheticRun

ROW = Detail(
    quantity="p95", subject="checkout", window="inject", measured=0.2, naive=0.1, low=0.1, median=0.19, high=0.3,
    inside=(True, True, True), pit=(0.5, 0.51), width=1.0, interval=1.0, crps=0.05, crps_naive=0.5,
)  # fmt: skip


def record(run: str, at: float = 1.0, rows: int = 1, seal: str = "") -> Record:
    return Record(
        run=run, seal=seal, at=at, machine="m", scenario="s", family="app-degrade", world="local", seed=1, rate=60.0,
        app="retail", replications=40, rows=(ROW,) * rows,
    )  # fmt: skip


def _append_many(path: Path, writer: int) -> None:
    for index in range(20):
        ledger.append(record(f"{writer}-{index}", rows=40), path)


def test_two_runs_that_end_together_both_have_their_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(path, writer)) for writer in range(4)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(30)
    found = ledger.read(path)
    assert found.notes == ()
    assert {r.run for r in found.records} == {f"{writer}-{index}" for writer in range(4) for index in range(20)}


def test_a_torn_line_is_skipped_with_a_note_and_the_next_writer_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.append(record("first"), path)
    with path.open("ab") as file:
        file.write(path.read_bytes()[:60])  # killed in the middle of its write
    ledger.append(record("second", at=2.0), path)
    found = ledger.read(path)
    assert [r.run for r in found.records] == ["first", "second"]
    assert found.notes == (f"{path}: 1 lines are no record and were skipped (line 2)",)


def test_garbage_of_any_kind_costs_only_its_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"schema":1}\n\xff\xfe\n\n[]\n')
    ledger.append(record("good"), path)
    found = ledger.read(path)
    assert [r.run for r in found.records] == ["good"]
    assert "3 lines" in found.notes[0]


def test_a_run_that_is_judged_again_counts_as_it_was_judged_last(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.append(record("again", at=1.0), path)
    ledger.append(record("other", at=2.0), path)
    ledger.append(record("again", at=3.0, rows=2), path)
    found = ledger.read(path).records
    assert [(r.run, len(r.rows)) for r in found] == [("other", 1), ("again", 2)]


def test_runs_whose_folders_have_one_name_all_count(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.append(record("seed-1", at=1.0, seal="a1"), path)
    ledger.append(record("seed-1", at=2.0, seal="b2"), path)
    ledger.append(record("seed-1", at=3.0, seal="a1", rows=2), path)  # judged again
    assert [(r.seal, len(r.rows)) for r in ledger.read(path).records] == [("b2", 1), ("a1", 2)]


def test_lines_of_older_versions_are_told_apart_by_all_that_they_say_of_their_run(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    old = record("seed-1")
    assert b"seal" not in msgspec.json.encode(old)
    others = [msgspec.structs.replace(old, **{name: value}) for name, value in
              (("machine", "n"), ("config", "c0ffee"), ("seed", 2), ("seal", "a1"))]  # fmt: skip
    for line in (old, *others, old):
        ledger.append(line, path)
    assert len(ledger.read(path).records) == 5


def test_a_judged_run_is_entered_under_the_seal_of_its_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ledger.VARIABLE, str(tmp_path / "ledger.jsonl"))
    seals = set()
    for seed in (1, 2, 2):  # the second run twice; both have one folder's name
        path = tmp_path / f"{seed}.sqlite"
        with RunStore(path if path.exists() else SyntheticRun(seed=seed).write(path)) as store:
            run = Run(store)
            scenario = run.scenario
            assert scenario is not None
            seals.add(next((e.data or {})["sha256"] for e in store.events() if e.kind == "seal"))
            judge.judge(store, scenario, run.windows, sealed_forecast(store), seed, explained=False)
    found = ledger.read().records
    assert len({r.run for r in found}) == 1
    assert len(found) == 2
    assert {r.seal for r in found} == seals


def test_no_ledger_yet_is_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ledger.VARIABLE, str(tmp_path / "deep" / "ledger.jsonl"))
    assert ledger.read().records == ()
    ledger.append(record("first"))
    assert ledger.read().records == (record("first"),)
