"""CRPS, coverage and skill."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.results import Forecast, Prediction
from sim.scoring.coverage import binomial_band, share_of
from sim.scoring.rules import brier
from sim.scoring.score import LEVELS, crps, detail, score

VALUES = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: round(value, 6))
ENSEMBLES = st.lists(VALUES, min_size=1, max_size=30).map(sorted)


def prediction(ensemble: list[float], naive: float | None, **changes: str) -> Prediction:
    names = {"quantity": "success_rate", "subject": "slo", "window": "inject", **changes}
    return Prediction(
        low=ensemble[0], median=ensemble[len(ensemble) // 2], high=ensemble[-1], naive=naive,
        ensemble=tuple(ensemble), **names,
    )  # fmt: skip


def forecast(*predictions: Prediction) -> Forecast:
    return Forecast(
        schema="s", scenario="x", variant=None, world="sim", seed=1, made_at=0.0, planned_injection_at=0.0,
        replications=1, compute_seconds=0.0, calibration={}, predictions=predictions, fans=(), limits=(),
    )  # fmt: skip


@given(ENSEMBLES, VALUES)
def test_crps_is_the_fair_double_sum(ensemble: list[float], measured: float) -> None:
    size = len(ensemble)
    spread = sum(abs(a - b) for a, b in combinations(ensemble, 2)) / (size * (size - 1)) if size > 1 else 0.0
    expected = sum(abs(v - measured) for v in ensemble) / size - spread
    assert crps(ensemble, measured) == pytest.approx(expected, abs=1e-9, rel=1e-9)


@given(VALUES, st.integers(1, 20), VALUES)
def test_crps_of_one_repeated_value_is_the_absolute_error(value: float, size: int, measured: float) -> None:
    assert crps([value] * size, measured) == pytest.approx(abs(value - measured), abs=1e-9)


@given(ENSEMBLES, VALUES, st.floats(-10, 10))
def test_crps_does_not_mind_a_shift(ensemble: list[float], measured: float, by: float) -> None:
    assert crps([v + by for v in ensemble], measured + by) == pytest.approx(crps(ensemble, measured), abs=1e-6)


@given(st.lists(st.tuples(ENSEMBLES, VALUES), min_size=1, max_size=8))
def test_coverage_counts_the_intervals_that_contain_the_measured_value(rows: list[tuple[list[float], float]]) -> None:
    predictions = [prediction(ensemble, 0.0, subject=str(i)) for i, (ensemble, _) in enumerate(rows)]
    measured = {("success_rate", str(i), "inject"): value for i, (_, value) in enumerate(rows)}
    result = score(forecast(*predictions), measured)
    inside = [ensemble[0] <= value <= ensemble[-1] for ensemble, value in rows]
    assert result.coverage == pytest.approx(sum(inside) / len(inside), abs=1e-9)


def test_skill_compares_with_nothing_changes_in_units_of_each_quantity() -> None:
    sure = prediction([0.9, 0.9], 1.0)
    slow = prediction([0.2, 0.2], 0.1, quantity="p95")
    measured = {("success_rate", "slo", "inject"): 0.9, ("p95", "slo", "inject"): 0.4}
    result = score(forecast(sure, slow), measured)
    assert [row.crps for row in result.rows] == [pytest.approx(0.0), pytest.approx(math.log(2.0))]
    assert [row.crps_naive for row in result.rows] == [pytest.approx(2.0), pytest.approx(math.log(4.0))]
    assert result.skill == pytest.approx(1 - math.log(2.0) / (2.0 + math.log(4.0)))


def test_a_latency_ten_times_too_high_costs_what_one_ten_times_too_low_does() -> None:
    high, low = (detail(prediction([value], None, quantity="p95"), 0.02).crps for value in (0.2, 0.002))
    assert high == pytest.approx(math.log(10.0))
    assert low == pytest.approx(high)


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=9).map(sorted), st.floats(0.0, 10.0))
def test_no_latency_costs_more_than_the_clients_timeout_over_a_millisecond(ensemble: list[float], real: float) -> None:
    assert detail(prediction(ensemble, None, quantity="p99"), real).crps <= math.log(10.0 / 0.001) + 1e-9


@pytest.mark.parametrize("quantity", ["p95", "budget_spent", "time_to_recover", "success_rate"])
def test_nobody_gains_by_another_forecast_than_his_own(quantity: str) -> None:
    """Proper: over outcomes of a law, that law scores best; the same a third lower or higher does worse."""
    generator = np.random.default_rng(12)
    law = 0.2 + 0.6 * generator.beta(2.0, 3.0, size=400)
    outcomes = 0.2 + 0.6 * generator.beta(2.0, 3.0, size=400)

    def mean(factor: float) -> float:
        told = prediction(np.sort(law * factor).tolist(), None, quantity=quantity)
        return float(np.mean([detail(told, float(value)).crps for value in outcomes]))

    assert mean(1.0) < min(mean(0.67), mean(1.5))


def test_crps_of_an_event_is_briers_score_of_its_probability() -> None:
    ensemble = [0.0] * 300 + [1.0] * 700
    result = score(forecast(prediction(ensemble, 0.0, quantity="metastable")), {("metastable", "slo", "inject"): 1.0})
    assert result.rows[0].crps == pytest.approx(brier(0.7, True), abs=1e-3)
    assert result.coverage is None


def test_a_moment_beyond_the_window_scores_by_how_sure_the_forecast_was_of_that() -> None:
    never, split = [30.0] * 10, [5.0] * 5 + [30.0] * 5
    seconds = [
        detail(prediction(ensemble, None, quantity="recovery_seconds"), 30.0).crps for ensemble in (never, split)
    ]
    assert seconds[0] == pytest.approx(0.0)
    assert seconds[1] > 0.1


def test_a_perfect_forecaster_covers_what_each_level_says() -> None:
    """Forty runs of ten quantities that share half of their variance, forecast by ensembles of the same law."""
    generator = np.random.default_rng(11)
    runs = []
    for _ in range(40):
        common = generator.normal()
        rows = []
        for _ in range(10):
            ensemble = np.sort(np.exp(0.3 * generator.normal(size=200))).tolist()
            value = math.exp(0.3 * (math.sqrt(0.5) * common + math.sqrt(0.5) * generator.normal()))
            rows.append(detail(prediction(ensemble, 1.0, quantity="p95"), value))
        runs.append(rows)
    for index, level in enumerate(LEVELS):
        share = share_of([(float(sum(row.inside[index] for row in rows)), len(rows)) for rows in runs])
        low, high = binomial_band(level, share.effective, 0.998)
        assert share.value is not None
        assert low <= share.value <= high
        assert share.effective < 400


def test_errors_are_taken_on_the_scale_on_which_discrepancies_add() -> None:
    row = detail(prediction([0.1, 0.1], 0.1, quantity="p95"), 0.2)
    assert row.error == pytest.approx(math.log(2.0))
    share = detail(prediction([1.0, 1.0], 1.0), 1.0, requests=1_000)
    assert (share.error, share.spread) == (pytest.approx(0.0), pytest.approx(0.0))
    assert detail(prediction([0.0, 1.0], 0.0, quantity="budget_spent"), 0.5).error is None


def test_a_ratio_that_every_replication_has_is_a_tie_with_its_seven_digits() -> None:
    kept = [float(f"{302 / 301:.7g}")] * 100
    found = detail(prediction(kept, 1.0, quantity="attempts_per_request"), 302 / 301)
    assert found.pit == (0.0, 1.0)
    assert found.inside == (True, True, True)


def test_what_was_not_measured_is_shown_and_not_scored() -> None:
    result = score(forecast(prediction([0.5], None)), {})
    assert result.rows[0].inside is None
    assert (result.coverage, result.crps, result.crps_naive, result.skill) == (None, None, None, None)
    nan = score(forecast(prediction([0.5], None)), {("success_rate", "slo", "inject"): math.nan})
    assert nan.coverage is None


def test_a_perfect_naive_forecast_leaves_skill_undefined() -> None:
    result = score(forecast(prediction([1.0, 1.0], 1.0)), {("success_rate", "slo", "inject"): 1.0})
    assert result.crps_naive == 0.0
    assert result.skill is None
    assert result.coverage == 1.0
