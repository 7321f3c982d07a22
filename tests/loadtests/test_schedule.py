"""The schedule is a Poisson process of the asked rate and mix, and a function of its seed."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.schedule import arrivals

MIX = {"browse": 0.7, "cart": 0.2, "checkout": 0.1}


def kolmogorov_smirnov(values: list[float], cdf: object) -> float:
    """The statistic times √n; above 1.63 a true distribution gives one time in a hundred."""
    n = len(values)
    worst = 0.0
    for index, value in enumerate(sorted(values)):
        probability = cdf(value)  # type: ignore[operator]
        worst = max(worst, abs(probability - index / n), abs(probability - (index + 1) / n))
    return worst * math.sqrt(n)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gaps_are_exponential_with_the_rate(seed: int) -> None:
    times = [0.0, *(arrival.at for arrival in arrivals(60.0, MIX, seed, 120.0))]
    gaps = [after - before for before, after in pairwise(times)]
    assert kolmogorov_smirnov(gaps, lambda gap: 1 - math.exp(-60 * gap)) < 1.63


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_counts_per_second_vary_as_poisson_counts_do(seed: int) -> None:
    counts = Counter(int(arrival.at) for arrival in arrivals(60.0, MIX, seed, 200.0))
    values = [counts[second] for second in range(200)]
    mean = sum(values) / len(values)
    dispersion = sum((value - mean) ** 2 for value in values) / (len(values) - 1) / mean
    assert mean == pytest.approx(60, rel=0.04)
    assert 0.75 < dispersion < 1.3  # constant spacing would give 0, a closed loop under stall much more


def test_journeys_come_in_their_shares() -> None:
    counts = Counter(arrival.journey for arrival in arrivals(500.0, MIX, 4, 60.0))
    total = sum(counts.values())
    chi_square = sum((counts[name] - share * total) ** 2 / (share * total) for name, share in MIX.items())
    assert chi_square < 9.21  # two degrees of freedom, one in a hundred


def test_the_seed_decides_and_a_longer_duration_only_adds() -> None:
    short = list(arrivals(60.0, MIX, 5, 10.0))
    assert list(arrivals(60.0, MIX, 5, 20.0))[: len(short)] == short
    assert list(arrivals(60.0, MIX, 6, 10.0)) != short


@given(
    rate=st.floats(0.1, 500),
    duration=st.floats(0, 5),
    shares=st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0.001, 1), min_size=1, max_size=4),
)
def test_arrivals_ascend_within_the_duration(rate: float, duration: float, shares: dict[str, float]) -> None:
    schedule = list(arrivals(rate, shares, 1, duration))
    assert all(0 < before.at <= after.at < duration for before, after in pairwise(schedule))
    assert all(arrival.journey in shares for arrival in schedule)
