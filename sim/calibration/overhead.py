"""The overhead of a hop, from client latencies: simulated moments.

The twin plays the baseline once with next to no overhead. A step of h hops then takes what it took there plus h draws
from the overhead's distribution, so trial distributions are compared with the measured quantiles without playing again:

    latency quantiles measured  ≈  quantiles of (played latency + sum of h draws)

Body (median, sigma) and stalls (share, mean) are moved by Nelder–Mead on common random numbers until the quantiles
agree, each weighed by how well the window knows it (bootstrap). A weak prior keeps stalls small where the tail does
not ask for them. Valid while hops do not queue for each other in the healthy state; a last play checks the median.

Rejected: matching p50 and p95 by playing the twin again and again (five plays and no convergence where the spread comes
mostly from self times), and fitting each service's own overhead (steps on one path cannot tell them apart).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.model.distributions import LogNormal, WithStalls

Values = npt.NDArray[np.float64]
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
FEWEST_BEYOND = 3.0
"""A level takes part when at least this many samples lie beyond it."""
MODEL_SIGMA = 0.03
"""Of the log: what even a perfect fit leaves at each level. With 1 % the middle of the distribution, which is known
best, was met at the price of the tail wherever the model is a little wrong: on a busy machine p99 came out half as long
again. With this, 90 % intervals of known overheads held 34 to 38 of 40 (median, sigma, mean)."""
PRIOR_CENTRE = (math.log(0.003), -0.9, -6.5, -4.0)
"""Of the logs of median, sigma, stall share and mean stall."""
PRIOR_SPREAD = (0.6, 0.4, 2.83, 1.41)
"""The median's takes no part in the fit: latencies tell it, or nothing does. Sigma may not stand in for stalls."""


@dataclass(frozen=True, slots=True)
class StepEvidence:
    """One journey step: measured latencies, latencies played without overhead, hops. Seconds, ascending."""

    measured: Values
    played: Values
    hops: int


class _Comparison:
    """One step with all that stays the same between trials."""

    def __init__(self, step: StepEvidence, generator: np.random.Generator) -> None:
        size = len(step.measured)
        self.levels = [q for q in LEVELS if size * min(q, 1.0 - q) >= FEWEST_BEYOND]
        self.target = np.log(np.quantile(step.measured, self.levels))
        drawn = np.log(np.quantile(generator.choice(step.measured, (60, size)), self.levels, axis=1))
        self.weight = 1.0 / (drawn.var(axis=1) + MODEL_SIGMA**2)
        count = max(2_000, len(step.played))
        self.played = generator.choice(step.played, count)
        self.normals = generator.standard_normal((step.hops, count))
        self.chances = generator.random((step.hops, count))
        self.stalls = generator.standard_exponential((step.hops, count))

    def loss(self, overhead: WithStalls) -> float:
        body = overhead.body
        extra = body.median * np.exp(body.sigma * self.normals)
        extra += (self.chances < overhead.share) * self.stalls * overhead.stall_mean
        model = np.log(np.quantile(self.played + extra.sum(axis=0), self.levels))
        return float((self.weight * (model - self.target) ** 2).sum())


def overhead_loss(steps: Sequence[StepEvidence], seed: int) -> Callable[[Values], float]:
    """Minus twice the log of the posterior at a point (see `overhead_at`), up to a constant; the same for each call."""
    generator = np.random.Generator(np.random.SFC64(seed))
    comparisons = [_Comparison(step, generator) for step in steps]
    centre, spread = np.asarray(PRIOR_CENTRE[1:]), np.asarray(PRIOR_SPREAD[1:])

    def loss(point: Values) -> float:
        overhead = overhead_at(point)
        apart = (point[1:] - centre) / spread
        return sum(comparison.loss(overhead) for comparison in comparisons) + float(apart @ apart)

    return loss


def fit_overhead(loss: Callable[[Values], float], steps: Sequence[StepEvidence]) -> Values:
    """The point that explains the measured latencies best. At least one step, each with some answers."""
    median = max(2e-4, missing_overhead(steps))
    start = np.asarray([math.log(median), -0.9, -6.0, -4.0])
    return nelder_mead(loss, start, np.asarray([0.3, 0.4, 1.0, 0.5]), rounds=160)


def missing_overhead(steps: Sequence[StepEvidence]) -> float:
    """Seconds that a hop took beyond what was played without overhead, medians, over all steps. Negative where the
    play alone is too slow."""
    missing = [(float(np.median(step.measured)) - float(np.median(step.played))) / step.hops for step in steps]
    return float(np.average(missing, weights=[len(step.measured) for step in steps]))


def overhead_at(point: Values | tuple[float, ...]) -> WithStalls:
    """Coordinates are logs of median, sigma, stall share and mean stall; kept within what makes sense."""
    body = LogNormal(math.exp(min(0.0, max(-11.0, point[0]))), math.exp(min(0.5, max(-3.5, point[1]))))
    return WithStalls(body, math.exp(min(-1.6, point[2])), math.exp(min(0.0, max(-7.0, point[3]))))


def nelder_mead(function: Callable[[Values], float], start: Values, size: Values, rounds: int) -> Values:
    """A minimum by the downhill simplex (Nelder and Mead 1965), standard coefficients."""
    simplex = [start, *(start + np.eye(len(start))[i] * size for i in range(len(start)))]
    worth = [function(point) for point in simplex]
    for _ in range(rounds):
        order = np.argsort(worth, kind="stable")
        simplex = [simplex[i] for i in order]
        worth = [worth[i] for i in order]
        if worth[-1] - worth[0] < 1e-4 * (1.0 + abs(worth[0])):
            break
        centre = np.mean(simplex[:-1], axis=0)
        reflected = centre + (centre - simplex[-1])
        value = function(reflected)
        if value < worth[0]:
            expanded = centre + 2.0 * (centre - simplex[-1])
            further = function(expanded)
            simplex[-1], worth[-1] = (expanded, further) if further < value else (reflected, value)
        elif value < worth[-2]:
            simplex[-1], worth[-1] = reflected, value
        else:
            contracted = centre + 0.5 * (simplex[-1] - centre)
            nearer = function(contracted)
            if nearer < worth[-1]:
                simplex[-1], worth[-1] = contracted, nearer
            else:
                simplex = [simplex[0], *(simplex[0] + 0.5 * (point - simplex[0]) for point in simplex[1:])]
                worth = [worth[0], *(function(point) for point in simplex[1:])]
    best: Values = simplex[int(np.argmin(worth))]
    return best


def correction(measured: Mapping[str, Values], played: Mapping[str, Values], hops: Mapping[str, int]) -> float:
    """Seconds to add to each hop's median so that the played medians meet the measured ones, over all steps."""
    weighed = total = 0.0
    for route, values in measured.items():
        model = played.get(route)
        if model is None or len(model) < 5:
            continue
        # Steps are weighed by what they know of a hop: many samples, little spread of their own.
        spread = max(float(np.quantile(values, 0.75) - np.quantile(values, 0.25)), 1e-6) / hops[route]
        weight = len(values) / spread**2
        weighed += weight * float(np.median(values) - np.median(model)) / hops[route]
        total += weight
    return weighed / total if total else 0.0
