"""The self time of a route: which family the data ask for, and its posterior.

    no observation           the declared distribution, as wide as its prior
    any                      the declared family (censored likelihood beats interpolation in buckets tenfold at the p95)
    it misfits, >= 200 seen  two lognormals, if they explain more than three further coordinates are worth (BIC)
    that misfits too         the bins themselves, interpolated on the probit scale, where a lognormal is a straight line

Measured on Linkerd's buckets with 3 % of requests six times slower (sim.md, section 5): one lognormal misses the p99 by
half, interpolation by 5 to 9 %, the mixture by 4 % at 10,000 requests (tests/sim/calibration/test_fit.py).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from scenarios.model import ServiceTime
from sim.calibration.evidence import Evidence, evidence_of
from sim.calibration.families import Prior, distribution_of, is_bimodal, prior_of
from sim.calibration.overhead import nelder_mead
from sim.calibration.posterior import DRAWS, sample
from sim.model.distributions import Distribution, LogNormal, Mixture, Tabled, declared, probit
from sim.observation import RouteTimes

Values = npt.NDArray[np.float64]
TABLE_SIZE = 400
_MIDPOINTS = np.asarray([probit((i + 0.5) / TABLE_SIZE) for i in range(TABLE_SIZE)])
MISFIT = 1.5
"""`Evidence.misfit`, 10 % of a bin's share forgiven, above which no family will do."""
SUSPICIOUS = 1.0
"""The same, nothing forgiven, above which two kinds of requests are looked for."""
FORGIVEN = 0.1
FEWEST_FOR_TWO = 200
FEWEST_OF_A_KIND = 8.0


@dataclass(frozen=True, slots=True)
class RouteFit:
    """Self time of a route and how well it is known."""

    distribution: Distribution
    """The centre."""
    count: int
    """Observations behind it; 0: only declared."""
    prior: Prior
    points: tuple[tuple[float, ...], ...] = ()
    """Draws of the posterior, as points of the prior's family; empty: the bins themselves."""
    bins: tuple[tuple[float, float, float], ...] = ()
    """(lower edge, upper edge, weighed count) where no family fits. Their posterior is a Dirichlet's (the Bayesian
    bootstrap, Rubin 1981): one stall among ninety requests may have been one in thirty, or in a thousand."""
    bins_scale: float = 1.0
    """What brings the bins' mean to the exact one."""
    widen: float = 0.0
    """Sigma of the log of all times that the source leaves open beyond counting."""

    def draw(self, generator: np.random.Generator) -> Distribution:
        """One self time that the window does not contradict."""
        if self.points:
            return distribution_of(self.prior.family, self.points[int(generator.integers(len(self.points)))])
        factor = self.bins_scale * math.exp(self.widen * float(generator.standard_normal()))
        weighed = generator.gamma([count for _, _, count in self.bins])
        drawn = [(low, high, float(w)) for (low, high, _), w in zip(self.bins, weighed, strict=True)]
        return _tabled(drawn, self.distribution.mean).scaled(factor)

    @property
    def shape(self) -> str:
        """In words."""
        match self.distribution:
            case Mixture() as mixture:
                modes = "two modes" if is_bimodal(mixture) else "a heavy tail"
                return (
                    f"{modes}: {mixture.usual.median * 1000:.3g} ms, and {mixture.share:.1%} at"
                    f" {mixture.other.median * 1000:.3g} ms"
                )
            case Tabled():
                return "as counted: no family fits"
            case _:
                return self.prior.family

    def scaled(self, factor: float) -> RouteFit:
        """The same with all times multiplied."""
        shift = math.log(factor)
        return replace(
            self,
            distribution=self.distribution.scaled(factor),
            points=tuple((point[0] + shift, *point[1:]) for point in self.points),
            bins_scale=self.bins_scale * factor,
        )


def fit_route(
    times: RouteTimes | None, expected: ServiceTime, *, trusted: bool = True, name: str = "", widen: float = 0.0
) -> RouteFit:
    """The posterior of a route's self time.

    `trusted`: see `sim.calibration.families.prior_of`. `name` seeds the draws. `widen`: sigma of the log of all times
    that the source leaves open beyond counting (a self time found by subtraction, say).
    """
    evidence = evidence_of(times)
    before = declared(expected)
    prior = prior_of(before, trusted)
    generator = np.random.Generator(np.random.SFC64(zlib.crc32(name.encode())))
    if evidence.total == 0:
        return RouteFit(before, 0, prior, _tuples(prior.draws(generator, DRAWS)))
    chosen, mode, loss = prior, *_mode(evidence, prior, _start(evidence, prior))
    if prior.family == "exponential" and evidence.misfit("exponential", mode, FORGIVEN) > MISFIT:
        chosen = prior_of(before, trusted, "lognormal")
        mode, loss = _mode(evidence, chosen, _start(evidence, chosen))
    if evidence.total >= FEWEST_FOR_TWO and evidence.misfit(chosen.family, mode, 0.0) > SUSPICIOUS:
        two = prior_of(before, trusted, "mixture")
        better, less = _best_of_two(evidence, two, mode)
        other = distribution_of("mixture", better)
        assert isinstance(other, Mixture)
        real = min(other.share, 1.0 - other.share) * evidence.total >= FEWEST_OF_A_KIND
        if real and loss - less > 1.5 * math.log(evidence.total * evidence.weight):
            chosen, mode, loss = two, better, less
    if len(evidence.counts) >= 3 and evidence.misfit(chosen.family, mode, FORGIVEN) > MISFIT:
        return _counted(evidence, chosen, widen)
    spread = np.asarray(chosen.spread)
    points = sample(
        lambda p: evidence.log_likelihood(chosen.family, p) + chosen.log_density(p), mode, spread, generator
    )
    if widen > 0.0:
        points[:, 0] += widen * generator.standard_normal(len(points))
    return RouteFit(distribution_of(chosen.family, mode), evidence.total, chosen, _tuples(points))


def _tuples(points: Values) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(point) for point in points.tolist())


def _start(evidence: Evidence, prior: Prior) -> Values:
    """Where the mode is looked for: the mean where the prior has its own."""
    start = np.asarray(prior.centre)
    if evidence.mean > 0:
        sigma = 0.0 if prior.family == "exponential" else math.exp(prior.centre[1])
        start[0] = math.log(evidence.mean) - min(sigma, 1.0) ** 2 / 2
    return start


def _mode(evidence: Evidence, prior: Prior, start: Values, rounds: int = 120) -> tuple[Values, float]:
    """(point, its loss: minus the log of likelihood and prior)."""

    def loss(point: Values) -> float:
        one = point[None, :]
        return -float(evidence.log_likelihood(prior.family, one)[0] + prior.log_density(one)[0])

    found = nelder_mead(loss, start, np.minimum(0.3, 0.5 * np.asarray(prior.spread)), rounds)
    return found, loss(found)


def _best_of_two(evidence: Evidence, prior: Prior, one: Values) -> tuple[Values, float]:
    """The mixture's mode, from three starts: few far off, half and half, few near. `one`: the single family's mode."""
    log_sigma = one[1] if len(one) > 1 else math.log(0.5)
    starts = (
        (one[0] - 0.05, log_sigma - 0.3, math.log(1.8), math.log(0.4), -3.0),
        (one[0] - 0.7, log_sigma - 0.7, math.log(1.5), log_sigma - 0.7, -0.3),
        (one[0] - 0.05, log_sigma - 0.2, math.log(3.5), math.log(0.4), -1.0),
    )
    found = [_mode(evidence, prior, np.asarray(start), 300) for start in starts]
    return min(found, key=lambda pair: pair[1])


def _counted(evidence: Evidence, prior: Prior, widen: float) -> RouteFit:
    bins = tuple(
        (low, high if math.isfinite(high) else 2.0 * low, count * evidence.weight)
        for low, high, count in evidence.bins()
    )
    table = _tabled(list(bins), evidence.mean)
    scale = evidence.mean / table.mean if evidence.mean > 0 else 1.0
    return RouteFit(table.scaled(scale), evidence.total, prior, (), bins, scale, widen)


def _tabled(bins: list[tuple[float, float, float]], mean: float) -> Tabled:
    """Quantiles by interpolation of (probit of the share, log of the edge); straight on beyond the ends."""
    total = sum(count for _, _, count in bins)
    xs: list[float] = []
    ys: list[float] = []
    below = 0.0
    for low, high, count in bins:
        if ys and math.log(low) > ys[-1] + 1e-9:  # a gap between two modes, crossed at once
            xs.append(xs[-1] + 1e-9)
            ys.append(math.log(low))
        below += count
        share = below / total
        if 0.0 < share < 1.0 - 1e-9 and (not xs or probit(share) > xs[-1]):
            xs.append(probit(share))
            ys.append(math.log(high))
    if len(xs) < 2:
        return Tabled((mean, mean))
    points = _MIDPOINTS
    values = np.interp(points, xs, ys)
    first = (ys[1] - ys[0]) / (xs[1] - xs[0])
    last = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
    values = np.where(points < xs[0], ys[0] + np.maximum(first * (points - xs[0]), -math.log(4.0)), values)
    values = np.where(points > xs[-1], ys[-1] + np.minimum(last * (points - xs[-1]), math.log(4.0)), values)
    return Tabled(tuple(float(v) for v in np.exp(values)))


def lognormal_of(mean: float, variance: float) -> LogNormal:
    """The lognormal of these moments."""
    square = math.log1p(max(variance, 0.0) / mean**2)
    return LogNormal(mean / math.exp(square / 2), math.sqrt(square))
