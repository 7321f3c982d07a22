"""The learned discrepancy: found where it is known, shrunk where runs are few, checked on the run that was left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sim.scoring.learning import PRIOR_RUNS, Intervals, Residual, Served, learn, leave_one_out, residual_of, serve
from sim.scoring.score import Detail


def residuals(
    runs: int,
    sigma: float,
    *,
    own: float = 0.05,
    used: float = 0.06,
    each: int = 6,
    seed: int = 1,
    family: str = "pod-kill",
) -> list[Residual]:
    """Errors of a model that misses by `sigma` beyond its own spread."""
    generator = np.random.default_rng(seed)
    return [
        Residual(
            f"{family}-{run}", family, "p95", "inject", float(generator.normal(0, math.hypot(own, sigma))), own**2, used
        )
        for run in range(runs)
        for _ in range(each)
    ]


def share(runs: Sequence[Served], of: Callable[[Served], Intervals], level: int) -> float:
    return sum(of(run).inside[level] for run in runs) / sum(run.quantities for run in runs)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.4])
def test_a_known_discrepancy_is_found(sigma: float) -> None:
    by_family = {entry.family: entry for entry in learn(residuals(80, sigma))}
    assert by_family["pod-kill"].sigma == pytest.approx(sigma, rel=0.15, abs=0.015)
    assert (by_family["pod-kill"].runs, by_family["pod-kill"].quantities) == (80, 480)


def test_few_runs_are_drawn_towards_what_was_used_before() -> None:
    low, high = (learn(residuals(6, 0.5, used=used))[-1].sigma for used in (0.05, 0.8))
    assert high**2 - low**2 == pytest.approx(PRIOR_RUNS / (6 + PRIOR_RUNS) * (0.8**2 - 0.05**2), rel=0.01)
    low, high = (learn(residuals(60, 0.5, used=used))[-1].sigma for used in (0.05, 0.8))
    assert high**2 - low**2 == pytest.approx(PRIOR_RUNS / (60 + PRIOR_RUNS) * (0.8**2 - 0.05**2), rel=0.02)


def test_too_few_runs_teach_nothing() -> None:
    assert learn(residuals(5, 0.2)) == []
    families = residuals(4, 0.2, family="misroute") + residuals(4, 0.2, family="pod-kill", seed=2)
    assert [entry.family for entry in learn(families)] == [""]  # eight of all families together


def test_a_run_with_many_quantities_weighs_no_more_than_another() -> None:
    even = residuals(30, 0.1)
    loud = [Residual("loud", "pod-kill", "p95", "inject", 3.0, 0.0025, 0.06)] * 200
    assert learn(even + loud)[-1].sigma < 2.0 * learn(even)[-1].sigma


def test_left_out_runs_are_covered_as_promised_after_learning_and_were_not_before() -> None:
    found = leave_one_out(residuals(40, 0.2, used=0.03))["p95"]
    assert share(found, lambda run: run.learned, 2) == pytest.approx(0.9, abs=0.05)
    assert share(found, lambda run: run.learned, 0) == pytest.approx(0.5, abs=0.08)
    assert share(found, lambda run: run.used, 2) < 0.6


def test_a_run_never_teaches_its_own_forecast() -> None:
    """One run is off by far; left out, it is judged by what the others teach, and missed."""
    usual = residuals(12, 0.05)
    odd = [Residual("odd", "pod-kill", "p95", "inject", 2.0, 0.0025, 0.06)] * 6
    last = leave_one_out(usual + odd)["p95"][-1]
    assert last.learned.inside == (0.0, 0.0, 0.0)


def test_other_runs_are_served_better_by_what_was_learned_than_by_what_was_too_narrow() -> None:
    entries = learn(residuals(120, 0.2, used=0.03))
    found = serve(residuals(80, 0.2, used=0.03, seed=2), entries)["p95"]
    assert len(found) == 80
    assert share(found, lambda run: run.learned, 2) == pytest.approx(0.9, abs=0.05)
    assert sum(run.learned.score for run in found) < 0.7 * sum(run.used.score for run in found)


def test_what_nothing_was_learned_of_is_served_as_before() -> None:
    found = serve(residuals(4, 0.2, family="misroute"), learn(residuals(5, 0.2)))["p95"]
    assert all(run.learned == run.used for run in found)


def row(**changes: object) -> Detail:
    values: dict[str, object] = {
        "quantity": "p95", "subject": "s", "window": "inject", "measured": 0.2, "low": 0.1, "median": 0.19, "high": 0.3,
        "inside": (True, True, True), "pit": (0.5, 0.51), "width": 1.0, "interval": 1.0, "crps": 0.1, "error": 0.1,
        "spread": 0.13, "discrepancy": 0.12,
    }  # fmt: skip
    return Detail(**{**values, **changes})  # type: ignore[arg-type]


def test_what_the_model_itself_says_is_the_spread_without_the_discrepancy() -> None:
    found = residual_of("r", "pod-kill", row())
    assert found is not None
    assert found.own == pytest.approx(0.05**2)


@pytest.mark.parametrize(
    "changes",
    [
        {"discrepancy": None},  # a forecast that does not say what it used
        {"quantity": "budget_spent"},
        {"quantity": "success_rate", "median": 1.0},
        {"error": None},
    ],
)
def test_what_cannot_teach_is_left_out(changes: dict[str, object]) -> None:
    assert residual_of("r", "pod-kill", row(**changes)) is None
