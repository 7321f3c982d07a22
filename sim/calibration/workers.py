"""How many requests a replica serves at once, where an application is not ours: latency against requests in flight.

With c workers and service time S, latency is S while fewer than c are in flight and S n/c beyond: the next one waits
for n - c departures, S/c apart. The same holds for a CPU shared by all, with c cores' worth of it. So the knee tells c,
and a window that never reached the knee tells a lower bound and nothing else: the posterior is then the prior above it.

    single requests    in flight = those sent before and not yet answered, spread over the replicas; each group of
                       about equal n gives a median latency
    counters           intervals of a scrape: rate and mean latency against the M/M/c curve. In flight cannot be used
                       there: it *is* rate x latency, and a slow second would look like a knee

On a grid of c. Medians and a model error of 15 % keep stalls from looking like saturation. S is unknown beside c: of
single requests it is maximised out, of counters it is summed over, for near saturation few S give the latency that was
seen and far from it as many as its error allows. Whether the posterior is right is tried in
tests/sim/calibration/test_workers.py, on windows of the twin with known workers.

Source of the spread: power of two choices balances to within one request (Mitzenmacher 2001).

Rejected for counters: the lowest mean as S, and steady-state waits at the rate of each interval. An interval that had
by chance more requests than c workers can serve then ruled c out, and the posterior sat above the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
PRIOR_SIGMA = 1.0
"""Of the log of the workers that an application file of a foreign program names."""
MODEL_ERROR = 0.15
FEWEST_IN_GROUP = 5
GRID = tuple(sorted({round(1.08**k) for k in range(110)} | set(range(1, 65))))
"""1 to 4,400."""
DRAWS = 100
GROUP_RATIO = 1.2
"""Of requests in flight from one group to the next: each number by itself up to five, then a few together, for a model
error is common to neighbours and a long queue has hundreds of them."""
MOST_SPREAD = 1.2
"""Sigma of the log of latencies in the quietest group that is believed to be the service time's."""
LEAST_OF_LATENCY, SERVICE_TIMES = 0.03, 160
"""Service times that counters are tried with, over the usual latency: from nearly all of it waited for to none."""
WAIT_FACTORS = (0.55, 1.0, 1.6)
"""Of M/M/c's wait: (1 + CV²)/2 of service times from nearly constant ones to rather wild ones (Allen and Cunneen)."""
SCATTER_KNOWN = 4.0
"""Intervals that the model error is worth as knowledge of their scatter."""
BEYOND = 1.6
"""Times what was seen in flight: where hardly any posterior is left of more workers than that, the knee was seen."""


@dataclass(frozen=True, slots=True)
class WorkersFit:
    """The workers of one replica of a service that is not ours."""

    declared: int
    draws: tuple[int, ...]
    told: bool
    """Whether the window reached the knee."""
    at_least: float = 0.0
    """Requests in flight in one replica that it served without slowing down."""

    def draw(self, generator: np.random.Generator) -> int:
        return self.draws[int(generator.integers(len(self.draws)))]

    @property
    def centre(self) -> int:
        return int(np.median(self.draws))


def workers_from_requests(
    declared: int, replicas: int, sent: Sequence[float], latencies: Sequence[float]
) -> WorkersFit:
    """From single requests to one service, in any order. `sent`: seconds. `latencies`: seconds, of equal kinds (divide
    by the route's usual one where routes differ)."""
    order = np.argsort(np.asarray(sent, dtype=np.float64), kind="stable")
    begin = np.asarray(sent, dtype=np.float64)[order]
    took = np.asarray(latencies, dtype=np.float64)[order]
    # Sent before me, less those that were answered by then.
    flying = np.arange(len(begin)) - np.searchsorted(np.sort(begin + took), begin, side="right")
    here = _among(np.maximum(flying, 0), replicas)
    groups = np.floor(np.log(here) / math.log(GROUP_RATIO) + 1e-9)
    loads: list[float] = []
    medians: list[float] = []
    errors: list[float] = []
    spreads: list[float] = []
    for group in np.unique(groups):
        chosen = groups == group
        if chosen.sum() < FEWEST_IN_GROUP:
            continue
        logs = np.log(np.maximum(took[chosen], 1e-6))
        loads.append(float(here[chosen].mean()))
        medians.append(float(np.median(logs)))
        spreads.append(float(logs.std()))
        errors.append(1.25 * spreads[-1] / math.sqrt(len(logs)))
    if not loads:
        return _from_weights(declared, np.zeros(len(GRID)), 0.0)
    # Who waits, waits for whole times of others: their mean, which lies above the median by half their variance.
    mean_over_median = math.exp(min(MOST_SPREAD, spreads[0]) ** 2 / 2.0)
    grid = np.asarray(GRID, dtype=np.float64)[:, None]
    curves = np.log1p(mean_over_median * np.maximum(0.0, np.asarray(loads)[None, :] / grid - 1.0))
    return _from_weights(declared, _log_likelihood(curves, np.asarray(medians), np.asarray(errors)), max(loads))


def _among(flying: Values, replicas: int) -> Values:
    """Requests at the replica that one more goes to, itself included. Evenly spread, a share of the replicas has one
    more than the others, and the better of two has it only where both do."""
    whole = np.floor(flying / replicas)
    found: Values = whole + np.square(flying / replicas - whole) + 1.0
    return found


def workers_from_load(
    declared: int, replicas: int, rates: Sequence[float], latencies: Sequence[float], counts: Sequence[float]
) -> WorkersFit:
    """From intervals: requests a second over all replicas, mean latency in seconds, requests behind it."""
    kept = [
        (r, w, n) for r, w, n in zip(rates, latencies, counts, strict=True) if n >= FEWEST_IN_GROUP and w > 0 and r > 0
    ]
    if len(kept) < 3:
        return _from_weights(declared, np.zeros(len(GRID)), 0.0)
    rate, latency, count = (np.asarray(column, dtype=np.float64) for column in zip(*kept, strict=True))
    seconds = count / rate
    usual = float(np.median(latency))
    times = usual * np.exp(np.linspace(math.log(LEAST_OF_LATENCY), math.log(1.5), SERVICE_TIMES))[:, None]
    offered = _smoothed(rate, count)[None, :] * times / replicas
    waits = _waits(offered, float(seconds.sum()) / times)
    log_likelihood = np.asarray(
        [
            np.logaddexp.reduce(
                [_of_times(np.log(latency / times), count, factor * wait) for factor in WAIT_FACTORS], axis=None
            )
            for wait in waits
        ]
    )
    return _from_weights(declared, log_likelihood, float(np.max(rate) * np.min(latency) / replicas))


def _smoothed(rate: Values, count: Values) -> Values:
    """Rates without what chance adds to them: an interval that had more requests is not a time of more load."""
    usual = float(count.sum() / (count / rate).sum())
    apart = np.log(rate / usual)
    seen = float(np.mean(np.square(apart)))
    kept = max(0.0, 1.0 - float(np.mean(1.0 / count)) / seen) if seen > 0.0 else 0.0
    found: Values = usual * np.exp(kept * apart)
    return found


def _waits(offered: Values, window: Values) -> Iterator[Values]:
    """Of each number of workers on the grid: mean wait over service time in M/M/c, (service times, intervals).
    `offered`: Erlang. `window`: its length in service times; beyond capacity, and close to it, what it piles up."""
    blocking = np.ones_like(offered)
    servers = 0
    for workers in GRID:
        while servers < workers and blocking.max() > 1e-9:
            servers += 1
            blocking = offered * blocking / (servers + offered * blocking)
        if blocking.max() <= 1e-9:
            yield np.zeros_like(offered)
            continue
        free = np.maximum(workers - offered, 1e-9)
        usual = workers * blocking / (free + offered * blocking) / free
        most = np.sqrt(window / workers)  # of a queue that wanders without a drift
        yield usual * most / (usual + most) + np.maximum(0.0, offered / workers - 1.0) * window / 2.0


def _of_times(logs: Values, count: Values, wait: Values) -> Values:
    """Log likelihood of each service time, whatever the scatter of intervals about the curve: what queues and stalls
    make of it is wild, and no reason to believe in the one or the other. `logs`: of latency over service time."""
    apart = np.square(logs - np.log1p(wait)) / (1.0 + 1.0 / (count * MODEL_ERROR**2))
    sum_of_squares = SCATTER_KNOWN * MODEL_ERROR**2 + apart.sum(axis=1)
    found: Values = -0.5 * (SCATTER_KNOWN + apart.shape[1]) * np.log(sum_of_squares)
    return found


def _log_likelihood(curves: Values, logs: Values, errors: Values) -> Values:
    """Of each number of workers. `curves`: log of latency over S, (grid, points)."""
    weights = 1.0 / (np.square(errors) + MODEL_ERROR**2)
    apart = logs[None, :] - curves
    level = (apart * weights).sum(axis=1, keepdims=True) / weights.sum()
    found: Values = -0.5 * (np.square(apart - level) * weights).sum(axis=1)
    return found


def _from_weights(declared: int, log_likelihood: Values, most: float) -> WorkersFit:
    """`most`: the largest number in flight in one replica that the window saw."""
    grid = np.asarray(GRID, dtype=np.float64)
    steps = np.gradient(np.log(grid))
    prior = np.exp(-0.5 * (np.log(grid / max(declared, 1)) / PRIOR_SIGMA) ** 2) * steps
    posterior = prior * np.exp(log_likelihood - log_likelihood.max())
    posterior /= posterior.sum()
    draws = np.searchsorted(np.cumsum(posterior), (np.arange(DRAWS) + 0.5) / DRAWS)
    chosen = tuple(int(GRID[min(int(i), len(GRID) - 1)]) for i in draws)
    spread = float(np.std(np.log(chosen)))
    # The knee itself, and not the bound from below that any load leaves.
    beyond = float(posterior[grid > BEYOND * max(most, 1.0)].sum()) if most > 0 else 1.0
    return WorkersFit(declared, chosen, spread < 0.5 * PRIOR_SIGMA and beyond < 0.05, most)
