"""Bands of shares that were counted over quantities of the same runs."""

from __future__ import annotations

import numpy as np
import pytest

from sim.scoring.coverage import apart, binomial_band, bootstrap, share_of


def test_the_binomial_band_of_sixty_windows_is_the_references() -> None:
    low, high = binomial_band(0.9, 60.0)
    assert (round(low * 60), round(high * 60)) == (50, 58)


def test_a_perfect_forecaster_lies_within_its_band_in_nine_suites_of_ten() -> None:
    generator = np.random.default_rng(1)
    low, high = binomial_band(0.9, 200.0)
    shares = generator.binomial(200, 0.9, 4_000) / 200
    assert 0.88 <= np.mean((shares >= low) & (shares <= high)) <= 0.95


def test_quantities_that_move_together_are_worth_as_many_as_there_are_runs() -> None:
    together = [(50.0, 50) if hit else (0.0, 50) for hit in (True, True, False, True, True, False, True, True)]
    share = share_of(together)
    assert share.total == 400
    assert share.value == pytest.approx(0.75)
    assert share.effective == pytest.approx(8.0, abs=1.5)
    assert share.low is not None
    assert share.high is not None
    assert share.high - share.low > 0.3


def test_independent_quantities_are_worth_what_they_are() -> None:
    generator = np.random.default_rng(2)
    share = share_of([(float(generator.binomial(50, 0.8)), 50) for _ in range(60)])
    assert share.effective > 1_500.0
    assert share.low is not None
    assert share.high is not None
    assert share.low <= 0.8 <= share.high
    assert share.high - share.low < 0.05


def test_the_resampled_band_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for trial in range(120):
        runs = [(float(generator.binomial(20, share)), 20) for share in generator.beta(9, 1, 30)]
        share = share_of(runs, seed=trial)
        assert share.low is not None
        assert share.high is not None
        hits += share.low <= 0.9 <= share.high
    assert 0.78 <= hits / 120 <= 0.97


def test_two_windows_of_one_law_are_two_standard_errors_apart_once_in_twenty() -> None:
    generator = np.random.default_rng(4)
    found = [
        apart(int(generator.binomial(200, 0.1)), 200, int(generator.binomial(300, 0.1)), 300) for _ in range(4_000)
    ]
    assert np.mean(np.abs(found) > 2.0) == pytest.approx(0.0455, abs=0.015)


def test_what_few_requests_say_is_few_standard_errors() -> None:
    assert abs(apart(1, 10, 3, 7)) < 2.0
    assert abs(apart(9, 10, 1, 20)) > 2.0
    assert apart(0, 10, 0, 10) == apart(5, 0, 1, 3) == 0.0


def test_too_few_runs_have_no_band() -> None:
    assert bootstrap([1, 2, 3], lambda runs: float(sum(runs))) == (None, None)
    assert share_of([(3.0, 4)]).low is None
    assert share_of([]).value is None
