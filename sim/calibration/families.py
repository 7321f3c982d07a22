"""Families of service-time distributions as points: coordinates without bounds, many points at once.

A point is what a fit moves and a posterior consists of. Coordinates:

    lognormal     log median, log sigma
    exponential   log mean
    mixture       log median and log sigma of the usual kind; log of the distance between the logs of both medians,
                  log sigma of the other kind (always the slower one), logit of its share

Normal priors on these coordinates say what is known before the window: the application file's declared time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sim.model.distributions import Distribution, Exponential, LogNormal, Mixture

Values = npt.NDArray[np.float64]
Family = Literal["lognormal", "exponential", "mixture"]
_ERFC = np.frompyfunc(math.erfc, 1, 1)
SMALLEST_SIGMA = 0.02


@dataclass(frozen=True, slots=True)
class Prior:
    """Before the window: independent normals on a family's coordinates."""

    family: Family
    centre: tuple[float, ...]
    spread: tuple[float, ...]

    def log_density(self, points: Values) -> Values:
        """Up to a constant. `points`: (n, coordinates)."""
        z = (points - np.asarray(self.centre)) / np.asarray(self.spread)
        density: Values = -0.5 * np.square(z).sum(axis=1)
        return density

    def draws(self, generator: np.random.Generator, count: int) -> Values:
        return np.asarray(self.centre) + np.asarray(self.spread) * generator.standard_normal((count, len(self.centre)))


def prior_of(declared: Distribution, trusted: bool, family: Family | None = None) -> Prior:
    """`trusted`: the program is our own workload, which keeps what its file declares but for the machine's part in it.
    Of a program that is not ours the file's numbers are somebody's guess: a factor of two is nothing."""
    time_spread, sigma_spread = (0.35, 0.3) if trusted else (0.7, 0.6)
    if isinstance(declared, Exponential) and family in (None, "exponential"):
        return Prior("exponential", (math.log(max(declared.mean, 1e-7)),), (time_spread,))
    if isinstance(declared, LogNormal):
        median, sigma = declared.median, declared.sigma
    else:
        median, sigma = declared.mean * 0.7, 0.8
    log_median, log_sigma = math.log(max(median, 1e-7)), math.log(max(sigma, SMALLEST_SIGMA))
    if family == "mixture":
        centre = (log_median, log_sigma, math.log(1.3), math.log(0.4), -2.5)
        return Prior("mixture", centre, (max(time_spread, 0.5), 0.6, 0.6, 0.6, 1.5))
    return Prior("lognormal", (log_median, log_sigma), (time_spread, sigma_spread))


def distribution_of(family: Family, point: tuple[float, ...] | Values) -> Distribution:
    """The distribution at one point."""
    if family == "exponential":
        return Exponential(math.exp(point[0]))
    usual = LogNormal(math.exp(point[0]), math.exp(point[1]))
    if family == "lognormal":
        return usual
    other = LogNormal(math.exp(point[0] + math.exp(point[2])), math.exp(point[3]))
    return Mixture(usual, other, 1.0 / (1.0 + math.exp(-point[4])))


def cdf(family: Family, points: Values, times: Values) -> Values:
    """P(time <= t) for each of n points and m times: (n, m). Times above 0, inf allowed."""
    logs = np.log(times)[None, :]
    if family == "exponential":
        scaled: Values = -np.expm1(-np.exp(np.minimum(logs - points[:, :1], 50.0)))
        return scaled
    usual = _normal_cdf((logs - points[:, :1]) / np.exp(points[:, 1:2]))
    if family == "lognormal":
        return usual
    share = 1.0 / (1.0 + np.exp(-points[:, 4:5]))
    other = _normal_cdf((logs - points[:, :1] - np.exp(points[:, 2:3])) / np.exp(points[:, 3:4]))
    mixed: Values = (1.0 - share) * usual + share * other
    return mixed


def is_bimodal(mixture: Mixture) -> bool:
    """Whether the density of the log of the time has two modes, on a grid of a twentieth of the smaller sigma."""
    low, high = math.log(mixture.usual.median), math.log(mixture.other.median)
    at = np.linspace(low, high, max(41, int((high - low) / (0.05 * min(mixture.usual.sigma, mixture.other.sigma)))))
    density = sum(
        share / part.sigma * np.exp(-0.5 * ((at - math.log(part.median)) / part.sigma) ** 2)
        for share, part in ((1 - mixture.share, mixture.usual), (mixture.share, mixture.other))
    )
    slopes = np.sign(np.diff(np.asarray(density)))
    turns = slopes[slopes != 0]
    return bool(np.any((turns[:-1] < 0) & (turns[1:] > 0)))


def _normal_cdf(z: Values) -> Values:
    """numpy has no error function, and scipy for this one would be our heaviest dependency."""
    return 0.5 * np.asarray(_ERFC(-z / math.sqrt(2.0)), dtype=np.float64)
