"""What is on paper, and where it is not asked."""

from __future__ import annotations

import random

import pytest

from scenarios.load import load_scenario
from sim.scoring.closed_form import formulas, tries, tries_within_budget


def test_tries_are_the_geometric_sum() -> None:
    generator = random.Random(1)

    def play(p: float, retries: int) -> int:
        for attempt in range(retries + 1):
            if generator.random() >= p:
                return attempt + 1
        return retries + 1

    for p, retries in ((0.5, 3), (0.2, 1), (0.9, 5)):
        assert tries(p, retries) == pytest.approx(sum(play(p, retries) for _ in range(40_000)) / 40_000, rel=0.02)
    assert tries(1.0, 3) == 4.0


def test_a_budget_is_a_ceiling_only_where_failures_ask_for_more() -> None:
    assert tries_within_budget(0.1, 0.2, 0.0) == pytest.approx(1.0 / 0.9)
    assert tries_within_budget(0.5, 0.2, 0.0) == pytest.approx(1.0 + 0.1 / 0.9)
    assert tries_within_budget(1.0, 0.2, 0.3) == pytest.approx(1.3)


def test_the_formula_of_a_failing_app_covers_the_part_of_the_window_with_the_fault() -> None:
    overrides = ("load.rate=40/s", "phases.inject=20s", "faults.payment-degraded.duration=10s",
                 "faults.payment-degraded.parameters={errorRate: 50%, status: 503}")  # fmt: skip
    found = formulas(load_scenario("retry-storm", overrides=overrides))
    assert found["attempts_per_request", "payment", "inject"].value == pytest.approx(1.0 + 0.5 * 0.875)
    assert found["success_rate", "checkout-success", "inject"].value == pytest.approx(1.0 - 0.5 * 0.5**4)
    assert ("success_rate", "browse-success", "inject") not in found


@pytest.mark.parametrize(
    "overrides",
    [
        (),  # the storm: payment overflows, and its refusals are no failures of its own
        ("faults.payment-degraded.parameters={freeze: true}",),
        ("faults.payment-degraded.target.replicas=1", "load.rate=10/s"),
    ],
)
def test_outside_of_its_domain_a_formula_is_not_asked(overrides: tuple[str, ...]) -> None:
    assert formulas(load_scenario("retry-storm", overrides=overrides)) == {}


def test_a_budget_is_asked_of_faults_that_outlast_its_memory() -> None:
    long = ("faults.payment-degraded.parameters={errorRate: 50%, status: 503}",)
    found = formulas(load_scenario("retry-storm", variant="budget", overrides=long))
    kept, reserve = 0.2 * 0.5, 2 * 1 / 15.0  # two pods of checkout, fifteen checkouts a second
    expected = 1.0 + (kept + reserve) / (1.0 - kept)
    assert found["attempts_per_request", "payment", "inject"].value == pytest.approx(expected)
    assert found["success_rate", "checkout-success", "inject"].value == pytest.approx(0.5 * expected)
    short = (*long, "faults.payment-degraded.duration=20s")
    assert formulas(load_scenario("retry-storm", variant="budget", overrides=short)) == {}


def test_what_is_restarted_without_identity_is_lost_until_it_is_back() -> None:
    found = formulas(load_scenario("cert-expiry"))
    assert {key: formula.value for key, formula in found.items()} == {
        ("success_rate", "cart-success", "inject"): pytest.approx(25.0 / 55.0)
    }
    before = ("faults.identity-away.at=26s", "faults.identity-away.duration=20s")
    assert formulas(load_scenario("cert-expiry", overrides=before)) == {}


@pytest.mark.parametrize(
    ("variant", "overrides", "expected"),
    [
        (None, (), 1.0 - 14 / 16 * 0.5),
        ("all", (), 1.0 - 14 / 16),
        (
            None,
            ("serviceAnnotations.catalog={retry.linkerd.io/http: 5xx, retry.linkerd.io/limit: 2}",),
            1.0 - 14 / 16 * 0.5**3,
        ),
    ],
)
def test_what_a_route_sends_to_nobody_fails_unless_a_retry_goes_elsewhere(
    variant: str | None, overrides: tuple[str, ...], expected: float
) -> None:
    found = formulas(load_scenario("misroute", variant=variant, overrides=overrides))
    assert found["success_rate", "browse-success", "inject"].value == pytest.approx(expected)
    assert ("success_rate", "cart-success", "inject") not in found


def test_another_services_answers_are_not_on_paper() -> None:
    assert formulas(load_scenario("misroute", variant="wrong-backend")) == {}


def test_an_answer_that_is_not_retried_is_tried_once() -> None:
    overrides = (
        "load.rate=40/s",
        "faults.payment-degraded.parameters={errorRate: 50%, status: 500}",
        "serviceAnnotations.payment={retry.linkerd.io/http: gateway-error, retry.linkerd.io/limit: 3}",
    )
    found = formulas(load_scenario("retry-storm", overrides=overrides))
    assert found["attempts_per_request", "payment", "inject"].value == 1.0


def test_faults_without_a_formula_have_none() -> None:
    assert formulas(load_scenario("pod-kill")) == {}
    assert formulas(load_scenario("calm")) == {}
