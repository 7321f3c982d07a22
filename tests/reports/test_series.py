"""Counters across restarts, labels, quantiles."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.series import Metrics, Series, parse_labels, service_of
from reports.store import RunStore
from scenarios.quantiles import histogram_quantile, percentile


def series(*samples: tuple[float, float]) -> Series:
    return Series("payment-0/proxy", {}, tuple(at for at, _ in samples), tuple(value for _, value in samples))


def test_a_counter_that_falls_was_restarted_and_counts_from_zero() -> None:
    assert series((1, 100), (2, 110), (3, 4), (4, 9)).increase(1, 4) == 10 + 4 + 5


def test_a_restart_counts_whole_even_when_the_new_life_has_gone_further() -> None:
    counter = series((1, 5), (9, 20))
    assert counter.increase(1, 9) == 15
    assert counter.increase(1, 9, restarts=(8.0,)) == 20


def test_a_series_that_appears_in_the_window_counts_from_zero() -> None:
    assert series((5, 3), (6, 4)).increase(0, 10) == 4


def test_what_lies_outside_the_window_does_not_count() -> None:
    counter = series((1, 10), (5, 15), (9, 40))
    assert counter.increase(2, 6) == 5
    assert counter.increase(5, 5) == 0
    assert counter.increase(20, 30) == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=40), st.integers(0, 40))
def test_increases_of_adjacent_windows_add_up(steps: list[tuple[bool, int]], cut: int) -> None:
    value = 0
    samples = []
    for at, (reset, risen) in enumerate(steps):
        value = risen if reset else value + risen
        samples.append((float(at), float(value)))
    counter = series(*samples)
    assert counter.increase(-1, cut) + counter.increase(cut, 40) == pytest.approx(counter.increase(-1, 40))


def test_labels_are_read_with_escapes_and_with_or_without_braces() -> None:
    assert parse_labels(r'{route="GET /a\"b",error="",x="a\\n"}') == {"route": 'GET /a"b', "error": "", "x": "a\\n"}
    assert parse_labels('le="+Inf"') == {"le": "+Inf"}
    assert parse_labels("") == {}


@pytest.mark.parametrize(
    ("process", "service"),
    [("payment-0/proxy", "payment"), ("loadgen-0", "loadgen"), ("my-svc-12/app", "my-svc"), ("identity", "identity")],
)
def test_a_process_belongs_to_its_pods_service(process: str, service: str) -> None:
    assert service_of(process) == service


def test_metrics_of_a_restarted_process_are_read_from_the_store(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite", create=True) as store:
        for at, born, value in ((1.0, 0.5, 5.0), (2.0, 0.5, 8.0), (3.0, 2.5, 9.0)):
            store.add_samples(at, "a-0/proxy", [("process_start_time_seconds", "", born), ("x_total", 'k="v"', value)])
        metrics = Metrics(store)
        assert metrics.increase("x_total", 1.0, 3.0, k="v") == 3 + 9
        assert metrics.increase("x_total", 1.0, 3.0, k="other") == 0
        assert not metrics.exists("y_total")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0, 1))
def test_percentiles_agree_with_numpy(values: list[float], share: float) -> None:
    assert percentile(sorted(values), share) == pytest.approx(
        float(np.percentile(values, share * 100)), rel=1e-9, abs=1e-9
    )


def test_histogram_quantiles_interpolate_as_prometheus_does() -> None:
    buckets = {1.0: 0.0, 2.0: 50.0, 4.0: 100.0, math.inf: 100.0}
    assert histogram_quantile(0.5, buckets) == pytest.approx(2.0)
    assert histogram_quantile(0.75, buckets) == pytest.approx(3.0)
    assert histogram_quantile(0.99, {1.0: 10.0, math.inf: 100.0}) == 1.0
    assert histogram_quantile(0.5, {1.0: 0.0, math.inf: 0.0}) is None
    assert histogram_quantile(0.5, {}) is None


@given(st.lists(st.integers(0, 100), min_size=3, max_size=12), st.floats(0.01, 0.99))
def test_a_histogram_quantile_lies_in_the_bucket_that_holds_its_rank(counts: list[int], share: float) -> None:
    cumulative = dict(zip(map(float, range(1, len(counts))), itertools.accumulate(counts[:-1]), strict=True))
    cumulative[math.inf] = sum(counts)
    value = histogram_quantile(share, {bound: float(count) for bound, count in cumulative.items()})
    if sum(counts):
        assert value is not None
        assert (
            sum(c for b, c in zip(range(1, len(counts)), counts, strict=False) if b < value - 1)
            <= share * sum(counts) + 1e-6
        )
