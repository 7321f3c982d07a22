"""Which change is tried for real, how it is written down, and what the table over seeds says."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gameday import verify as verify_module
from gameday import verify_seeds as verify_seeds_module
from gameday.accuracy.runner import hold
from gameday.accuracy.suite import config_of, read_suite
from gameday.errors import BadInput, Exit
from gameday.run import RunOptions
from gameday.rundir import RunDir
from gameday.verify import Finished, _applied, _beside, choose, read_first, run_and_verify
from gameday.verify_seeds import Pair, SeedOptions, _known, table, verify_seeds
from gameday.worlds.base import WorldOptions
from reports.store import RunStore
from reports.verification import Row, Verification
from scenarios.load import InvalidScenario, load_scenario
from scenarios.load.problems import Problem
from sim.explain.explanation import UNCHANGED, Explanation, Remedy
from sim.knobs.changes import knobs
from sim.knobs.configuration import read_configuration
from sim.knobs.written import write
from sim.results import CounterfactualSlo, Forecast


def remedy(change: str, spent: float, *, holds: bool = False, size: float = 1.0, unable: str | None = None) -> Remedy:
    slo = CounterfactualSlo(
        name="checkout", budget_spent_low=spent, budget_spent_median=spent, budget_spent_high=spent,
        probability_held=float(holds),
    )  # fmt: skip
    return Remedy(change=change, settings=(), size=size, slos=(slo,), holds=holds, replications=10, unverifiable=unable)


def explained(*remedies: Remedy) -> Explanation:
    return Explanation(
        remedies=remedies, causes=(), verdict="It says so.", tried=len(remedies), plays=1, seconds=1.0, complete=True
    )


BURNT = remedy(UNCHANGED, 3.0, size=0.0)


def test_the_smallest_that_holds_is_tried() -> None:
    big, small = remedy("big", 0.1, holds=True, size=3.0), remedy("small", 0.9, holds=True, size=2.0)
    assert choose(explained(big, small, BURNT)) is small


def test_what_cannot_be_tried_is_passed_over() -> None:
    unable = remedy("small", 0.9, holds=True, size=1.0, unable="somebody else's program")
    able = remedy("big", 0.1, holds=True, size=3.0)
    assert choose(explained(unable, able, BURNT)) is able


def test_where_none_holds_the_one_that_saves_most_is_tried() -> None:
    assert choose(explained(BURNT, remedy("a", 2.0), remedy("b", 1.5), remedy("c", 9.0))).change == "b"


@pytest.mark.parametrize(
    ("remedies", "text"),
    [
        ((BURNT, remedy("a", 2.0, unable="not ours")), "a: not ours"),
        ((BURNT, remedy("worse", 9.0)), "It says so"),
        ((remedy(UNCHANGED, 0.2, holds=True, size=0.0), remedy("a", 0.1)), "nothing to verify"),
    ],
)
def test_where_there_is_nothing_to_try_it_says_why(remedies: tuple[Remedy, ...], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        choose(explained(*remedies))


def finished(path: Path) -> tuple[Finished, Remedy]:
    scenario = load_scenario("retry-storm", overrides=("load.rate=50/s",))
    original = read_configuration(scenario)
    knob = next(knob for knob in knobs(original) if knob.name == "replicas")
    written = write(knob.turn(original, 3.0), original)
    change = msgspec.structs.replace(
        remedy("3 replicas", 0.5, holds=True), overrides=written.overrides, files=written.files
    )
    path.mkdir()
    forecast = msgspec.convert(
        {"schema": "", "scenario": "", "variant": None, "world": "local", "seed": 7, "madeAt": 0.0,
         "plannedInjectionAt": 0.0, "replications": 1, "computeSeconds": 0.0, "calibration": {}, "predictions": [],
         "fans": [], "limits": []},
        Forecast,
    )  # fmt: skip
    return Finished(
        RunDir(path), scenario, ("load.rate=50/s",), 7, "local", {}, explained(change), forecast, "checkout-success"
    ), change


def test_the_second_run_is_what_a_user_would_type(tmp_path: Path) -> None:
    first, change = finished(tmp_path / "first")
    changed, options = _applied(first, change, plain=True, world=None)
    assert changed.app.service("payment").replicas == 3
    assert changed.faults[0].targets["replicas"] == 3
    assert changed.load.rate == 50.0
    assert [e.quantity for e in changed.expectations] == ["budget_spent"] * len(changed.slos)
    assert (options.world.name, options.world.seed, options.explain) == ("local", 7, False)
    assert options.out == tmp_path / "first-verified"
    again = load_scenario(options.scenario, variant=options.variant, overrides=options.overrides)
    assert again == changed
    options.out.mkdir()
    assert _beside(first.run.path).name == "first-verified-2"


def test_a_scenario_that_changed_since_is_not_verified(tmp_path: Path) -> None:
    first, change = finished(tmp_path / "first")
    with pytest.raises(BadInput, match="was changed since run first"):
        _applied(replace(first, overrides=()), change, plain=True, world=None)


def test_a_run_that_did_not_end_is_not_verified(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite", create=True) as store:
        store.set_meta(state="aborted")
    with pytest.raises(BadInput, match="did not get to its end"):
        read_first(RunDir(tmp_path))


def test_a_scenario_that_became_invalid_during_the_first_run_leaves_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def invalid(*_: object, **__: object) -> int:
        raise InvalidScenario([Problem("scenario.yaml", 3, "load", "is missing")])

    monkeypatch.setattr(verify_module, "run_gameday", lambda _: Exit.NOT_HELD)
    monkeypatch.setattr("gameday.rundir.find", lambda _: RunDir(tmp_path))
    monkeypatch.setattr(verify_module, "verify", invalid)
    assert run_and_verify(RunOptions("retry-storm", WorldOptions("local", 1), out=tmp_path)) == Exit.NOT_HELD
    assert "not verified: scenario.yaml:3: load: is missing" in capsys.readouterr().out


def verified(measured: float) -> Verification:
    inside = 0.4 <= measured <= 0.9
    row = Row(
        quantity="budget_spent", subject="checkout", low=0.4, median=0.6, high=0.9, measured=measured, inside=inside
    )
    return Verification(
        change="3 replicas", overrides=(), run="r", subject="checkout", sealed_at=0.0, sha256="a", state="finished",
        rows=(row,),
    )  # fmt: skip


def test_the_table_counts_what_was_inside_and_shows_what_was_not() -> None:
    scenario = load_scenario("retry-storm")
    text = table(
        scenario, [Pair(1, verified(0.5), holds=True), Pair(2, verified(2.5)), Pair(3, None, note="no time left")]
    )
    assert "1 of 2 measured budgets lie inside" in text
    assert "| 1 | 3 replicas | holds | checkout | 0.60× (0.40–0.90×) | 0.50× | yes | 1 of 1 |" in text
    assert "| 2 | 3 replicas | does not hold | checkout | 0.60× (0.40–0.90×) | 2.50× | **no** | 0 of 1 |" in text
    assert "no time left" in text


def test_without_time_nothing_is_started(tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    options = SeedOptions("retry-storm", 2, reuse=tmp_path / "runs", out=out, minutes=0.0)
    assert verify_seeds(options) == Exit.NOT_HELD
    assert out.read_text().count("not run: no time left") == 2
    assert not list((tmp_path / "runs").glob("seed-*"))


def test_first_runs_of_a_seed_are_found_and_their_verifications_are_not(tmp_path: Path) -> None:
    for name in (
        "seed-1",
        "seed-1-verified",
        "seed-1-again-2",
        "seed-1-again-2-verified",
        "seed-10",
        "seed-10-again-2",
    ):
        (tmp_path / name).mkdir()
    assert [run.path.name for run in _known(tmp_path, 1, "0a1b2c3d4e")] == ["seed-1", "seed-1-again-2"]


def test_a_suites_run_of_the_same_scenario_load_and_seed_is_a_first_run(tmp_path: Path) -> None:
    overrides = ("load.rate=40/s", "phases.recover=12s")
    case = "{name: storm, scenario: retry-storm, loads: [40/s], set: [phases.recover=12s]}"
    file = tmp_path / "suite.yaml"
    file.write_text(
        "apiVersion: gameday.dev/v1\nkind: AccuracySuite\nmetadata: {name: mine}\n"
        f"spec: {{loads: [60/s], heldOutLoads: [90/s], cases: [{case}]}}\n"
    )
    first, second = read_suite(str(file), 2, ()).runs
    for name in (first.folder, f"{first.folder}-verified", second.folder):
        (tmp_path / name).mkdir()
    (tmp_path / f"{first.folder}.log").touch()
    config = config_of(load_scenario("retry-storm", overrides=overrides), "local", 1)
    assert [run.path.name for run in _known(tmp_path, 1, config)] == [first.folder]
    other = config_of(load_scenario("retry-storm", overrides=("load.rate=70/s", *overrides[1:])), "local", 1)
    assert _known(tmp_path, 1, other) == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
def test_seeds_side_by_side_have_processes_of_their_own_and_all_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    monkeypatch.setattr(verify_seeds_module, "_in_time", pinned)
    out = tmp_path / "table.md"
    options = SeedOptions("retry-storm", 3, reuse=tmp_path / "runs", out=out, jobs=2)
    assert verify_seeds(options) == Exit.NOT_HELD
    notes = [line.split("|")[-2].split() for line in out.read_text().splitlines() if line.startswith("| ")][2:]
    assert {(cores, count) for cores, count, _ in notes} <= {(str(core), "1") for core in os.sched_getaffinity(0)}
    assert len({pid for _, _, pid in notes}) == 3
    assert len({cores for cores, _, _ in notes}) == 2


def pinned(seed: int, *_: object) -> Pair:
    """Stands for a seed's runs; says where it was played, and by whom."""
    mine = sorted(os.sched_getaffinity(0))
    return Pair(seed, None, note=f"{mine[0]} {len(mine)} {os.getpid()}")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
def test_a_seed_whose_process_is_killed_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    monkeypatch.setattr(verify_seeds_module, "_in_time", killed)
    out = tmp_path / "table.md"
    options = SeedOptions("retry-storm", 2, reuse=tmp_path / "runs", out=out, jobs=2)
    assert verify_seeds(options) == Exit.HARNESS_FAILED
    assert out.read_text().count("| failed: its process ended early; see its log |") == 1
    assert out.read_text().count("| played |") == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
def test_a_seed_that_is_refused_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    monkeypatch.setattr(verify_seeds_module, "_in_time", refused)
    out = tmp_path / "table.md"
    options = SeedOptions("retry-storm", 2, reuse=tmp_path / "runs", out=out, jobs=2)
    assert verify_seeds(options) == Exit.HARNESS_FAILED
    assert "| failed: port 80 is taken; and 81 |" in out.read_text()
    assert "| played |" in out.read_text()
    assert "Traceback" not in (tmp_path / "runs" / "seed-2.log").read_text()


def refused(seed: int, *_: object) -> Pair:
    if seed == 2:
        raise BadInput("port 80 is taken\nand 81")
    return Pair(seed, None, note="played")


def killed(seed: int, *_: object) -> Pair:
    """The second one is, as by the kernel when memory is short."""
    if seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return Pair(seed, None, note="played")


def test_a_damaged_store_and_a_table_that_cannot_be_written_are_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"x: cannot be written: File name too long; name another folder with --reuse"):
        verify_seeds(SeedOptions("retry-storm", 1, reuse=tmp_path / ("x" * 300)))
    with pytest.raises(BadInput, match=r"--out .*: cannot be written: Is a directory"):
        verify_seeds(SeedOptions("retry-storm", 1, reuse=tmp_path / "runs", out=tmp_path))
    assert not (tmp_path / "runs").exists()
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seed-1" / "run.sqlite").write_text("torn" * 300)
    with pytest.raises(BadInput, match=r"seed-1/run.sqlite: not a run store"):
        verify_seeds(SeedOptions("retry-storm", 1, reuse=tmp_path))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
@pytest.mark.usefixtures("interruptible")
def test_an_interruption_is_told_to_each_seed_under_way_once_and_none_begins_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    monkeypatch.setattr(verify_seeds_module, "_in_time", waiting)

    def interrupt() -> None:
        while len(list(tmp_path.glob("begun-*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert verify_seeds(SeedOptions("retry-storm", 3, reuse=tmp_path, jobs=2)) == Exit.ABORTED
    assert {path.name for path in tmp_path.glob("*-?")} == {"begun-1", "begun-2", "told-1", "told-2"}
    out = capsys.readouterr().out
    assert out.count("interrupted |") == 2
    assert "the same command goes on" in out


def waiting(seed: int, _: object, folder: Path, *__: object) -> Pair:
    """As a run does, it takes its time once it was told, and bears no second interruption."""
    (folder / f"begun-{seed}").touch()
    try:
        time.sleep(60.0)
    except KeyboardInterrupt:
        time.sleep(0.5)
        (folder / f"told-{seed}").touch()
    return Pair(seed, None, note=verify_seeds_module.INTERRUPTED)


def test_two_commands_never_fill_one_folder(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(BadInput, match="another gameday runs there; wait for its end"):
        verify_seeds(SeedOptions("retry-storm", 1, reuse=tmp_path))
    with hold(tmp_path):
        pass


def test_more_jobs_than_cores_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--jobs 999: "):
        verify_seeds(SeedOptions("retry-storm", 2, reuse=tmp_path / "runs", jobs=999))
    assert not (tmp_path / "runs").exists()
