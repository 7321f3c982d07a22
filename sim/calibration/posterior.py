"""Draws from a posterior of a few coordinates: adaptive importance sampling around the mode.

    mode (Nelder-Mead) -> curvature there -> heavy-tailed proposals -> weights -> a new centre and spread -> 100 draws

Seeded by the caller and free of the clock, so that the same window gives the same draws. Each step asks for the density
of hundreds of points at once. Laplace's normal alone was tried: it is right for a route seen a thousand times and far
too narrow on one side where all counts lie in one bucket, which is where a posterior matters. Rejected: Markov chains
(the same draws for fifty times the work in two to five dimensions).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Density = Callable[[Values], Values]
"""Log density, up to a constant, of n points: (n, coordinates) -> (n,)."""
PROPOSALS = 400
DRAWS = 100
ROUNDS = 3
ENOUGH = 80.0
"""Effective size of the weighted proposals that ends the adaptation."""
FREEDOM = 5.0
"""Degrees of freedom of the proposals' t distribution."""


def sample(
    density: Density,
    mode: Values,
    spread: Values,
    generator: np.random.Generator,
    proposals: int = PROPOSALS,
    draws: int = DRAWS,
) -> Values:
    """`draws` points of the density: (draws, coordinates). `mode`: near its top; `spread`: the prior's, as a scale."""
    centre, covariance = mode, _covariance(density, mode, spread)
    points, weights = mode[None, :], np.ones(1)
    for _ in range(ROUNDS):
        points, weights = _weighed(density, centre, covariance, generator, proposals)
        if 1.0 / float(np.square(weights).sum()) >= min(ENOUGH, proposals / 4):
            break
        centre = weights @ points
        apart = points - centre
        covariance = (weights[:, None] * apart).T @ apart + 1e-3 * np.diag(np.square(spread))
    at = (np.arange(draws) + float(generator.random())) / draws
    chosen = np.minimum(np.searchsorted(np.cumsum(weights), at), len(points) - 1)
    drawn: Values = generator.permutation(points[chosen])
    return drawn


def _weighed(
    density: Density, centre: Values, covariance: Values, generator: np.random.Generator, count: int
) -> tuple[Values, Values]:
    """Proposals and their weights, which sum to 1."""
    size = len(centre)
    root = np.linalg.cholesky(covariance)
    normals = generator.standard_normal((count, size))
    stretch = np.sqrt(FREEDOM / generator.chisquare(FREEDOM, count))
    points = centre + (normals * stretch[:, None]) @ root.T
    proposed = -0.5 * (FREEDOM + size) * np.log1p(np.square(normals * stretch[:, None]).sum(axis=1) / FREEDOM)
    logs = density(points) - proposed
    logs = np.where(np.isfinite(logs), logs, -np.inf)
    if not np.isfinite(logs).any():
        return points, np.full(count, 1.0 / count)
    weights = np.exp(logs - logs.max())
    return points, weights / weights.sum()


def _covariance(density: Density, mode: Values, spread: Values) -> Values:
    """Inverse of the curvature at the mode, by differences whose steps are about one standard deviation."""
    steps = 0.3 * spread
    curvature = np.diag(1.0 / np.square(spread))
    for _ in range(2):
        curvature = _curvature(density, mode, steps)
        steps = np.clip(1.0 / np.sqrt(np.maximum(np.diag(curvature), 1e-12)), 1e-3 * spread, spread)
    values, vectors = np.linalg.eigh(curvature)
    least = 0.25 / float(np.square(spread).max())
    found: Values = vectors @ np.diag(1.0 / np.maximum(values, least)) @ vectors.T
    return found


def _curvature(density: Density, mode: Values, steps: Values) -> Values:
    size = len(mode)
    shifts = [np.zeros(size)]
    for i in range(size):
        for j in range(i, size):
            for first, second in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                shift = np.zeros(size)
                shift[i] += 0.5 * first * steps[i]
                shift[j] += 0.5 * second * steps[j]
                shifts.append(shift)
    logs = density(mode + np.asarray(shifts))
    found = np.zeros((size, size))
    at = 1
    for i in range(size):
        for j in range(i, size):
            mixed = logs[at] - logs[at + 1] - logs[at + 2] + logs[at + 3]
            found[i, j] = found[j, i] = -mixed / (steps[i] * steps[j])
            at += 4
    return found
