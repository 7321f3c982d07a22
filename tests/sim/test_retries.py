"""Retries in the twin: amplification by limit, ceiling by budget, trips of the breaker."""

from __future__ import annotations

import pytest
from sim_builders import application, parameters_of, played, rules_of, service, setup_of

from mesh.api.messages import FailureAccrualSpec, ProfileRoute, RetryBudgetSpec, RetrySpec
from scenarios.model import LoadSpec, ServiceTime
from sim.model.record import Record
from sim.setup import Setup

FIVE = ((500, 599),)


def two_tiers(failure_rate: float, rate: float = 40.0, **rules: object) -> Setup:
    front, back = service("front", calls=("back",)), service("back", failure_rate=failure_rate)
    app = application(front, back)
    return setup_of(
        app,
        load=LoadSpec(rate, {"all": 1.0}, 10**6, 60.0),
        inject_seconds=60.0,
        rules={front.authority: rules_of(front), back.authority: rules_of(back, **rules)},  # type: ignore[arg-type]
    )


def amplification(record: Record, service: str) -> float:
    return sum(record.reached[service].values()) / sum(record.meant[service].values())


@pytest.mark.parametrize(("limit", "p"), [(0, 0.5), (1, 0.5), (3, 0.5), (3, 0.2)])
def test_a_limit_of_r_amplifies_by_the_geometric_sum(limit: int, p: float) -> None:
    retry = RetrySpec(statuses=FIVE, limit=limit) if limit else None
    record = played(two_tiers(p, retry=retry))
    assert amplification(record, "back") == pytest.approx((1 - p ** (limit + 1)) / (1 - p), rel=0.05)
    failed = sum(1 for status in record.status if status >= 500) / len(record.status)
    assert failed == pytest.approx(p ** (limit + 1), abs=0.03)


def test_a_budget_is_a_ceiling() -> None:
    """With every response failing, nothing is deposited, and only the reserve of one a second is left."""
    profile = {
        "routes": (ProfileRoute(name="all", is_retryable=True),),
        "retry_budget": RetryBudgetSpec(retry_ratio=0.2, min_retries_per_second=1, ttl_seconds=10.0),
    }
    record = played(two_tiers(1.0, profile=profile))
    assert 1.0 < amplification(record, "back") <= 1 + 1.0 / 40.0 + 0.01
    partial = played(two_tiers(0.5, profile=profile))
    assert 1.1 < amplification(partial, "back") < 1.32


def test_a_breaker_trips_and_sheds_the_load() -> None:
    """All endpoints open: requests wait for the gate, then are shed; hardly any reaches the broken service."""
    closed = played(two_tiers(1.0))
    open_ = played(two_tiers(1.0, failure_accrual=FailureAccrualSpec(max_failures=5)))
    reached = sum(open_.reached["back"].values())
    assert amplification(closed, "back") == pytest.approx(1.0, abs=0.01)
    assert 5 <= reached < 0.02 * sum(closed.reached["back"].values())


def test_work_goes_on_when_its_caller_has_given_up() -> None:
    """A per-try timeout multiplies load at a slow service instead of relieving it."""
    front = service("front", calls=("back",))
    back = service("back", time=ServiceTime(0.3, 0.0, "constant"))
    app = application(front, back)
    retry = RetrySpec(statuses=FIVE, limit=2, timeout_seconds=0.1)
    rules = {front.authority: rules_of(front), back.authority: rules_of(back, retry=retry)}
    record = played(setup_of(app, rules=rules), parameters_of(20.0))
    assert amplification(record, "back") == pytest.approx(3.0, rel=0.05)
    assert set(record.status) == {200}  # the last try has no such limit
