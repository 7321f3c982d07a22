"""A route's self time is found in whatever there is: single times, fine or coarse buckets, a mean."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import pytest

from mesh.proxy.metrics import LATENCY_BUCKETS_MS
from scenarios.model import ServiceTime
from sim.calibration import cold
from sim.calibration.families import is_bimodal
from sim.calibration.fit import fit_route
from sim.model.distributions import Exponential, LogNormal, Mixture
from sim.observation import RouteTimes

DECLARED = ServiceTime(0.004, 0.4)
LINKERD = tuple(bound / 1_000 for bound in LATENCY_BUCKETS_MS)
Values = np.ndarray[tuple[int], np.dtype[np.float64]]


def times_of(values: Values, bounds: tuple[float, ...] = cold.BOUNDS) -> RouteTimes:
    buckets = [0] * (len(bounds) + 1)
    for value in values.tolist():
        buckets[bisect_left(bounds, value)] += 1
    return RouteTimes(len(values), float(values.mean()), bounds, tuple(buckets))


def raw(values: Values) -> RouteTimes:
    return RouteTimes(len(values), float(values.mean()), samples=tuple(values.tolist()))


def lognormal(median: float, sigma: float, count: int, seed: int = 1) -> Values:
    return np.random.default_rng(seed).lognormal(np.log(median), sigma, count)


def with_slow_mode(count: int, share: float = 0.03, seed: int = 1) -> Values:
    generator = np.random.default_rng(seed)
    values = generator.lognormal(np.log(0.02), 0.5, count)
    values[generator.random(count) < share] *= 6.0
    return values


def test_a_histogram_of_the_declared_family_gives_its_parameters() -> None:
    found = fit_route(times_of(lognormal(0.02, 0.5, 400)), ServiceTime(0.03, 0.3)).distribution
    assert isinstance(found, LogNormal)
    assert found.median == pytest.approx(0.02, rel=0.06)
    assert found.sigma == pytest.approx(0.5, rel=0.1)


def test_single_times_tell_as_much_as_fine_buckets() -> None:
    values = lognormal(0.02, 0.5, 2_000)
    one, other = fit_route(raw(values), DECLARED).distribution, fit_route(times_of(values), DECLARED).distribution
    assert isinstance(one, LogNormal)
    assert isinstance(other, LogNormal)
    assert one.median == pytest.approx(other.median, rel=0.01)
    assert one.sigma == pytest.approx(other.sigma, rel=0.03)


@pytest.mark.parametrize("bounds", [cold.BOUNDS, LINKERD], ids=["fine", "Linkerd's"])
def test_a_slow_mode_of_three_percent_is_found_in_buckets(bounds: tuple[float, ...]) -> None:
    found = fit_route(times_of(with_slow_mode(10_000), bounds), ServiceTime(0.02, 0.5)).distribution
    assert isinstance(found, Mixture)
    drawn = found.block(np.random.default_rng(3), 200_000)
    truth = with_slow_mode(400_000, seed=9)
    for share, error in ((0.5, 0.02), (0.95, 0.05), (0.99, 0.1)):
        assert np.quantile(drawn, share) == pytest.approx(np.quantile(truth, share), rel=error)


def test_two_modes_far_apart_are_called_so() -> None:
    values = np.concatenate([lognormal(0.002, 0.1, 3_000), lognormal(0.2, 0.1, 900)])
    fit = fit_route(times_of(values), DECLARED)
    assert isinstance(fit.distribution, Mixture)
    assert is_bimodal(fit.distribution)
    assert fit.shape.startswith("two modes")
    assert fit.distribution.share == pytest.approx(900 / 3_900, rel=0.05)
    assert fit.distribution.mean == pytest.approx(values.mean(), rel=0.03)


def test_one_mode_is_not_split() -> None:
    for seed in range(12):
        assert isinstance(fit_route(times_of(lognormal(0.004, 0.4, 3_000, seed)), DECLARED).distribution, LogNormal)


def test_a_stall_of_the_machine_is_not_the_routes_sigma() -> None:
    values = np.append(lognormal(0.004, 0.4, 500), [0.9])
    found = fit_route(times_of(values), DECLARED).distribution
    assert isinstance(found, LogNormal)
    assert found.sigma == pytest.approx(0.4, rel=0.1)


def test_what_no_family_fits_is_taken_as_it_was_counted() -> None:
    values = np.concatenate([lognormal(m, 0.03, 1_500) for m in (0.001, 0.008, 0.06, 0.5)])
    fit = fit_route(times_of(values), DECLARED)
    assert fit.shape.startswith("as counted")
    drawn = fit.distribution.block(np.random.default_rng(3), 20_000)
    assert np.quantile(drawn, 0.95) == pytest.approx(np.quantile(values, 0.95), rel=0.1)
    means = [fit.draw(np.random.default_rng(seed)).mean for seed in range(100)]
    assert np.mean(means) == pytest.approx(values.mean(), rel=0.03)
    # Of a mean of 6,000 times the standard error, and as much again since counts beyond 5,000 weigh less.
    assert np.std(means) == pytest.approx(values.std() / np.sqrt(6_000 / 2.2), rel=0.3)


def test_how_often_a_rare_stall_comes_is_left_open_where_no_family_fits() -> None:
    """Times in steps of a millisecond, as of a runtime whose timers have them, and one stall of 60 ms in 400."""
    generator = np.random.default_rng(4)
    values = np.append(np.ceil(lognormal(0.003, 0.5, 399) * 1e3) / 1e3 + generator.uniform(0, 1e-4, 399), [0.06])
    fit = fit_route(times_of(values), ServiceTime(0.003, 0.5))
    assert fit.shape.startswith("as counted")
    shares = [np.mean(fit.draw(np.random.default_rng(s)).block(generator, 4_000) > 0.03) for s in range(60)]
    assert np.quantile(shares, 0.1) < 0.001
    assert np.quantile(shares, 0.9) > 0.004


def test_a_mean_alone_scales_the_declared_shape() -> None:
    found = fit_route(RouteTimes(500, 0.010), DECLARED).distribution
    assert isinstance(found, LogNormal)
    assert found.mean == pytest.approx(0.010, rel=0.03)
    assert found.sigma == pytest.approx(DECLARED.sigma, rel=0.2)


def test_a_declared_exponential_stays_one() -> None:
    values = np.random.default_rng(1).exponential(0.01, 2_000)
    found = fit_route(times_of(values), ServiceTime(0.005, 0.0, "exponential")).distribution
    assert isinstance(found, Exponential)
    assert found.mean == pytest.approx(0.01, rel=0.08)


def test_all_counts_in_one_bucket_leave_the_sigma_open() -> None:
    """Linkerd's 10 to 20 ms bucket holds them all: anything from a constant to a sigma of 0.15 would do that."""
    expected = ServiceTime(0.01, 0.3)
    coarse = fit_route(RouteTimes(300, 0.014, (0.010, 0.020), (0, 300, 0)), expected, trusted=False)
    fine = fit_route(raw(lognormal(0.014, 0.1, 300)), expected, trusted=False)
    spread = [float(np.ptp(np.quantile([point[1] for point in fit.points], [0.05, 0.95]))) for fit in (coarse, fine)]
    assert spread[0] > 3.0 * spread[1]
    means = [coarse.draw(np.random.default_rng(seed)).mean for seed in range(50)]
    assert np.mean(means) == pytest.approx(0.014, rel=0.05)


def interval(count: int, trusted: bool = False) -> float:
    fit = fit_route(raw(lognormal(0.01, 0.5, count)) if count else None, ServiceTime(0.01, 0.5), trusted=trusted)
    means = [fit.draw(np.random.default_rng(seed)).mean for seed in range(200)]
    return float(np.log(np.quantile(means, 0.95) / np.quantile(means, 0.05)))


def test_fewer_observations_give_wider_draws() -> None:
    widths = [interval(count) for count in (1_000, 100, 10, 1, 0)]
    assert widths == sorted(widths)
    assert widths[-1] > 2.0
    assert widths[0] < 0.12


def test_a_foreign_programs_declaration_is_worth_less() -> None:
    assert interval(0, trusted=False) > 1.5 * interval(0, trusted=True)


def test_the_same_window_gives_the_same_draws() -> None:
    times = times_of(with_slow_mode(1_000))
    assert fit_route(times, DECLARED, name="x") == fit_route(times, DECLARED, name="x")
