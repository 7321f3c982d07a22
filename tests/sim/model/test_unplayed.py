"""What policies ask for and the twin leaves out is said, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from sim_builders import application, rules_of, service, setup_of

from mesh.api.messages import (
    BackendSpec,
    DstOverride,
    FailureAccrualSpec,
    FailureSpec,
    FiltersSpec,
    HttpRouteSpec,
    TimeoutSpec,
    ValueMatch,
)
from scenarios.catalogue import names
from scenarios.load import load_scenario
from sim.model.setup import Setup, read_setup, unplayed

BACK = service("back")
ROUTES = {
    "headers": (HttpRouteSpec(name="r", headers=(ValueMatch(name="x-canary", value="1"),)), "conditions on headers"),
    "share": (HttpRouteSpec(name="r", backends=(BackendSpec(authority="v2.test:80"),)), None),
    "itself": (HttpRouteSpec(name="r", backends=(BackendSpec(authority=BACK.authority),)), None),
    "unused": (HttpRouteSpec(name="r", backends=(BackendSpec(authority="v2.test:80", weight=0),)), None),
    "idle": (HttpRouteSpec(name="r", timeouts=TimeoutSpec(idle_seconds=2.0)), "an idle timeout"),
    "filters": (HttpRouteSpec(name="r", filters=FiltersSpec(failure=FailureSpec(status=503))), "filters"),
}


def setup_with(route: HttpRouteSpec) -> Setup:
    rules = rules_of(BACK)
    policy = msgspec.structs.replace(rules.policy, routes=(route,))
    return setup_of(application(BACK), rules={BACK.authority: replace(rules, policy=policy)})


@pytest.mark.parametrize("case", ROUTES)
def test_what_a_route_asks_for_beyond_method_and_path_is_said(case: str) -> None:
    route, said = ROUTES[case]
    found = unplayed(setup_with(route))
    assert len(found) == (said is not None)
    assert all(line.startswith("back: ") and str(said) in line for line in found)


def test_a_profile_puts_the_routes_of_a_policy_out_of_force() -> None:
    """And its own share that goes elsewhere is played."""
    setup = setup_with(ROUTES["filters"][0])
    away = {"dst_overrides": (DstOverride(authority="v2.test:80", weight=100),)}
    for profile in ({}, away):
        rules = replace(setup.rules[BACK.authority], profile=rules_of(BACK, profile=profile).profile)
        assert not unplayed(replace(setup, rules={BACK.authority: rules}))


@pytest.mark.parametrize("name", names())
def test_the_shipped_scenarios_are_played_whole(name: str) -> None:
    assert unplayed(read_setup(load_scenario(name))) == []


def test_manifests_of_kinds_that_the_twin_leaves_out_are_named(tmp_path: Path) -> None:
    manifest = tmp_path / "policies.yaml"
    manifest.write_text(
        "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: all, namespace: payment}\n"
        "spec: {podSelector: {matchLabels: {app: payment}}, port: http}\n---\n"
        "apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\n"
        "metadata: {name: only, namespace: payment}\n"
        "spec: {targetRef: {group: policy.linkerd.io, kind: Server, name: all}, requiredAuthenticationRefs: []}\n"
    )
    scenario = replace(load_scenario("retry-storm"), resources=(manifest,))
    said = unplayed(read_setup(scenario))
    assert [line.partition(":")[0] for line in said] == ["Server payment/all", "AuthorizationPolicy payment/only"]


def test_calls_from_outside_of_the_mesh_are_said_to_be_played_as_if_they_were_in_it() -> None:
    front = service("front", calls=("back",), meshed=False)
    assert "front: it is not meshed" in unplayed(setup_of(application(front, BACK)))[0]
    assert unplayed(setup_of(application(service("front", calls=("back",)), service("back", meshed=False)))) == []


def test_a_retry_after_that_would_be_honoured_is_said_not_to_come() -> None:
    setup = setup_of(application(BACK))
    for accrual, lines in ((FailureAccrualSpec(), 0), (FailureAccrualSpec(honor_retry_after=True), 1)):
        rules = rules_of(BACK, failure_accrual=accrual)
        assert len(unplayed(replace(setup, rules={BACK.authority: rules}))) == lines
