"""Rate limits on virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.messages import RateLimitOverride, RateLimitSpec
from mesh.behavior.ratelimit import IDENTITY, OVERRIDE, TOTAL, Bucket, IdentityBuckets, RateLimiter

T0 = 1_000_000.25
"""A machine that has been up for long: floating point is coarse there."""


def passed(bucket: Bucket, times: list[float]) -> list[float]:
    return [now for now in times if bucket.take(now)]


@pytest.mark.parametrize("rate", [1, 3, 7, 10, 1000, 100_000])
def test_a_second_of_requests_passes_at_once_and_not_one_more(rate: int) -> None:
    assert len(passed(Bucket(rate), [T0] * (rate + 5))) == rate


def test_tokens_come_back_one_by_one_and_fill_up_in_a_second() -> None:
    bucket = Bucket(10)
    passed(bucket, [T0] * 10)
    assert not bucket.take(T0 + 0.04)
    assert bucket.take(T0 + 0.11)
    assert not bucket.take(T0 + 0.12)
    assert len(passed(bucket, [T0 + 9.0] * 20)) == 10


def test_a_rate_of_one_means_a_second_between_two_requests() -> None:
    bucket = Bucket(1)
    assert [bucket.take(T0 + after) for after in (0.0, 0.5, 0.99, 1.0, 1.9, 2.0)] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]


@given(
    st.integers(1, 50), st.lists(st.floats(0.0, 0.3, allow_nan=False), min_size=1, max_size=200), st.floats(0.0, 1e6)
)
def test_in_any_window_no_more_passes_than_rate_and_burst_allow(rate: int, gaps: list[float], start: float) -> None:
    times, now = [], start
    for gap in gaps:
        now += gap
        times.append(now)
    through = passed(Bucket(rate), times)
    for first, begin in enumerate(through):
        for last in range(first, len(through)):
            assert last - first + 1 <= rate * (through[last] - begin) + rate + 0.01


@given(st.integers(1, 50), st.lists(st.floats(1.0, 3.0), min_size=1, max_size=50))
def test_a_client_below_the_rate_is_never_refused(rate: int, factors: list[float]) -> None:
    bucket, now = Bucket(rate), T0
    for factor in factors:
        now += factor / rate
        assert bucket.take(now)


# ---- order


SPEC = RateLimitSpec(
    name="l",
    total=6,
    identity=2,
    overrides=(RateLimitOverride(requests_per_second=3, identities=("a", "b")),),
)


def test_total_goes_before_all_others() -> None:
    limiter = RateLimiter(SPEC)
    outcomes = [limiter.refuses(f"client-{i}", T0) for i in range(8)]
    assert outcomes == [None] * 6 + [TOTAL] * 2


def test_clients_of_one_override_share_it_and_have_no_bucket_of_their_own() -> None:
    limiter = RateLimiter(SPEC)
    assert [limiter.refuses(who, T0) for who in "abab"] == [None, None, None, OVERRIDE]


def test_each_identity_has_its_own_bucket() -> None:
    limiter = RateLimiter(SPEC)
    assert [limiter.refuses(who, T0) for who in ("x", "x", "x", "y", "y")] == [None, None, IDENTITY, None, None]


def test_all_unidentified_clients_share_one_bucket() -> None:
    limiter = RateLimiter(SPEC)
    assert [limiter.refuses(None, T0) for _ in range(3)] == [None, None, IDENTITY]


def test_a_refused_request_has_still_spent_its_token_of_the_total() -> None:
    limiter = RateLimiter(SPEC)
    assert [limiter.refuses("x", T0) for _ in range(7)] == [None, None, *[IDENTITY] * 4, TOTAL]


def test_limits_that_are_not_given_do_not_limit() -> None:
    limiter = RateLimiter(RateLimitSpec(name="l", overrides=SPEC.overrides))
    assert all(limiter.refuses(who, T0) is None for who in ["x", None] * 1000)


# ---- memory


def test_buckets_are_bounded_and_further_identities_share_one() -> None:
    buckets = IdentityBuckets(2, limit=10)
    assert all(buckets.take(f"client-{i}", T0) for i in range(10))
    assert [buckets.take(f"late-{i}", T0) for i in range(3)] == [True, True, False]
    assert buckets.take(None, T0)
    for second in range(5):
        for i in range(1000):
            buckets.take(f"other-{second}-{i}", T0 + second)
    assert len(buckets) <= 24


def test_a_bucket_spent_at_the_end_of_a_period_is_not_full_in_the_next() -> None:
    buckets = IdentityBuckets(2)
    assert buckets.take("first", T0)
    assert [buckets.take("x", T0 + 0.9) for _ in range(3)] == [True, True, False]
    assert not buckets.take("x", T0 + 1.1)
    assert buckets.take("x", T0 + 1.5)


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 1.3)), min_size=1, max_size=120),
)
def test_forgetting_buckets_changes_no_decision(rate: int, asked: list[tuple[str, float]]) -> None:
    buckets, separate, now = IdentityBuckets(rate), {who: Bucket(rate) for who in "abc"}, T0
    for who, gap in asked:
        now += gap
        assert buckets.take(who, now) == separate[who].take(now)
