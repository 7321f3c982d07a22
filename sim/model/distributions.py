"""Distributions of durations, as the calibration finds them and the model draws from them. Seconds throughout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from scenarios.model import ServiceTime

Values = npt.NDArray[np.float64]
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class LogNormal:
    """`median` and sigma of the log; sigma 0 is a constant."""

    median: float
    sigma: float

    @property
    def mean(self) -> float:
        return self.median * math.exp(self.sigma * self.sigma / 2)

    def block(self, generator: np.random.Generator, count: int) -> Values:
        if self.median <= 0.0 or self.sigma <= 0.0:
            return np.full(count, max(0.0, self.median))
        return self.median * np.exp(self.sigma * generator.standard_normal(count))

    def scaled(self, factor: float) -> LogNormal:
        return LogNormal(self.median * factor, self.sigma)


@dataclass(frozen=True, slots=True)
class Exponential:
    mean: float

    def block(self, generator: np.random.Generator, count: int) -> Values:
        return self.mean * generator.standard_exponential(count)

    def scaled(self, factor: float) -> Exponential:
        return Exponential(self.mean * factor)


@dataclass(frozen=True, slots=True)
class Tabled:
    """Any distribution, by its quantiles at the midpoints of equal shares, ascending."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    def block(self, generator: np.random.Generator, count: int) -> Values:
        table = np.asarray(self.values)
        position = generator.random(count) * (len(table) - 1)
        below = position.astype(np.int64)
        above = np.minimum(below + 1, len(table) - 1)
        return np.asarray(table[below] + (table[above] - table[below]) * (position - below), dtype=np.float64)

    def scaled(self, factor: float) -> Tabled:
        return Tabled(tuple(value * factor for value in self.values))


@dataclass(frozen=True, slots=True)
class Mixture:
    """Two kinds of request on one route, each lognormal: a cache that hits or misses, a page of many items or few."""

    usual: LogNormal
    other: LogNormal
    share: float
    """Of `other`."""

    @property
    def mean(self) -> float:
        return (1.0 - self.share) * self.usual.mean + self.share * self.other.mean

    def block(self, generator: np.random.Generator, count: int) -> Values:
        usual, other = self.usual.block(generator, count), self.other.block(generator, count)
        return np.where(generator.random(count) < self.share, other, usual)

    def scaled(self, factor: float) -> Mixture:
        return Mixture(self.usual.scaled(factor), self.other.scaled(factor), self.share)


@dataclass(frozen=True, slots=True)
class WithStalls:
    """`body`, and with probability `share` an exponential stall of mean `stall_mean` on top.

    What a scheduler does to a process now and then on a busy machine: rare, long, and all there is to a p99.
    """

    body: LogNormal
    share: float
    stall_mean: float

    @property
    def mean(self) -> float:
        return self.body.mean + self.share * self.stall_mean

    def block(self, generator: np.random.Generator, count: int) -> Values:
        values = self.body.block(generator, count)
        if self.share > 0.0 and self.stall_mean > 0.0:
            stalled = generator.random(count) < self.share
            values = values + stalled * generator.standard_exponential(count) * self.stall_mean
        return values

    def scaled(self, factor: float) -> WithStalls:
        return WithStalls(self.body.scaled(factor), self.share, self.stall_mean)

    def at_pace(self, ratio: float) -> WithStalls:
        """On a machine that takes `ratio` times as long: everything is longer, and stalls are met more often."""
        return WithStalls(self.body.scaled(ratio), min(1.0, self.share * ratio), self.stall_mean * ratio)


Distribution = LogNormal | Exponential | Mixture | Tabled | WithStalls


def declared(time: ServiceTime) -> Distribution:
    """What the application file says of a route."""
    match time.kind:
        case "lognormal":
            return LogNormal(time.median_seconds, time.sigma)
        case "exponential":
            return Exponential(time.median_seconds / math.log(2))
        case "constant":
            return LogNormal(time.median_seconds, 0.0)


def probit(share: float) -> float:
    """The standard normal's quantile."""
    return _NORMAL.inv_cdf(share)


def probit_cdf(value: float) -> float:
    return _NORMAL.cdf(value)
