"""What few days tell: causes with wide intervals, and changes that hold only where all SLOs hold on the same day."""

from __future__ import annotations

import pytest

from sim.explain.causes import Mechanism, cause_of
from sim.explain.counterfactual import all_held
from sim.explain.student import NORMAL, t90
from sim.explain.trial import Day
from sim.replication.quantities import Key


def day(number: int, spent: float) -> Day:
    return Day(number, {"checkout": spent}, None, {}, {})


def test_two_days_do_not_make_a_cause_of_noise() -> None:
    retries = Mechanism("retries", "mechanism", lambda task: task)
    found = cause_of(retries, "checkout", [day(0, 2.0), day(1, 3.0)], [day(0, 1.0), day(1, 2.1)])
    assert found.share == pytest.approx(0.38)
    assert (found.low, found.high) == pytest.approx((-0.23, 0.99), abs=0.01)


def test_the_more_days_the_narrower() -> None:
    widths = [t90(freedom) for freedom in range(1, 25)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == NORMAL


def test_slos_that_fail_on_different_days_hold_together_on_fewer() -> None:
    days: list[dict[Key, float]] = [
        {
            ("budget_spent", "a", "all"): 2.0 if number < 2 else 0.5,
            ("budget_spent", "b", "all"): 2.0 if 2 <= number < 4 else 0.5,
            ("budget_spent", "b", "inject"): 9.0,  # not the budget of the whole
        }
        for number in range(20)
    ]
    assert all_held(days) == pytest.approx(0.8)
