"""Suites: which runs, in which order, and what is taken as done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import msgspec
import pytest

from gameday.accuracy import runner as runner_module
from gameday.accuracy.command import AccuracyOptions, run_accuracy
from gameday.accuracy.runner import NOTE, Ended, Runner, share_cores
from gameday.accuracy.suite import PlannedRun, config_of, read_suite
from gameday.errors import BadInput, Exit
from scenarios import catalogue
from scenarios.load import load_scenario
from tests.sim.sim_builders import application, scenario_of, service, setup_of

SUITE = """
apiVersion: gameday.dev/v1
kind: AccuracySuite
metadata: {name: mine}
spec:
  loads: [20/s, 40/s]
  heldOutLoads: [30/s]
  cases:
    - {name: kill, scenario: pod-kill}
    - {name: quiet, scenario: calm, control: true}
    - {name: other, scenario: misroute, part: held-out}
    - {name: oom, scenario: proxy-oom}
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)
    return path


def test_every_case_comes_once_before_any_comes_twice(suite_file: Path) -> None:
    runs = read_suite(str(suite_file), 2, ()).runs
    assert [(run.case.name, run.seed) for run in runs] == [
        ("kill", 1), ("quiet", 1), ("other", 1), ("kill", 1), ("quiet", 1),
        ("kill", 2), ("quiet", 2), ("other", 2), ("kill", 2), ("quiet", 2),
    ]  # fmt: skip
    assert {run.load for run in runs if run.case.name == "kill" and run.seed == 1} == {"20/s", "40/s"}
    assert len({run.load for run in runs[:2]}) == 2
    assert runs[0].load != runs[5].load


def test_what_this_world_cannot_do_is_said_and_not_run(suite_file: Path) -> None:
    suite = read_suite(str(suite_file), 1, ())
    assert "oom" not in {run.case.name for run in suite.runs}
    assert suite.impossible[0].startswith("oom: ")
    assert "--world kind" in suite.impossible[0]


def test_a_runs_folder_follows_what_is_run_and_not_what_is_written_about_it(suite_file: Path) -> None:
    before = [run.folder for run in read_suite(str(suite_file), 1, ()).runs]
    assert len(set(before)) == len(before)
    suite_file.write_text(SUITE.replace("control: true", "control: false"))
    assert [run.folder for run in read_suite(str(suite_file), 1, ()).runs] == before
    suite_file.write_text(SUITE.replace("scenario: calm", "scenario: calm, set: [phases.inject=20s]"))
    after = [run.folder for run in read_suite(str(suite_file), 1, ()).runs]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, True, False]


def test_runs_that_are_kept_are_found_again_by_later_versions() -> None:
    """A field that scenarios did not have then must leave no trace where it is not used."""
    scenario = scenario_of(setup_of(application(service("only"))))
    kept = "47f5340870f676afe814b5bcae1ad49d48c0783661bbdd9808b5752977dddf64"
    assert config_of(scenario, "local", 1) == kept


def test_services_that_cancel_make_another_run() -> None:
    waiting, cancelling = (load_scenario("metastable", variant=variant) for variant in (None, "cancels"))
    assert config_of(waiting, "local", 1) != config_of(cancelling, "local", 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: quiet", "name: kill", "two cases are named 'kill'"),
        ("scenario: calm", "scenario: clam", 'did you mean "calm"?'),
        ("part: held-out", "part: heldout", "Invalid enum value 'heldout'"),
        ("control: true", "contrl: true", "contrl"),
        ("kind: AccuracySuite", "kind: Suite", "Invalid enum value 'Suite'"),
        ("[20/s, 40/s]", "[20/s, forty]", "load.rate"),
        ("spec:", "spec: [", "suite.yaml"),
        ("[20/s, 40/s]", "[]", "case kill: no load; give it `loads`, or the suite `loads`"),
        ("[30/s]", "[]", "case other: no load; give it `loads`, or the suite `heldOutLoads`"),
        ("[20/s, 40/s]", "[20/s, 20/s]", "case kill: 20/s and 20/s come to the same load"),
        ("[20/s, 40/s]", "[20/s, 1200/m]", "case kill: 20/s and 1200/m come to the same load, 20 a second"),
        ("pod-kill}", "pod-kill, set: [load.rate=9/s]}", "case kill: 20/s and 40/s come to the same load, 9 a second"),
        ("[20/s, 40/s]", "[0/s]", "is out of range"),
        ("scenario: calm", "scenario: calm, set: [phases.injct=20s]", 'did you mean "inject"?'),
        ("name: quiet", "name: a/b", 'no case can be named "a/b"'),
        ("name: quiet", "name: ..", 'no case can be named ".."'),
        ("name: quiet", "name: ''", 'no case can be named ""'),
        ("name: quiet", 'name: "kill\\n"', 'no case can be named "kill\\n"'),
        ("name: quiet", f"name: {'a' * 101}", "up to 100 letters"),
        ("name: quiet", "name: 2026-13-13", "month must be in 1..12"),
        ("name: quiet", "name: !!timestamp quiet", "!!timestamp is no time"),
        ("name: quiet", f"name: {'[' * 2000}{']' * 2000}", "is nested too deep"),
    ],
)
def test_a_mistake_in_a_suite_is_one_line(suite_file: Path, old: str, new: str, message: str) -> None:
    suite_file.write_text(SUITE.replace(old, new, 1))
    with pytest.raises(BadInput) as error:
        read_suite(str(suite_file), 1, ())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_suite_without_a_case_is_one_line(suite_file: Path) -> None:
    suite_file.write_text(SUITE[: SUITE.index("cases:")] + "cases: []")
    with pytest.raises(BadInput, match=r"suite\.yaml: spec\.cases: names no case$"):
        read_suite(str(suite_file), 1, ())


def test_a_suite_that_is_no_text_is_one_line(suite_file: Path) -> None:
    suite_file.write_bytes(b"\xe5\x00")
    with pytest.raises(BadInput, match="is not UTF-8 text"):
        read_suite(str(suite_file), 1, ())


def test_only_takes_patterns_of_cases_and_families(suite_file: Path) -> None:
    assert {run.case.name for run in read_suite(str(suite_file), 1, ("pod-*",)).runs} == {"kill"}
    assert {run.case.name for run in read_suite(str(suite_file), 1, ("q*", "misroute")).runs} == {"quiet", "other"}
    with pytest.raises(BadInput, match="matches no case"):
        read_suite(str(suite_file), 1, ("nothing",))


def test_the_shipped_suite_has_every_fault_of_the_embedded_world_controls_and_a_held_out_part() -> None:
    suite = read_suite("local", 1, ())
    kinds = {fault.kind for run in suite.runs for fault in run.scenario.faults}
    played = {"control-plane-down", "cert-expiry", "pod-kill", "app-degrade", "misroute", "telemetry-loss"}
    assert kinds == {*played, "network-throttle"}
    controls = {run.case.name for run in suite.runs if run.case.control}
    assert {"calm", "identity-outage", "telemetry-loss"} <= controls
    tuned = {(run.case.scenario, run.case.variant, run.load) for run in suite.runs if run.case.part == "tuning"}
    held_out = {(run.case.scenario, run.case.variant, run.load) for run in suite.runs if run.case.part == "held-out"}
    assert held_out
    apps = [{run.scenario.app.name for run in suite.runs if run.case.part == part} for part in ("tuning", "held-out")]
    assert len(apps[1] - apps[0]) >= 4
    assert not tuned & held_out
    assert all(run.seconds <= (170.0 if run.case.name.endswith("-long") else 80.0) for run in suite.runs)


def test_a_scenario_of_ones_own_is_found_from_the_suites_file(suite_file: Path) -> None:
    folder = suite_file.parent / "drills" / "mine"
    folder.mkdir(parents=True)
    (folder / "scenario.yaml").write_text(catalogue.path("calm").read_text().replace("name: calm", "name: mine"))
    suite_file.write_text(SUITE.replace("scenario: calm", "scenario: drills/mine"))
    run = read_suite(str(suite_file), 1, ("quiet",)).runs[0]
    assert run.scenario.source == folder / "scenario.yaml"
    suite_file.write_text(SUITE.replace("scenario: calm", "scenario: drills/nine"))
    with pytest.raises(BadInput, match="case quiet"):
        read_suite(str(suite_file), 1, ())


def scripted(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Lets the runner start a script instead of a game day."""
    real = subprocess.Popen

    def start(command: list[str], **more: object) -> subprocess.Popen[bytes]:
        out = command[command.index("--out") + 1]
        return real([sys.executable, "-c", script, out], **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(runner_module.subprocess, "Popen", start)


def test_a_failed_run_is_remembered_with_its_reason_and_not_tried_again_silently(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_suite(str(suite_file), 1, ("kill",)).runs[0]
    scripted(monkeypatch, "print('ERROR: the harness failed'); print('  no request in 20 s'); raise SystemExit(4)")
    said: list[str] = []
    runner = Runner(tmp_path / "runs", said.append)
    assert not runner.is_done(run)
    ended = runner.run(run)
    assert (ended.exit_code, ended.why) == (4, "no request in 20 s")
    fresh = Runner(tmp_path / "runs", said.append)
    assert fresh.is_done(run)
    assert not Runner(tmp_path / "runs", said.append, again=True).is_done(run)


def test_a_suite_from_its_first_run_to_its_page(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With made-up runs in place of game days: one whole, one that has no store."""
    reports = Path(__file__).parents[1] / "reports"
    scripted(
        monkeypatch,
        f"import sys; sys.path.insert(0, {str(reports)!r})\n"
        "from pathlib import Path; from synthetic import SyntheticRun\n"
        "out = Path(sys.argv[1]); out.mkdir(parents=True)\n"
        "if 'kill' in out.name: SyntheticRun().write(out / 'run.sqlite')",
    )
    options = AccuracyOptions(
        str(suite_file), 1, ("kill", "other"), out=tmp_path / "docs" / "accuracy.md", reuse=tmp_path / "runs"
    )
    monkeypatch.setattr("mesh.native.compiled", list)
    assert run_accuracy(options) == Exit.HARNESS_FAILED  # `other` has nothing to score
    page = options.out.read_text() if options.out is not None else ""
    assert "Runs: 2 (2 tuning and controls, 0 held out)" in page
    assert "- other-30ps-1: it has no run store" in page
    assert {path.name for path in (tmp_path / "docs").glob("*.svg")} == {
        "accuracy-calibration.svg", "accuracy-pit.svg", "accuracy-sharpness.svg"
    }  # fmt: skip
    first = capsys.readouterr().out
    assert "1 without a score; `--again` runs those once more" in first
    assert "1/3  kill" in first
    assert "tuning    MISSED" in first
    assert "`make native` first is better" in first
    run_accuracy(options)
    again = capsys.readouterr().out
    assert "3 of 3 runs are there" in again
    assert "make native" not in again
    run_accuracy(AccuracyOptions(str(suite_file), 1, ("kill",), reuse=tmp_path / "runs", dry_run=True))
    assert "0 of 2 runs to go" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
def test_runs_side_by_side_have_cores_that_no_other_has_and_each_takes_the_next(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = os.sched_getaffinity(0)
    if len(mine) < 2:
        pytest.skip("one core")
    scripted(
        monkeypatch,
        "import os, sys, subprocess, time; out = sys.argv[1]; os.makedirs(out); began = time.time(); time.sleep(0.4)\n"
        "show = 'import os; print(*sorted(os.sched_getaffinity(0)))'\n"
        "cores = subprocess.run([sys.executable, '-c', show], capture_output=True, text=True).stdout.strip()\n"
        "open(out + '/seen', 'w').write(f'{began};{time.time()};{cores}')",
    )
    runs = read_suite(str(suite_file), 1, ()).runs
    ended = list(Runner(tmp_path / "runs", lambda text: None).run_all(runs, 2))
    assert {run.name for run, _ in ended} == {run.name for run in runs}
    assert all(found.is_scored for _, found in ended)
    seen: list[tuple[float, float, frozenset[int]]] = []
    for run in runs:
        began, over, cores = (tmp_path / "runs" / run.folder / "seen").read_text().split(";")
        seen.append((float(began), float(over), frozenset(map(int, cores.split()))))
    assert len({cores for *_, cores in seen}) == 2
    assert all(len(cores) == len(mine) // 2 for *_, cores in seen)
    together = [(one, other) for one in seen for other in seen if one is not other and one[0] <= other[0] < one[1]]
    assert together
    assert all(not one[2] & other[2] for one, other in together)


def test_the_next_run_is_asked_for_only_when_there_are_cores_for_it(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, "raise SystemExit(0)")
    asked: list[str] = []

    def two() -> Iterator[PlannedRun]:
        for run in read_suite(str(suite_file), 1, ()).runs[:2]:
            asked.append(run.name)
            yield run

    under_way = Runner(tmp_path / "runs", lambda text: None).run_all(two(), 1)
    next(under_way)
    assert len(asked) == 1
    assert len(list(under_way)) == 1


def test_cores_are_split_evenly_and_more_jobs_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "own_cores", lambda: frozenset({1, 2, 4, 5, 7}))
    assert share_cores(1) == [None]
    assert share_cores(2) == [frozenset({1, 2}), frozenset({4, 5})]
    assert share_cores(5) == [frozenset({core}) for core in (1, 2, 4, 5, 7)]
    with pytest.raises(BadInput, match="--jobs 6: each run wants a core of its own, and we may use 5"):
        share_cores(6)
    monkeypatch.setattr(runner_module, "own_cores", lambda: None)
    with pytest.raises(BadInput, match=r"--jobs 2: .* on Linux only"):
        share_cores(2)


def test_an_interrupted_run_leaves_no_note(suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_suite(str(suite_file), 1, ("kill",)).runs[0]
    scripted(monkeypatch, "raise SystemExit(3)")
    runner = Runner(tmp_path / "runs", lambda text: None)
    assert runner.run(run).exit_code == Exit.ABORTED
    assert not runner.is_done(run)
    assert not (tmp_path / "runs" / run.folder / NOTE).exists()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
@pytest.mark.usefixtures("interruptible")
def test_who_stops_in_between_has_the_runs_under_way_told_once_awaited_and_made_another_time(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    scripted(
        monkeypatch,
        "import os, signal, sys, time; out = sys.argv[1]; told = []\n"
        "signal.signal(signal.SIGINT, lambda *_: told.append(1))\n"
        "os.makedirs(out)\n"
        "if 'quiet' in out: raise SystemExit(0)\n"
        "deadline = time.time() + 60\n"
        "while not told and time.time() < deadline: time.sleep(0.01)\n"
        "time.sleep(0.5); open(out + '/told', 'w').write(str(len(told))); raise SystemExit(3)",
    )
    kill, quiet, third = read_suite(str(suite_file), 1, ()).runs[:3]
    folder = tmp_path / "runs"
    runner = Runner(folder, lambda text: None)
    under_way = runner.run_all(iter((kill, quiet)), 2)
    assert next(under_way)[0] is quiet
    while not (folder / kill.folder).is_dir():
        time.sleep(0.01)
    assert os.getpgid(0) != os.getpgid(next(iter(runner._children)).pid), "Ctrl-C reaches the suite alone"
    under_way.close()
    assert (folder / kill.folder / "told").read_text() == "1"
    assert runner.run(third).exit_code == Exit.ABORTED, "nothing is begun any more"
    fresh = Runner(folder, lambda text: None)
    assert [fresh.is_done(run) for run in (kill, quiet, third)] == [False, True, False]


def test_a_run_that_does_not_end_when_told_to_is_killed_and_noted(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "PATIENCE_SECONDS", -1000.0)
    monkeypatch.setattr(runner_module, "END_SECONDS", 0.2)
    scripted(monkeypatch, "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    run = read_suite(str(suite_file), 1, ("kill",)).runs[0]
    runner = Runner(tmp_path / "runs", lambda text: None)
    assert "not over after" in runner.run(run).why
    assert runner.is_done(run)


def test_a_damaged_store_is_run_anew_before_it_ended_and_named_after(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = read_suite(str(suite_file), 1, ("quiet",)).runs[0]
    store = tmp_path / "runs" / run.folder / "run.sqlite"
    store.parent.mkdir(parents=True)
    store.write_text("torn" * 300)
    said: list[str] = []
    scripted(monkeypatch, "raise SystemExit(0)")
    assert Runner(tmp_path / "runs", said.append).run(run).is_scored
    assert "its store is damaged" in said[0]
    store.write_text("torn" * 300)
    options = AccuracyOptions(str(suite_file), 1, ("quiet",), reuse=tmp_path / "runs", minutes=0.1)
    assert run_accuracy(options) == Exit.HARNESS_FAILED
    assert "its store is damaged (file is not a database); remove it to run it anew" in capsys.readouterr().out


def test_where_nothing_can_be_written_nothing_is_run(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, "raise AssertionError")
    (tmp_path / "file").write_text("")
    for option in ("out", "learn"):
        options = AccuracyOptions(str(suite_file), 1, reuse=tmp_path / "runs")
        with pytest.raises(BadInput, match=f"--{option} .*: cannot be written: Is a directory"):
            run_accuracy(replace(options, **{option: tmp_path}))
    with pytest.raises(BadInput, match="file: cannot be written: File exists; name another folder with --reuse"):
        run_accuracy(AccuracyOptions(str(suite_file), 1, reuse=tmp_path / "file"))
    assert not (tmp_path / "runs").exists()


def test_a_run_that_was_cut_off_is_run_anew(suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_suite(str(suite_file), 1, ("kill",)).runs[0]
    left = tmp_path / "runs" / run.folder
    left.mkdir(parents=True)
    (left / "rubbish").write_text("from a suite that was killed")
    runner = Runner(tmp_path / "runs", lambda text: None)
    assert not runner.is_done(run)
    scripted(monkeypatch, "raise SystemExit(1)")
    assert runner.run(run).is_scored
    assert not (left / "rubbish").exists()
    assert runner.is_done(run)
    assert msgspec.json.decode((left / NOTE).read_bytes(), type=Ended).exit_code == 1


def test_the_time_that_is_left_is_learned_from_runs_that_ended(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_suite(str(suite_file), 1, ("kill",)).runs[0]
    runner = Runner(tmp_path / "runs", lambda text: None)
    assert runner.expected_seconds(run) == run.seconds + runner_module.OVERHEAD_SECONDS
    monkeypatch.setattr(runner_module.time, "monotonic", chain((0.0,), repeat(100.0)).__next__)
    scripted(monkeypatch, "raise SystemExit(0)")
    runner.run(run)
    assert runner.expected_seconds(run) == 100.0
