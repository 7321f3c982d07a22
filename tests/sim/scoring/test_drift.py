"""Drift: seen where it is, not seen where it is not, and not claimed from a handful of runs."""

from __future__ import annotations

import numpy as np

from sim.scoring.drift import FEWEST_RUNS, drift


def test_a_handful_of_runs_says_nothing() -> None:
    assert drift([0.9] * (FEWEST_RUNS - 1)) is None


def test_a_fall_is_seen_with_the_run_after_which_it_began() -> None:
    generator = np.random.default_rng(1)
    found = drift([*generator.normal(0.9, 0.03, 20), *generator.normal(0.7, 0.03, 10)])
    assert found is not None
    assert found.is_drift
    assert found.begins_after == 19
    assert found.recent < 0.75 < 0.85 < found.earlier


def test_runs_without_drift_raise_no_more_alarms_than_the_level_says() -> None:
    generator = np.random.default_rng(2)
    alarms = 0
    for trial in range(150):
        found = drift(generator.beta(18, 2, 24).tolist(), seed=trial)
        assert found is not None
        alarms += found.is_drift
    assert alarms <= 6  # 1 % each is 1.5; six or more come once in two hundred


def test_runs_that_are_all_alike_are_no_drift() -> None:
    found = drift([1.0] * 20)
    assert found is not None
    assert not found.is_drift
