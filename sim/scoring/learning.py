"""Learning the discrepancy from past runs: how wide must it be for 90 % intervals to hold what 90 % intervals hold?

Each scored prediction is an error e on the scale on which discrepancies add, beside the spread s that its ensemble
had; the discrepancy's own part of it, u, is known from the forecast, so what the model itself says is s² - u². The
learned sigma is the one whose intervals, ±1.645 sqrt(s² - u² + sigma²), have the lowest interval score: a proper score,
and at its optimum the interval is the one that is promised. Every run weighs the same, however many its quantities.

Few runs say little: sigma² is a mean of what the runs say and what was used before, which weighs as much as
`PRIOR_RUNS` of them. A group with fewer than `FEWEST_RUNS` is not learned at all.

An error that has a sign is not corrected for. A discrepancy that shifts forecasts would hide a mechanism that is
missing; one that widens them shows it, as a wide interval.

Rejected: the likelihood of a normal distribution (one run that went otherwise doubles sigma), and coverage itself as
the aim (a step function of sigma, with a plateau between any two runs).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from sim.forecast.discrepancy import SPREAD, Entry, beside
from sim.replication.quantities import Floats
from sim.scoring.score import LEVELS, Detail

FEWEST_RUNS = 6
FEWEST_RUNS_OF_ALL = 8
"""For the entry over all families together, which serves those that have too few."""
PRIOR_RUNS = 3.0
LEVEL = 0.9
GRID = (0.0, *(float(value) for value in np.geomspace(0.002, 2.0, 61)))
Group = tuple[str, str, str]
"""(family, quantity, window); family empty: all."""


@dataclass(frozen=True, slots=True)
class Residual:
    """One scored prediction."""

    run: str
    family: str
    quantity: str
    window: str
    error: float
    own: float
    """Variance of the ensemble without its discrepancy."""
    used: float
    """Sigma of the discrepancy that the forecast was made with."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """How the quantities of one run fared with one discrepancy."""

    inside: tuple[float, ...]
    """How many, at each of `LEVELS`."""
    score: float
    """Sum of their interval scores at `LEVEL`; lower is better."""


@dataclass(frozen=True, slots=True)
class Served:
    """One run, with what other runs teach and with what was used."""

    learned: Intervals
    used: Intervals
    quantities: int


def residual_of(run: str, family: str, row: Detail) -> Residual | None:
    """None where the quantity has no discrepancy or the forecast did not say which it had.

    A success rate that the ensemble has at the edge (no request failed, or all) has none either: a logit of nothing is
    nothing.
    """
    if row.quantity not in SPREAD or row.error is None or row.spread is None or row.discrepancy is None:
        return None
    if row.quantity == "success_rate" and not 0.0 < row.median < 1.0:
        return None
    own = max(0.0, row.spread**2 - row.discrepancy**2)
    return Residual(run, family, row.quantity, row.window, row.error, own, row.discrepancy)


def learn(residuals: Sequence[Residual], missing: int = 0) -> list[Entry]:
    """Entries for every group with enough runs, sorted. `missing`: runs that were left out, and count as if there."""
    entries = []
    for (family, quantity, window), some in sorted(_groups(residuals).items()):
        runs = len({residual.run for residual in some})
        if runs + missing >= (FEWEST_RUNS if family else FEWEST_RUNS_OF_ALL):
            sigma = float(f"{_shrunk(some, runs):.4g}")
            entries.append(
                Entry(family=family, quantity=quantity, window=window, sigma=sigma, runs=runs, quantities=len(some))
            )
    return entries


def leave_one_out(residuals: Sequence[Residual]) -> dict[str, list[Served]]:
    """How well it would have served each run, learned from the others; by quantity."""
    found: dict[str, list[Served]] = {}
    for run, own in _by_run(residuals).items():
        entries = learn([residual for residual in residuals if residual.run != run], missing=1)
        for quantity, runs in serve(own, entries).items():
            found.setdefault(quantity, []).extend(runs)
    return found


def serve(residuals: Sequence[Residual], entries: Iterable[Entry]) -> dict[str, list[Served]]:
    """How well `entries` would have served runs that did not teach them; by quantity.

    Intervals are taken to be normal on the transformed scale, and what was used to be the baseline's own (a little too
    wide for forecasts that used learned ones).
    """
    known = {(entry.family, entry.quantity, entry.window): entry.sigma for entry in entries}
    found: dict[str, list[Served]] = {}
    for own in _by_run(residuals).values():
        by_quantity: dict[str, list[Residual]] = {}
        for residual in own:
            by_quantity.setdefault(residual.quantity, []).append(residual)
        for quantity, some in by_quantity.items():
            learned = _intervals(some, [_sigma_for(residual, known) for residual in some])
            used = _intervals(some, [residual.used for residual in some])
            found.setdefault(quantity, []).append(Served(learned, used, len(some)))
    return found


def _by_run(residuals: Iterable[Residual]) -> dict[str, list[Residual]]:
    found: dict[str, list[Residual]] = {}
    for residual in residuals:
        found.setdefault(residual.run, []).append(residual)
    return found


def _intervals(residuals: Sequence[Residual], sigmas: Sequence[float]) -> Intervals:
    errors = np.array([abs(residual.error) for residual in residuals])
    spreads = np.sqrt(np.array([residual.own for residual in residuals]) + np.square(sigmas))
    inside = tuple(float(np.sum(errors <= _reach(level) * spreads + 1e-12)) for level in LEVELS)
    return Intervals(inside, float(np.sum(_scores(errors, spreads))))


def _scores(errors: Floats, spreads: Floats) -> Floats:
    """Interval scores at `LEVEL` of normal forecasts with these spreads that were wrong by `errors`, without sign."""
    half = _reach(LEVEL) * spreads
    return 2.0 * half + 2.0 / (1.0 - LEVEL) * np.maximum(errors - half, 0.0)


def _sigma_for(residual: Residual, known: Mapping[Group, float]) -> float:
    for family in (residual.family, ""):
        sigma = known.get((family, residual.quantity, residual.window))
        if sigma is not None:
            return beside(sigma, residual.quantity, residual.used)
    return residual.used


def _reach(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2.0)


def _groups(residuals: Iterable[Residual]) -> dict[Group, list[Residual]]:
    groups: dict[Group, list[Residual]] = {}
    for residual in residuals:
        for family in (residual.family, ""):
            groups.setdefault((family, residual.quantity, residual.window), []).append(residual)
    return groups


def _shrunk(residuals: Sequence[Residual], runs: int) -> float:
    fitted = _fit(residuals)
    before = math.fsum(residual.used**2 for residual in residuals) / len(residuals)
    return math.sqrt((runs * fitted**2 + PRIOR_RUNS * before) / (runs + PRIOR_RUNS))


def _fit(residuals: Sequence[Residual]) -> float:
    sizes: dict[str, int] = {}
    for residual in residuals:
        sizes[residual.run] = sizes.get(residual.run, 0) + 1
    weights = np.array([1.0 / sizes[residual.run] for residual in residuals])
    errors = np.array([abs(residual.error) for residual in residuals])
    own = np.array([residual.own for residual in residuals])
    return min(GRID, key=lambda sigma: float(weights @ _scores(errors, np.sqrt(own + sigma**2))))
