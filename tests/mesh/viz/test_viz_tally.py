"""Sums and quantiles."""

from __future__ import annotations

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.viz.tally import Packed, Tally, histogram_quantile

BOUNDS = (1.0, 2.0, 5.0, 10.0, 100.0)
counts = st.lists(st.integers(0, 1000), min_size=6, max_size=6)
ratios = st.floats(0.0, 1.0)


def test_a_quantile_is_linear_within_its_bucket() -> None:
    assert histogram_quantile(0.5, (10.0, 20.0), [0, 4, 0]) == 15.0
    assert histogram_quantile(0.25, (10.0, 20.0), [4, 0, 0]) == 2.5
    assert histogram_quantile(0.9, (10.0, 20.0), [1, 0, 9]) == 20.0, "beyond all bounds: the highest of them"
    assert histogram_quantile(0.5, (10.0, 20.0), [0, 0, 0]) is None


@given(counts, ratios)
def test_a_quantile_lies_in_the_bucket_of_its_rank(numbers: list[int], q: float) -> None:
    found = histogram_quantile(q, BOUNDS, numbers)
    if sum(numbers) == 0:
        assert found is None
        return
    observations = [bound for bound, count in zip((*BOUNDS, math.inf), numbers, strict=True) for _ in range(count)]
    upper = observations[max(0, math.ceil(q * len(observations)) - 1)]
    assert found is not None
    if math.isinf(upper):
        assert found == BOUNDS[-1]
    else:
        lower = ([0.0, *BOUNDS])[BOUNDS.index(upper)]
        assert lower - 1e-9 <= found <= upper + 1e-9


@given(counts, ratios, ratios)
def test_quantiles_do_not_fall(numbers: list[int], one: float, other: float) -> None:
    low, high = (histogram_quantile(q, BOUNDS, numbers) for q in sorted((one, other)))
    if low is not None and high is not None:
        assert low <= high + 1e-9


@given(st.lists(st.floats(0.01, 99.0), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_quantile_is_off_by_less_than_its_bucket(values: list[float], q: float) -> None:
    numbers = [0] * 6
    for value in values:
        numbers[bisect_left(BOUNDS, value)] += 1
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    place = bisect_left(BOUNDS, exact)
    found = histogram_quantile(q, BOUNDS, numbers)
    assert found is not None
    assert abs(found - exact) <= BOUNDS[place] - ([0.0, *BOUNDS])[place]


tallies = st.builds(
    lambda good, bad, numbers: _tally(good, bad, numbers), st.integers(0, 100), st.integers(0, 100), counts
)


def _tally(good: int, bad: int, numbers: list[int], bounds: tuple[float, ...] = BOUNDS) -> Tally:
    made = Tally()
    made.add_count("success", good)
    made.add_count("failure", bad)
    made.add_latency(bounds, numbers)
    return made


def _state(tally: Tally) -> tuple[dict[str, float], dict[int, float]]:
    return tally.counts, tally.latency


@given(st.lists(tallies, max_size=6))
def test_the_order_of_adding_does_not_matter(parts: list[Tally]) -> None:
    forwards, backwards = Tally(), Tally()
    for part in parts:
        forwards.add(part)
    for part in reversed(parts):
        backwards.add(part)
    assert _state(forwards) == _state(backwards)
    assert sum(forwards.counts.values()) == sum(sum(part.counts.values()) for part in parts)


@given(tallies, tallies, st.floats(0.0, 1.0))
def test_what_is_packed_adds_up_as_what_is_not(one: Tally, other: Tally, share: float) -> None:
    loose, packed = Tally(), Tally()
    for part in (one, other):
        loose.add(part, share)
        Packed(part).add_to(packed, share)
    assert {k: v for k, v in packed.counts.items() if v} == loose.counts
    assert packed.latency == loose.latency


@given(tallies, st.floats(0.0, 1.0))
def test_two_shares_make_a_whole(part: Tally, share: float) -> None:
    whole = Tally()
    whole.add(part, share)
    whole.add(part, 1.0 - share)
    assert whole.counts == pytest.approx(part.counts)
    assert sum(whole.latency.values()) == pytest.approx(sum(part.latency.values()))


@given(counts, st.lists(st.integers(0, 1000), min_size=4, max_size=4), ratios)
def test_other_bounds_lose_no_observation_and_make_no_quantile_too_low(
    one: list[int], other: list[int], q: float
) -> None:
    fine, coarse = _tally(0, 0, one), _tally(0, 0, other, (2.0, 50.0, 1000.0))
    mixed = Tally()
    mixed.add(fine)
    mixed.add(coarse)
    assert sum(mixed.latency.values()) == sum(one) + sum(other)
    known = [value for value in (fine.quantile(q), coarse.quantile(q)) if value is not None]
    found = mixed.quantile(q)
    assert (found is None) == (not known)
    if found is not None:
        assert found >= min(known) - 1e-9
