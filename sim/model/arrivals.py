"""Arrivals: how many, and whether they come one by one or in bursts.

The rate has a Gamma posterior from the count. Bursts are told by the index of dispersion: variance over mean of the
counts in equal intervals, 1 for Poisson. With k intervals, (k-1) x (index seen) / (index) is chi-square with k-1
degrees of freedom, near enough (Fisher's dispersion test), which is its posterior too. Arrivals that the test does not
tell from Poisson at 1 % are Poisson; others are played as a renewal process of Gamma gaps, whose counts in long
intervals have the wanted index. Rejected: a Markov-modulated process (two more parameters than half a minute can tell).

Where the load generator is ours and its seed is known, there is nothing to tell: a drill's arrivals are a `Schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.model.distributions import Exponential

Values = npt.NDArray[np.float64]
FEWEST_INTERVALS = 8
FEWEST_PER_INTERVAL = 2.0
"""Mean count below which the index says nothing: nearly all intervals then hold 0 or 1."""
UNLIKELY = 2.33
"""Standard normal quantile of 1 %."""
PRIOR_SIGMA = 0.5
"""Of the log of the index, where arrivals are not our own load generator's and the window cannot tell."""
LARGEST = 50.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Arrivals that are known before they come: our own load generator's, which its seed decides."""

    at: tuple[float, ...]
    """Seconds from the planned injection, ascending."""
    journeys: tuple[str, ...]
    """The name of each."""


@dataclass(frozen=True, slots=True)
class Dispersion:
    """What the window says of bursts."""

    seen: float | None = None
    """Index of dispersion of the counts; None: too few intervals or arrivals."""
    intervals: int = 0
    poisson: bool = True
    """The driver is ours, or the test does not tell the arrivals from Poisson."""

    def draw(self, generator: np.random.Generator) -> float:
        """One index that the window does not contradict, at least 1."""
        if self.poisson:
            return 1.0
        if self.seen is None:
            return max(1.0, float(np.exp(PRIOR_SIGMA * generator.standard_normal())))
        degrees = self.intervals - 1
        return min(LARGEST, max(1.0, self.seen * degrees / float(generator.chisquare(degrees))))

    @property
    def centre(self) -> float:
        return 1.0 if self.poisson or self.seen is None else min(LARGEST, max(1.0, self.seen))


def dispersion(counts: Sequence[float], ours: bool) -> Dispersion:
    """From arrivals in equal intervals. `ours`: our own load generator sent them, which is Poisson by construction."""
    mean = sum(counts) / len(counts) if counts else 0.0
    if len(counts) < FEWEST_INTERVALS or mean < FEWEST_PER_INTERVAL:
        return Dispersion(poisson=ours)
    seen = float(np.var(np.asarray(counts, dtype=np.float64), ddof=1)) / mean
    degrees = len(counts) - 1
    # Wilson and Hilferty: the cube root of a chi-square over its degrees is nearly normal.
    z = (seen ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    return Dispersion(seen, len(counts), ours or z < UNLIKELY)


def gaps(index: float) -> Callable[[np.random.Generator, int], Values]:
    """Gaps of mean 1 whose counts have this index of dispersion in long intervals."""
    if index == 1.0:
        return Exponential(1.0).block

    def block(generator: np.random.Generator, count: int) -> Values:
        return generator.gamma(1.0 / index, index, count)

    return block
