"""Workers are told by the knee of latency over load, and by nothing else."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from sim.calibration.workers import WorkersFit, workers_from_load, workers_from_requests

SERVICE = 0.05


def queue(workers: int, rate: float, count: int, seed: int = 1) -> tuple[list[float], list[float]]:
    """(sent, latencies) of an M/G/c queue, served first come, first served."""
    generator = np.random.default_rng(seed)
    sent = np.cumsum(generator.exponential(1.0 / rate, count)).tolist()
    free = [0.0] * workers
    latencies = []
    for at, takes in zip(sent, generator.lognormal(np.log(SERVICE), 0.4, count).tolist(), strict=True):
        begins = max(at, heapq.heappop(free))
        heapq.heappush(free, begins + takes)
        latencies.append(begins + takes - at)
    return sent, latencies


def interval(fit: WorkersFit) -> tuple[float, float]:
    low, high = np.quantile(fit.draws, [0.05, 0.95])
    return float(low), float(high)


@pytest.mark.parametrize("workers", [2, 4, 8])
@pytest.mark.parametrize("declared", [1, 16])
def test_a_busy_window_tells_the_workers(workers: int, declared: int) -> None:
    sent, latencies = queue(workers, 0.93 * workers / (SERVICE * 1.083), 4_000, seed=workers)
    fit = workers_from_requests(declared, 1, sent, latencies)
    low, high = interval(fit)
    assert fit.told
    assert low <= workers <= high * 1.3
    assert high / low < 2.5


def test_a_quiet_window_leaves_the_prior_above_what_was_seen() -> None:
    sent, latencies = queue(64, 100.0, 3_000)
    fit = workers_from_requests(16, 1, sent, latencies)
    low, high = interval(fit)
    assert not fit.told
    assert low >= 5.0
    assert high > 50.0
    assert fit.at_least >= 8.0


def test_nothing_seen_is_the_prior() -> None:
    for fit in (workers_from_requests(16, 1, [], []), workers_from_load(16, 1, [], [], [])):
        low, high = interval(fit)
        assert not fit.told
        assert high / low > 15.0


def test_rates_up_to_the_knee_tell_it_from_counters_alone() -> None:
    rates, latencies, counts = [], [], []
    for share in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95):
        rate = share * 4 / (SERVICE * 1.083)
        _, took = queue(4, rate, 3_000, seed=3)
        rates.append(rate)
        latencies.append(float(np.mean(took)))
        counts.append(3_000.0)
    fit = workers_from_load(16, 1, rates, latencies, counts)
    low, high = interval(fit)
    assert fit.told
    assert low <= 4 * 1.3
    assert high >= 4 * 0.8
    assert high / low < 2.0


def test_a_slow_second_at_a_steady_rate_is_no_knee() -> None:
    latencies = [0.02] * 20 + [0.2] + [0.02] * 9
    fit = workers_from_load(16, 1, [50.0] * 30, latencies, [500.0] * 30)
    assert not fit.told
    assert interval(fit)[1] > 30.0
