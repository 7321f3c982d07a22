"""The posteriors are calibrated: on simulated truth, ranks of the truth among draws are uniform (Talts et al. 2018).

Each case draws the truth from the prior, a window from the truth, a posterior from the window. A posterior that is too
narrow piles ranks up at both ends, one that leans shifts them; the chi-square over ten bins sees both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from mesh.proxy.metrics import LATENCY_BUCKETS_MS
from scenarios.model import ServiceTime
from sim.calibration import cold
from sim.calibration.families import distribution_of, prior_of
from sim.calibration.fit import fit_route
from sim.calibration.posterior import sample
from sim.model.arrivals import dispersion, gaps
from sim.model.distributions import declared
from sim.observation import RouteTimes

LINKERD = tuple(bound / 1_000 for bound in LATENCY_BUCKETS_MS)
BINS = 10
UNLIKELY = 27.9
"""99.9 % quantile of chi-square with nine degrees of freedom. Seeds are fixed: it holds or it does not."""


def chi_square(ranks: Sequence[float]) -> float:
    """Of ranks in [0, 1]."""
    counts, _ = np.histogram(ranks, bins=BINS, range=(0.0, 1.0))
    expected = len(ranks) / BINS
    return float(((counts - expected) ** 2 / expected).sum())


def rank(draws: Sequence[float], truth: float, generator: np.random.Generator) -> float:
    below = sum(value < truth for value in draws)
    return float(below + generator.random()) / (len(draws) + 1)


def test_a_known_normal_is_sampled() -> None:
    covariance = np.asarray([[1.0, 0.8], [0.8, 1.0]]) * 0.04
    inverse = np.linalg.inv(covariance)

    def density(
        points: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        apart = points - np.asarray([1.0, -2.0])
        return -0.5 * np.einsum("ni,ij,nj->n", apart, inverse, apart)

    drawn = sample(density, np.asarray([1.1, -2.1]), np.ones(2), np.random.default_rng(1), 4_000, 2_000)
    assert drawn.mean(axis=0) == pytest.approx([1.0, -2.0], abs=0.02)
    assert np.cov(drawn.T) == pytest.approx(covariance, rel=0.15)


CASES = [(bounds, count) for bounds in (cold.BOUNDS, LINKERD, ()) for count in (5, 60)] + [(LINKERD, 1_000)]


@pytest.mark.parametrize(
    ("bounds", "count"), CASES, ids=[f"{len(bounds) or 'no'} buckets, {count} requests" for bounds, count in CASES]
)
def test_self_times_have_uniform_ranks(bounds: tuple[float, ...], count: int) -> None:
    expected = ServiceTime(0.02, 0.5)
    prior = prior_of(declared(expected), trusted=False)
    generator = np.random.default_rng(count)
    ranks: list[list[float]] = [[], [], []]
    for number in range(150):
        truth = prior.draws(generator, 1)[0]
        values = distribution_of("lognormal", truth).block(generator, count)
        fit = fit_route(_times(values, bounds), expected, trusted=False, name=f"{number}")
        if fit.prior.family != "lognormal" or not fit.points:
            continue  # at most a few in a hundred; that one mode is not split is another test's
        truths = (truth[0], truth[1], distribution_of("lognormal", truth).mean)
        means = [distribution_of("lognormal", point).mean for point in fit.points]
        for found, draws, value in zip(ranks, (*zip(*fit.points, strict=True), means), truths, strict=True):
            found.append(rank(draws, float(value), generator))
    assert len(ranks[0]) >= 135
    assert max(chi_square(found) for found in ranks) < UNLIKELY


def test_an_exponentials_mean_has_uniform_ranks() -> None:
    expected = ServiceTime(0.01, 0.0, "exponential")
    _check(lambda truth, generator: generator.exponential(truth, 30), expected)


def _check(
    drawn: Callable[[float, np.random.Generator], np.ndarray[tuple[int], np.dtype[np.float64]]], expected: ServiceTime
) -> None:
    prior = prior_of(declared(expected), trusted=False)
    generator = np.random.default_rng(3)
    ranks: list[float] = []
    for number in range(150):
        truth = float(np.exp(prior.draws(generator, 1)[0][0]))
        values = drawn(truth, generator)
        fit = fit_route(_times(values, ()), expected, trusted=False, name=f"{number}")
        if fit.prior.family == "exponential":
            ranks.append(rank([float(np.exp(point[0])) for point in fit.points], truth, generator))
    assert len(ranks) >= 140
    assert chi_square(ranks) < UNLIKELY


def test_the_index_of_dispersion_has_its_truth_in_nine_of_ten_intervals() -> None:
    generator = np.random.default_rng(5)
    inside = 0
    for _ in range(200):
        truth = float(generator.uniform(3.0, 8.0))
        times = np.cumsum(gaps(truth)(generator, 4_000)) / 50.0
        counts = np.histogram(times, bins=60, range=(0.0, 60.0))[0]
        found = dispersion(counts.tolist(), ours=False)
        draws = [found.draw(generator) for _ in range(200)]
        inside += float(np.quantile(draws, 0.05)) <= truth <= float(np.quantile(draws, 0.95))
    assert 165 <= inside <= 194


def test_poisson_arrivals_are_called_poisson() -> None:
    generator = np.random.default_rng(6)
    named = [dispersion(generator.poisson(40.0, 60).tolist(), ours=False).poisson for _ in range(300)]
    assert sum(named) >= 290


def test_too_few_arrivals_tell_nothing_of_bursts() -> None:
    assert dispersion([0, 1, 0, 0, 2, 0, 1, 0, 0], ours=False).seen is None
    assert dispersion([40, 41], ours=False).seen is None


def _times(values: np.ndarray[tuple[int], np.dtype[np.float64]], bounds: tuple[float, ...]) -> RouteTimes:
    if not bounds:
        return RouteTimes(len(values), float(values.mean()), samples=tuple(values.tolist()))
    buckets = [0] * (len(bounds) + 1)
    for value in values.tolist():
        buckets[bisect_left(bounds, value)] += 1
    return RouteTimes(len(values), float(values.mean()), bounds, tuple(buckets))
