"""What the twin was asked can be written down: overrides and files that read back as the very setup it played."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.load import load_scenario
from scenarios.model import Scenario
from sim.explain.search import _exclusive, _in_order
from sim.knobs.changes import NO_FIELD, knobs
from sim.knobs.configuration import Configuration, read_configuration
from sim.knobs.knob import Knob
from sim.knobs.written import CannotWrite, manifests, write
from sim.model.setup import Setup

CASES = [("retry-storm", None), ("retry-storm", "budget"), ("cert-expiry", None), ("control-plane-outage", None),
         ("pod-kill", None), ("identity-outage", None), ("metastable", None)]  # fmt: skip


@cache
def read(case: tuple[str, str | None]) -> tuple[Scenario, Configuration, list[Knob]]:
    scenario = load_scenario(case[0], variant=case[1])
    configuration = read_configuration(scenario)
    return scenario, configuration, knobs(configuration)


def comparable(setup: Setup) -> Setup:
    """Without where things were read from."""
    faults = tuple(replace(fault, line=0) for fault in setup.faults)
    return replace(setup, app=replace(setup.app, source=Path()), faults=faults)


def written_and_read(scenario: Scenario, changed: Configuration, original: Configuration) -> Setup:
    written = write(changed, original)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in written.files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        again = load_scenario(scenario.source, variant=scenario.variant, overrides=written.at(folder))
        return read_configuration(again).setup()


@pytest.mark.parametrize("case", CASES)
def test_every_knob_reads_back_as_it_was_played(case: tuple[str, str | None]) -> None:
    scenario, original, turnable = read(case)
    assert turnable
    for knob in turnable:
        if knob.unverifiable is not None:
            assert knob.unverifiable == NO_FIELD
            continue
        value = knob.ladders[0][-1] if knob.ladders[0] else knob.ladders[-1][-1]
        changed = knob.turn(original, value)
        assert comparable(changed.setup()) != comparable(original.setup()), knob.say(value)
        assert comparable(written_and_read(scenario, changed, original)) == comparable(changed.setup()), knob.say(value)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_pair_of_settings_reads_back(data: st.DataObject) -> None:
    scenario, original, turnable = read(data.draw(st.sampled_from(CASES)))
    able = [knob for knob in turnable if knob.unverifiable is None]
    rungs = [(knob, value) for knob in able for ladder in knob.ladders for value in ladder]
    one = data.draw(st.sampled_from(rungs))
    other = data.draw(st.sampled_from(rungs))
    changed = original
    for knob, value in (one,) if _exclusive(one[0], other[0]) else _in_order(one, other):
        nearer = knob.between(knob.today, value)
        changed = knob.turn(changed, nearer if nearer is not None and data.draw(st.booleans()) else value)
    assert comparable(written_and_read(scenario, changed, original)) == comparable(changed.setup())


def test_manifests_read_back(tmp_path: Path) -> None:
    """The catalogue's own, whatever their kinds."""
    paths = [p for p in Path("scenarios").glob("*/*.yaml") if p.name != "scenario.yaml" and p.parent.name != "apps"]
    from mesh.control.registry.manifests import load_manifests

    assert paths
    for path in paths:
        resources = load_manifests([path])
        copy = tmp_path / path.name
        copy.write_text(manifests(tuple(resources)), encoding="utf-8")
        assert load_manifests([copy]) == resources, path


def test_what_no_scenario_says_cannot_be_written() -> None:
    _, original, turnable = read(("control-plane-outage", None))
    (idle,) = (knob for knob in turnable if knob.name == "discovery idle time")
    with pytest.raises(CannotWrite, match="no scenario field"):
        write(idle.turn(original, 60.0), original)


def test_programs_that_are_not_ours_are_left_alone() -> None:
    scenario, original, _ = read(("retry-storm", None))
    services = tuple(replace(s, command=("payment-server",)) for s in scenario.app.services)
    foreign = replace(original, scenario=replace(scenario, app=replace(scenario.app, services=services)))
    replicas = next(knob for knob in knobs(foreign) if knob.name == "replicas")
    assert replicas.unverifiable is not None
    assert "programs of its own" in replicas.unverifiable
    with pytest.raises(CannotWrite, match="programs of its own"):
        write(replicas.turn(foreign, 3.0), foreign)


def test_a_budget_in_place_of_a_limit_takes_the_annotations_away() -> None:
    _, original, turnable = read(("retry-storm", None))
    budget = next(knob for knob in turnable if knob.name == "retry budget")
    rules = budget.turn(original, 0.2).setup().rules["payment.payment.svc.cluster.local:8080"]
    assert rules.profile.exists
    assert rules.profile.retry_budget is not None
    assert rules.profile.retry_budget.retry_ratio == 0.2
    assert all(route.is_retryable for route in rules.profile.routes)
    assert all(route.retry is None for route in rules.policy.routes)
