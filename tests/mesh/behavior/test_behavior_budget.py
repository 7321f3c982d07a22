"""Retry budgets: a ceiling that holds, a reserve that quiet clients have, tokens that expire."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.api.messages import RetryBudgetSpec
from mesh.behavior.budget import RetryBudget


def spec(ratio: float = 0.2, minimum: int = 10, ttl: float = 10.0) -> RetryBudgetSpec:
    return RetryBudgetSpec(retry_ratio=ratio, min_retries_per_second=minimum, ttl_seconds=ttl)


def spend(budget: RetryBudget, now: float) -> int:
    count = 0
    while budget.withdraw(now):
        count += 1
    return count


def test_reserve_alone_pays_minimum_per_second_times_ttl() -> None:
    assert spend(RetryBudget(spec(minimum=10, ttl=10.0), 0.0), 0.0) == 100


def test_without_reserve_a_retry_costs_five_deposits_at_ratio_one_fifth() -> None:
    budget = RetryBudget(spec(minimum=0), 0.0)
    for _ in range(4):
        budget.deposit(0.0)
    assert not budget.withdraw(0.0)
    budget.deposit(0.0)
    assert budget.withdraw(0.0)
    assert not budget.withdraw(0.0)


def test_deposits_expire_after_ttl() -> None:
    budget = RetryBudget(spec(minimum=0, ttl=10.0), 0.0)
    for _ in range(50):
        budget.deposit(0.0)
    assert spend(budget, 8.9) == 10
    for _ in range(50):
        budget.deposit(9.0)
    assert spend(budget, 25.0) == 0


def test_withdrawals_expire_too_so_the_reserve_comes_back() -> None:
    budget = RetryBudget(spec(minimum=1, ttl=10.0), 0.0)
    assert spend(budget, 0.0) == 10
    assert spend(budget, 5.0) == 0
    assert spend(budget, 11.0) == 10


def test_ratio_zero_leaves_only_the_reserve() -> None:
    budget = RetryBudget(spec(ratio=0.0, minimum=1, ttl=1.0), 0.0)
    for _ in range(1000):
        budget.deposit(0.0)
    assert spend(budget, 0.0) == 1


def test_ratio_above_one_allows_more_retries_than_requests() -> None:
    budget = RetryBudget(spec(ratio=2.0, minimum=0), 0.0)
    budget.deposit(0.0)
    assert spend(budget, 0.0) == 2


@given(
    ratio=st.floats(0.01, 1.0),
    minimum=st.integers(0, 20),
    ttl=st.floats(1.0, 60.0),
    steps=st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), max_size=300),
)
def test_retries_never_exceed_reserve_and_ratio_of_deposits_in_any_window(
    ratio: float, minimum: int, ttl: float, steps: list[tuple[float, bool]]
) -> None:
    budget = RetryBudget(spec(ratio, minimum, ttl), 0.0)
    now = 0.0
    deposits: list[float] = []
    retries: list[float] = []
    for gap, deposit in steps:
        now += gap
        if deposit:
            budget.deposit(now)
            deposits.append(now)
        elif budget.withdraw(now):
            retries.append(now)
        # Slots are a tenth of a ttl wide, so a window nine tenths of it long is certainly remembered whole, and
        # deposits older than a ttl are certainly forgotten.
        recent = sum(at > now - 0.9 * ttl for at in retries)
        earned = sum(at >= now - 1.9 * ttl for at in deposits)
        assert recent <= int(minimum * ttl) + earned / int(1 / ratio)


@given(steps=st.lists(st.tuples(st.floats(0.0, 30.0), st.booleans()), max_size=100))
def test_balance_never_falls_below_zero_right_after_a_withdrawal(steps: list[tuple[float, bool]]) -> None:
    budget = RetryBudget(spec(minimum=1, ttl=5.0), 0.0)
    now = 0.0
    for gap, deposit in steps:
        now += gap
        if deposit:
            budget.deposit(now)
        elif budget.withdraw(now):
            assert budget.balance >= 0
