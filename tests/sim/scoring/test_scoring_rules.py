"""Known answers: closed forms of the scores, and what a forecaster who is right by construction must show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.scoring.rules import brier, crps, inside, interval_score, likeliest, pit, pit_histogram


def gaussian_crps(mean: float, sigma: float, measured: float) -> float:
    """Gneiting & Raftery (2007), equation 21."""
    z = (measured - mean) / sigma
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + math.erf(z / math.sqrt(2)))
    return sigma * (z * (2 * below - 1) + 2 * density - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize("measured", [-2.0, 0.0, 0.7, 3.5])
def test_crps_of_a_large_gaussian_ensemble_is_the_closed_form(measured: float) -> None:
    ensemble = np.sort(np.random.default_rng(4).normal(0.5, 1.5, 60_000)).tolist()
    assert crps(ensemble, measured) == pytest.approx(gaussian_crps(0.5, 1.5, measured), abs=0.02)


def test_fair_crps_does_not_punish_small_ensembles() -> None:
    generator = np.random.default_rng(5)
    small = [crps(np.sort(generator.normal(size=3)).tolist(), generator.normal()) for _ in range(20_000)]
    expected = 1.0 / math.sqrt(math.pi)  # of a perfect gaussian forecaster
    assert np.mean(small) == pytest.approx(expected, abs=0.02)


def test_the_interval_score_is_the_width_and_ten_times_each_halfs_miss_at_eighty_percent() -> None:
    assert interval_score(1.0, 3.0, 2.0, 0.8) == pytest.approx(2.0)
    assert interval_score(1.0, 3.0, 0.5, 0.8) == pytest.approx(2.0 + 10.0 * 0.5)
    assert interval_score(1.0, 3.0, 3.1, 0.8) == pytest.approx(2.0 + 10.0 * 0.1)


def test_the_interval_score_is_lowest_at_the_true_quantiles() -> None:
    outcomes = np.random.default_rng(6).normal(size=20_000).tolist()

    def mean(end: float) -> float:
        return float(np.mean([interval_score(-end, end, value, 0.9) for value in outcomes]))

    assert mean(1.645) < min(mean(1.2), mean(2.2))


def test_brier_knows_the_sure_and_the_clueless() -> None:
    assert (brier(1.0, True), brier(0.0, False), brier(1.0, False)) == (0.0, 0.0, 1.0)
    assert brier(0.5, True) == brier(0.5, False) == 0.25


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_a_perfect_forecaster_is_inside_as_often_as_each_level_says_ties_or_not(level: float) -> None:
    """Seven of ten values are exactly 1, as of a success rate: every interval ends there, and holds them all."""
    generator = np.random.default_rng(9)

    def draw() -> float:
        return 1.0 if generator.random() < 0.7 else float(generator.random())

    shares, raw = [], []
    for _ in range(4_000):
        ensemble, value = sorted(draw() for _ in range(40)), draw()
        shares.append(inside(pit(ensemble, value), level))
        low, high = np.quantile(ensemble, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
        raw.append(low <= value <= high)
    assert np.mean(shares) == pytest.approx(level, abs=0.015)
    assert np.mean(raw) > level + 0.02


def test_without_ties_a_value_is_inside_or_not() -> None:
    ensemble = [float(value) for value in range(99)]
    assert inside(pit(ensemble, 49.5), 0.9) == 1.0
    assert inside(pit(ensemble, 200.0), 0.9) == 0.0


def test_pit_of_a_perfect_forecaster_is_uniform_with_atoms_and_small_ensembles() -> None:
    generator = np.random.default_rng(7)

    def draw() -> float:  # half of the mass is at exactly 1, as of a success rate
        return 1.0 if generator.random() < 0.5 else float(generator.random())

    intervals = [pit(sorted(draw() for _ in range(19)), draw()) for _ in range(4_000)]
    counts = pit_histogram(intervals, 5)
    assert sum(counts) == pytest.approx(4_000)
    expected = 800.0
    assert sum((count - expected) ** 2 / expected for count in counts) < 13.3  # chi-square, 4 degrees, 1 %


def test_pit_shows_a_forecaster_who_is_too_sure_at_both_ends() -> None:
    generator = np.random.default_rng(8)
    intervals = [pit(np.sort(generator.normal(0.0, 0.4, 50)).tolist(), float(generator.normal())) for _ in range(1_000)]
    counts = pit_histogram(intervals, 5)
    assert min(counts[0], counts[4]) > 1.5 * max(counts[1:4])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30).map(sorted), st.floats(-6, 6))
def test_a_pit_interval_lies_within_zero_and_one_and_has_a_length(ensemble: list[float], measured: float) -> None:
    start, end = pit(ensemble, measured)
    assert 0.0 <= start < end <= 1.0
    assert sum(pit_histogram([(start, end)], 10)) == pytest.approx(1.0)


def test_the_number_of_the_best_odds_is_in_the_fullest_stretch_and_the_median_where_that_is_as_good() -> None:
    """Three of ten never come within thirty seconds, the others at any time: no time before has odds as good."""
    fork = [3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0, 30.0, 30.0, 30.0]
    assert likeliest(fork, 16.5, lambda _: 2.0) == (30.0, 0.3)
    assert likeliest([4.0, 5.0, 6.0], 5.0, lambda _: 2.0) == (5.0, 1.0)
    assert likeliest([7.0], 7.0, lambda _: 0.0) == (7.0, 1.0)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(-5, 45))
def test_no_other_number_has_better_odds(values: list[int], other: int) -> None:
    ensemble = [float(value) for value in sorted(values)]

    def tolerance(value: float) -> float:
        return max(2.0, 0.1 * value)

    number, odds = likeliest(ensemble, float(np.median(ensemble)), tolerance)
    assert odds == np.mean([abs(number - value) <= tolerance(value) + 1e-9 for value in ensemble])
    assert odds >= np.mean([abs(other - value) <= tolerance(value) - 1e-9 for value in ensemble])
