from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chaoslib.experiment import ensure_experiment_is_valid

import chaos.experiment
from chaos.experiment import command, compile_experiment, late_faults
from chaos.ledger import Record
from chaos.plan import plan
from scenarios import catalogue
from scenarios.load import load_scenario
from scenarios.model import FaultSpec, Scenario


@pytest.fixture(scope="module")
def storm() -> Scenario:
    return load_scenario("retry-storm")


def degrade(name: str, at: float, duration: float, service: str = "payment") -> FaultSpec:
    return FaultSpec(name, "app-degrade", at, duration, {"service": service, "replicas": 1}, {"errorRate": 0.5})


@pytest.mark.parametrize("name", catalogue.names())
def test_every_shipped_scenario_compiles_to_a_valid_experiment(name: str, tmp_path: Path) -> None:
    scenario = load_scenario(name)
    experiment = compile_experiment(scenario, tmp_path, 1000.0)
    ensure_experiment_is_valid(experiment)
    reverted = {action["provider"]["arguments"]["name"] for action in experiment["rollbacks"]}
    assert reverted == {fault.name for fault in scenario.faults}
    worlds = [world for world in ("local", "kind") if not plan(scenario, world).problems]
    assert worlds == (["kind"] if name == "proxy-oom" else ["local", "kind"])


def test_the_method_follows_the_timeline_and_ends_faults_before_it_begins_others(
    storm: Scenario, tmp_path: Path
) -> None:
    scenario = replace(storm, faults=(degrade("late", 10.0, 5.0), degrade("early", 2.0, 8.0)))
    steps = [
        action["provider"]["arguments"].get("epoch", action["name"])
        for action in compile_experiment(scenario, tmp_path, 1000.0)["method"]
    ]
    assert steps == [
        *(1002.0, "inject early"),
        *(1010.0, "revert early"),
        *(1010.0, "inject late"),
        *(1015.0, "revert late"),
    ]


@pytest.mark.parametrize(("version", "expected"), [((1, 19), False), ((1, 21), True), ((2, 0), True)])
def test_the_events_file_is_asked_for_where_chaostoolkit_knows_it(
    version: tuple[int, ...], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaos.experiment, "installed", lambda: version)
    words = command(tmp_path)
    assert ("--events-file" in words) is expected
    assert "--journal-path" in words
    assert words[words.index("--rollback-strategy") + 1] == "always"
    assert words[-1] == str(tmp_path / "experiment.json")


def test_the_plan_names_who_is_hit_until_when_and_what_aborts(storm: Scenario) -> None:
    scenario = replace(storm, faults=(degrade("half", 0.0, 20.0),))
    text = plan(scenario, "local").text()
    assert "payment: 1 of 2 replicas (50%)" in text
    assert "reverted at the latest 30s after injection" in text
    assert all(f"{rule.burn_rate:g}x" in text for rule in scenario.abort)


def test_faults_that_would_undo_each_other_are_refused(storm: Scenario) -> None:
    both = replace(storm, faults=(degrade("one", 0.0, 10.0), degrade("two", 9.0, 10.0)))
    problems = plan(both, "local").problems
    assert len(problems) == 1
    assert "one and two both hold app payment at 9s" in problems[0]
    apart = replace(storm, faults=(degrade("one", 0.0, 10.0), degrade("two", 10.0, 10.0)))
    assert plan(apart, "local").problems == ()
    elsewhere = replace(storm, faults=(degrade("one", 0.0, 10.0), degrade("two", 5.0, 10.0, "cart")))
    assert plan(elsewhere, "local").problems == ()


def test_the_whole_control_plane_includes_its_parts(storm: Scenario) -> None:
    whole = FaultSpec("all", "control-plane-down", 0.0, 10.0, {"component": "all"}, {})
    expiry = FaultSpec("expiry", "cert-expiry", 5.0, 10.0, {"component": "identity"}, {})
    assert "identity" in plan(replace(storm, faults=(whole, expiry)), "local").problems[0]


def test_a_command_takes_no_faults_and_the_plan_says_what_does(storm: Scenario) -> None:
    services = tuple(replace(s, command=("serve",)) if s.name == "payment" else s for s in storm.app.services)
    scenario = replace(storm, app=replace(storm.app, services=services), faults=(degrade("x", 0.0, 5.0),))
    (problem,) = plan(scenario, "local").problems
    assert "pod-kill" in problem


def test_who_calls_others_from_outside_of_the_mesh_needs_a_cluster(storm: Scenario) -> None:
    services = tuple(replace(s, meshed=s.name != "checkout") for s in storm.app.services)
    scenario = replace(storm, app=replace(storm.app, services=services))
    (problem,) = plan(scenario, "local").problems
    assert problem.startswith("checkout: it is not meshed and calls others")
    assert not plan(scenario, "kind").problems
    leaf = tuple(replace(s, meshed=s.name != "payment") for s in storm.app.services)
    assert not plan(replace(storm, app=replace(storm.app, services=leaf)), "local").problems


def test_an_expiry_drill_that_is_too_short_for_any_leaf_is_warned_of(storm: Scenario) -> None:
    short = FaultSpec("short", "cert-expiry", 0.0, 5.0, {"component": "identity"}, {})
    assert "will not expire" in plan(replace(storm, faults=(short,)), "local").warnings[0]


@pytest.mark.parametrize(
    ("begun_at", "found"),
    [(1_025.4, {}), (1_027.5, {"away": (2.5, False)}), (1_040.0, {"away": (15.0, True)}), (None, {})],
)
def test_a_fault_that_went_in_late_is_told_from_one_that_was_on_time(
    begun_at: float | None, found: dict[str, tuple[float, bool]]
) -> None:
    """Planned for second 25 of an injection at 1,000, for ten seconds."""
    away = FaultSpec("away", "control-plane-down", 25.0, 10.0, {}, {}, 1)
    record = Record("away", "k", "t", "reverted", (), 0.0, begun_at or 0.0, begun_at, None, None)
    records = [record] if begun_at is not None else []
    assert late_faults([away], records, 1_000.0) == found
