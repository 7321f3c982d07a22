from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chaos.guard import AbortGuard
from scenarios.model import AbortRule

RULE = AbortRule("slo", burn_rate=10.0, for_seconds=5.0)
OBJECTIVE = 0.99


def test_it_trips_once_the_burn_has_lasted_long_enough() -> None:
    guard = AbortGuard([RULE])
    for second in range(5):
        guard.observe(float(second), "slo", 0, 10, OBJECTIVE)
        assert guard.tripped is None
    guard.observe(5.0, "slo", 0, 10, OBJECTIVE)
    assert guard.tripped is not None
    assert "100x" in guard.tripped
    assert "5 s" in guard.tripped


def test_a_good_moment_starts_the_count_anew() -> None:
    guard = AbortGuard([RULE])
    for second in range(20):
        guard.observe(float(second), "slo", 10, 0 if second % 4 == 3 else 10, OBJECTIVE)
    assert guard.tripped is None


def test_silence_is_neither_good_nor_bad() -> None:
    guard = AbortGuard([RULE])
    guard.observe(0.0, "slo", 0, 10, OBJECTIVE)
    guard.observe(4.0, "slo", 0, 0, OBJECTIVE)
    assert guard.tripped is None
    guard.observe(6.0, "slo", 0, 10, OBJECTIVE)
    assert guard.tripped is not None


def test_an_slo_without_a_rule_never_trips() -> None:
    guard = AbortGuard([RULE])
    for second in range(60):
        guard.observe(float(second), "other", 0, 10, OBJECTIVE)
    assert guard.tripped is None


def test_a_fast_and_a_slow_rule_on_the_same_slo_both_count() -> None:
    guard = AbortGuard([RULE, AbortRule("slo", burn_rate=2.0, for_seconds=30.0)])
    for second in range(31):
        guard.observe(float(second), "slo", 97, 3, OBJECTIVE)
    assert guard.tripped is not None
    assert "2x for 30 s" in guard.tripped


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=40))
def test_it_trips_exactly_when_a_stretch_of_bad_seconds_is_long_enough(counts: list[tuple[int, int]]) -> None:
    guard = AbortGuard([RULE])
    since: int | None = None
    expected = False
    for second, (good, bad) in enumerate(counts):
        guard.observe(float(second), "slo", good, bad, OBJECTIVE)
        if good + bad:
            if bad / (good + bad) / (1.0 - OBJECTIVE) >= RULE.burn_rate:
                since = second if since is None else since
                expected = expected or second - since >= RULE.for_seconds
            else:
                since = None
        assert (guard.tripped is not None) == expected
