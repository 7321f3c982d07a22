"""SLO arithmetic: properties that hold for any stream of requests, and the alert table."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.slo import (
    MONTH_RULES,
    MONTH_SECONDS,
    BurnMeter,
    BurnRule,
    Counts,
    budget_spent,
    burn_rate,
    compress,
    held,
    meter_of,
    month_equivalent,
)

objectives = st.floats(0.5, 0.9999)
seconds = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda t: (min(t), max(t))), max_size=60)


def filled(objective: float, counts: list[tuple[int, int]]) -> BurnMeter:
    meter = BurnMeter(objective, 0)
    for second, (good, total) in enumerate(counts):
        meter.push(second, good, total)
    return meter


@given(objectives, st.integers(0, 10_000), st.integers(1, 10_000))
def test_the_budget_is_spent_exactly_when_the_objective_is_no_longer_held(
    objective: float, bad: int, good: int
) -> None:
    counts = Counts(good, good + bad)
    spent = budget_spent(counts, objective)
    assert spent is not None
    if abs(spent - 1.0) > 1e-6:
        assert held(counts, objective) == (spent < 1.0)


@given(objectives, seconds)
def test_the_mean_burn_rate_over_a_window_is_the_share_of_its_budget_spent(
    objective: float, counts: list[tuple[int, int]]
) -> None:
    meter = filled(objective, counts)
    whole = meter.counts(0, len(counts))
    assert meter.burn(len(counts), len(counts)) == pytest.approx(burn_rate(whole, objective))
    spent = budget_spent(whole, objective)
    assert spent is None or spent == pytest.approx(burn_rate(whole, objective))


@given(objectives, seconds, st.randoms(use_true_random=False))
def test_counts_may_arrive_in_any_order(objective: float, counts: list[tuple[int, int]], random: object) -> None:
    single = [(s, 1 if i < good else 0) for s, (good, total) in enumerate(counts) for i in range(total)]
    random.shuffle(single)  # type: ignore[attr-defined]
    meter = BurnMeter(objective, 0)
    for second, good in single:
        meter.push(second, good, 1)
    for at in range(len(counts) + 1):
        assert meter.burn(at, 5) == pytest.approx(filled(objective, counts).burn(at, 5))


@given(objectives, seconds)
def test_budget_spent_over_time_rises_to_the_windows_total(objective: float, counts: list[tuple[int, int]]) -> None:
    meter = filled(objective, counts)
    curve = [value for _, value in meter.spent(0, len(counts))]
    assert curve == sorted(curve)
    if curve:
        assert curve[-1] == pytest.approx(budget_spent(meter.counts(0, len(counts)), objective))


@given(st.floats(10.0, MONTH_SECONDS))
def test_compressed_rules_keep_their_factors_and_never_go_below_the_resolution(period: float) -> None:
    for rule, month in zip(compress(MONTH_RULES, period), MONTH_RULES, strict=True):
        assert rule.factor == month.factor
        assert rule.long >= 5.0
        assert rule.short >= 1.0
        assert rule.budget_share(period) >= month.budget_share(MONTH_SECONDS) - 1e-9


def test_the_month_rules_let_the_workbooks_share_of_the_budget_pass() -> None:
    assert [round(rule.budget_share(MONTH_SECONDS), 3) for rule in MONTH_RULES] == [0.02, 0.05, 0.1, 0.1]


def test_a_total_outage_pages_as_soon_as_the_long_window_has_burnt_enough() -> None:
    meter = filled(0.99, [(10, 10)] * 20 + [(0, 10)] * 20)
    page = BurnRule("1h/5m", "page", 5.0, 1.0, 14.4)
    # 14.4 % of 50 requests in five seconds are 7.2: the first bad second has ten.
    assert meter.first_firing(page, 0, 40) == 21.0


def test_a_rule_needs_both_windows() -> None:
    recovered = filled(0.99, [(10, 10)] * 20 + [(0, 10)] * 3 + [(10, 10)] * 5)
    page = BurnRule("1h/5m", "page", 5.0, 1.0, 14.4)
    assert recovered.burn(25, 5.0) > 14.4
    assert not recovered.fires(page, 25)


def test_a_healthy_past_delays_the_uncompressed_rule() -> None:
    outcomes = [(second + i / 10, False) for second in range(60) for i in range(10)]
    meter = meter_of(outcomes, 0.999, 0, Counts(300, 300), over=30.0)
    page = MONTH_RULES[0]
    # 14.4 × 0.1 % of an hour is 51.84 s of total outage.
    assert meter.first_firing(page, 0, 60) == 52.0


def test_the_abort_rule_needs_the_burn_for_its_whole_time() -> None:
    meter = filled(0.99, [(10, 10)] * 10 + [(0, 10)] * 12)
    assert not meter.sustained(16, burn=20.0, seconds=5.0)
    assert meter.sustained(22, burn=20.0, seconds=5.0)


def test_the_peak_is_found_where_it_is() -> None:
    meter = filled(0.9, [(10, 10)] * 10 + [(0, 10)] * 5 + [(10, 10)] * 10)
    assert meter.peak(0, 25, window=5.0) == (pytest.approx(10.0), 15.0)


def test_without_requests_nothing_is_held_and_nothing_lost() -> None:
    assert held(Counts(), 0.99) is None
    assert budget_spent(Counts(), 0.99) is None
    assert BurnMeter(0.99, 0).burn(10, 5) == 0.0
    assert BurnMeter(0.99, 0).peak(0, 10) is None


def test_an_objective_of_one_has_no_budget() -> None:
    assert burn_rate(Counts(9, 10), 1.0) == math.inf
    assert held(Counts(10, 10), 1.0) is True


def test_a_second_before_the_origin_is_refused() -> None:
    with pytest.raises(ValueError, match="before the origin"):
        BurnMeter(0.99, 100).push(99, 1, 1)


def test_a_drill_is_a_small_part_of_a_month() -> None:
    assert month_equivalent(20.0, 75.0) == pytest.approx(20.0 * 75.0 / (30 * 86_400))
