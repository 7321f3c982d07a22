"""EWMA, backoff, accrual, cache, renewal: the small machines."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.messages import FailureAccrualSpec
from mesh.behavior.accrual import FailureAccrual, State
from mesh.behavior.backoff import Backoff
from mesh.behavior.cache import DiscoveryCache
from mesh.behavior.ewma import DECAY_SECONDS, PeakEwma
from mesh.behavior.renewal import next_attempt_delay

RNG = Random(0)

# ---- peak EWMA


def test_a_peak_is_believed_at_once() -> None:
    load = PeakEwma(0.0)
    load.observe(1.0, 2.0)
    assert load.cost(1.0) == pytest.approx(2.0)


def test_good_news_is_believed_slowly() -> None:
    load = PeakEwma(0.0)
    load.observe(0.0, 1.0)
    load.observe(1.0, 0.0)
    assert load.cost(1.0) == pytest.approx(math.exp(-1.0 / DECAY_SECONDS))


def test_an_idle_endpoint_becomes_attractive_again() -> None:
    load = PeakEwma(0.0)
    load.observe(0.0, 1.0)
    assert load.cost(10.0) == pytest.approx(math.exp(-1.0))


def test_cost_counts_requests_in_flight() -> None:
    load = PeakEwma(0.0, default_rtt=0.03)
    load.pending = 2
    assert load.cost(0.0) == pytest.approx(0.09)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 10.0)), min_size=1, max_size=50))
def test_estimate_stays_between_zero_and_the_worst_seen(samples: list[tuple[float, float]]) -> None:
    load = PeakEwma(0.0)
    now, worst = 0.0, 0.03
    for gap, rtt in samples:
        now += gap
        worst = max(worst, rtt)
        load.observe(now, rtt)
        assert rtt <= load.cost(now) * 1.000001 + 1e-12 or load.cost(now) <= worst
        assert 0.0 <= load.cost(now) <= worst * 1.000001


# ---- backoff


@given(st.floats(0.01, 1.0), st.floats(1.0, 60.0), st.floats(0.0, 1.0), st.integers(0, 1000))
def test_backoff_doubles_within_its_bounds(minimum: float, maximum: float, jitter: float, seed: int) -> None:
    backoff, rng = Backoff(minimum, maximum, jitter), Random(seed)
    for step in range(12):
        base = min(maximum, minimum * 2**step)
        assert base <= backoff.next(rng) <= min(maximum, base * (1 + jitter)) + 1e-9
    backoff.reset()
    assert backoff.next(rng) <= minimum * (1 + jitter) + 1e-9


def test_backoff_survives_thousands_of_steps() -> None:
    backoff = Backoff(0.1, 60.0, 0.1)
    for _ in range(5000):
        delay = backoff.next(RNG)
    assert delay == 60.0


# ---- failure accrual


def breaker(max_failures: int = 3, jitter: float = 0.0) -> FailureAccrual:
    return FailureAccrual(FailureAccrualSpec(max_failures=max_failures, jitter_ratio=jitter))


def trip(machine: FailureAccrual, now: float, times: int = 3) -> None:
    for _ in range(times):
        machine.observe(now, True, RNG)


def test_trips_after_consecutive_failures_only() -> None:
    machine = breaker()
    trip(machine, 0.0, 2)
    machine.observe(0.0, False, RNG)
    trip(machine, 0.0, 2)
    assert machine.admits(0.0)
    machine.observe(0.0, True, RNG)
    assert machine.state is State.OPEN
    assert not machine.admits(0.5)


def test_probation_admits_exactly_one_request() -> None:
    machine = breaker()
    trip(machine, 0.0)
    assert machine.admits(1.0)
    machine.started()
    assert machine.state is State.PROBATION
    assert not machine.admits(1.0)


def test_success_in_probation_closes_and_resets_the_penalty() -> None:
    machine = breaker()
    trip(machine, 0.0)
    assert machine.admits(1.0)
    machine.started()
    machine.observe(1.1, False, RNG)
    assert machine.state is State.CLOSED
    trip(machine, 2.0)
    assert machine.open_until == pytest.approx(3.0)


def test_each_failed_probation_doubles_the_penalty_up_to_its_maximum() -> None:
    machine = breaker()
    trip(machine, 0.0)
    now, penalties = 0.0, []
    for _ in range(8):
        now = machine.open_until
        assert machine.admits(now)
        machine.started()
        machine.observe(now, True, RNG)
        penalties.append(machine.open_until - now)
    assert penalties == pytest.approx([2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0])


def test_an_abandoned_probe_lets_another_one_go() -> None:
    machine = breaker()
    trip(machine, 0.0)
    assert machine.admits(1.0)
    machine.started()
    machine.abandoned()
    assert machine.admits(1.0)


@pytest.mark.parametrize("failed", [True, False])
def test_stragglers_do_not_move_an_open_breaker(failed: bool) -> None:
    machine = breaker()
    trip(machine, 0.0)
    until = machine.open_until
    machine.observe(0.1, failed, RNG)
    assert machine.state is State.OPEN
    assert machine.open_until == until


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0.0, 2.0), st.booleans()), max_size=200),
)
def test_open_lasts_at_least_the_minimum_penalty(max_failures: int, ends: list[tuple[float, bool]]) -> None:
    machine = breaker(max_failures, jitter=0.5)
    rng = Random(1)
    now = 0.0
    opened_at: float | None = None
    for gap, failed in ends:
        now += gap
        if machine.admits(now):
            if opened_at is not None:
                assert now - opened_at >= 1.0
                opened_at = None
            machine.started()
            machine.observe(now, failed, rng)
            if machine.state is State.OPEN:
                opened_at = now
        else:
            assert machine.state is State.OPEN


# ---- discovery cache


def cache(idle: float = 5.0) -> tuple[DiscoveryCache[str], list[str]]:
    evicted: list[str] = []
    return DiscoveryCache(idle, lambda key, value: evicted.append(key)), evicted


def test_an_entry_idles_out_after_its_last_use() -> None:
    entries, evicted = cache()
    entries.put("a", "A", 0.0)
    assert entries.expire(4.9) == pytest.approx(5.0)
    assert entries.expire(5.0) is None
    assert evicted == ["a"]
    assert entries.get("a") is None


def test_a_held_entry_stays_and_its_idle_time_starts_at_the_release() -> None:
    entries, evicted = cache()
    entries.put("a", "A", 0.0)
    entries.hold("a", 1.0)
    entries.hold("a", 1.0)
    entries.release("a", 2.0)
    assert entries.expire(100.0) is None
    entries.release("a", 100.0)
    assert entries.expire(104.0) == pytest.approx(105.0)
    entries.expire(105.0)
    assert evicted == ["a"]


def test_release_after_removal_is_harmless() -> None:
    entries, evicted = cache()
    entries.put("a", "A", 0.0)
    entries.hold("a", 0.0)
    entries.remove("a")
    entries.release("a", 1.0)
    entries.expire(100.0)
    assert evicted == []
    assert len(entries) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 4.0), st.sampled_from(["use", "look"])), max_size=60))
def test_nothing_used_within_the_idle_time_is_evicted(steps: list[tuple[str, float, str]]) -> None:
    entries, evicted = cache(5.0)
    used: dict[str, float] = {}
    now = 0.0
    for key, gap, action in steps:
        now += gap
        if action == "use":
            if entries.get(key) is None:
                entries.put(key, key, now)
            entries.hold(key, now)
            entries.release(key, now)
            used[key] = now
        evicted.clear()
        entries.expire(now)
        assert all(now - used[key] >= 5.0 for key in evicted)
        assert all(now - at < 5.0 for key, at in used.items() if entries.get(key) is not None)


# ---- certificate renewal


def test_attempts_of_a_day_long_leaf_with_the_issuer_away() -> None:
    """linkerd2-proxy's schedule, computed in reference/mesh.md section 3."""
    hours, now, expires = [], 0.0, 86_400.0
    for _ in range(5):
        now += next_attempt_delay(now, expires)
        hours.append(round(now / 3600.0, 2))
    assert hours == [16.80, 21.84, 23.35, 23.81, 23.94]


def test_an_expired_leaf_is_asked_for_again_every_minimum_for_ever() -> None:
    assert next_attempt_delay(1_000.0, 900.0) == 10.0
    assert next_attempt_delay(1e9, 900.0, minimum=0.5) == 0.5


def test_no_leaf_yet_waits_the_minimum() -> None:
    assert next_attempt_delay(0.0, None) == 10.0


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.1, 60.0))
def test_delay_is_clamped(now: float, expires: float, minimum: float) -> None:
    assert minimum <= next_attempt_delay(now, expires, minimum) <= 86_400.0
