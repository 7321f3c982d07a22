"""How many requests a replica serves at once, where an application is not ours: latency against requests in flight.

With c workers and service time S, latency is S while fewer than c are in flight and S n/c beyond: the next one waits
for n - c departures, S/c apart. The same holds for a CPU shared by all, with c cores' worth of it. So the knee tells c,
and a window that never reached the knee tells a lower bound and nothing else: the posterior is then the prior above it.

    single requests    in flight = those sent before and not yet answered, spread evenly over the replicas;
                       each group of equal n gives a median latency
    counters           intervals of a scrape: rate and mean latency against the M/M/c curve. In flight cannot be used
                       there: it *is* rate x latency, and a slow second would look like a knee

On a grid of c, with S maximised out. Medians and a model error of 15 % keep stalls from looking like saturation.
Source of the even spread: power of two choices balances to within one request (Mitzenmacher 2001).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    here = np.maximum(flying, 0) / replicas + 1.0
    groups = np.unique(np.round(here * 2) / 2)
    loads: list[float] = []
    medians: list[float] = []
    errors: list[float] = []
    for group in groups:
        values = took[np.round(here * 2) / 2 == group]
        if len(values) < FEWEST_IN_GROUP:
            continue
        logs = np.log(np.maximum(values, 1e-6))
        loads.append(float(group))
        medians.append(float(np.median(logs)))
        errors.append(1.25 * float(logs.std()) / math.sqrt(len(values)))
    if not loads:
        return _from_weights(declared, np.zeros(len(GRID)), 0.0)
    grid = np.asarray(GRID, dtype=np.float64)[:, None]
    curves = np.log(np.maximum(1.0, np.asarray(loads)[None, :] / grid))
    return _from_weights(declared, _log_likelihood(curves, np.asarray(medians), np.asarray(errors)), max(loads))


def workers_from_load(
    declared: int, replicas: int, rates: Sequence[float], latencies: Sequence[float], counts: Sequence[float]
) -> WorkersFit:
    """From intervals: requests a second over all replicas, mean latency in seconds, requests behind it."""
    kept = [(r, w, n) for r, w, n in zip(rates, latencies, counts, strict=True) if n >= FEWEST_IN_GROUP and w > 0]
    if len(kept) < 3:
        return _from_weights(declared, np.zeros(len(GRID)), 0.0)
    rate, latency, count = (np.asarray(column, dtype=np.float64) for column in zip(*kept, strict=True))
    service = float(np.min(latency))
    curves = np.asarray([[_wait(c, r * service / replicas) for r in rate] for c in GRID])
    logs = np.log(latency)
    in_flight = float(np.max(rate * service / replicas))
    return _from_weights(declared, _log_likelihood(np.log1p(curves), logs, 1.0 / np.sqrt(count)), in_flight)


def _wait(workers: int, offered: float) -> float:
    """Mean wait over mean service time in M/M/c with `offered` Erlang; beyond capacity what a minute would pile up."""
    if offered <= 0.0:
        return 0.0
    if offered >= 0.98 * workers:
        return 50.0 / workers + 200.0 * (offered / workers - 0.98)
    blocking = 1.0
    for servers in range(1, workers + 1):
        blocking = offered * blocking / (servers + offered * blocking)
        if blocking < 1e-12 and servers > offered:
            return 0.0
    waiting = workers * blocking / (workers - offered * (1.0 - blocking))
    return waiting / (workers - offered)


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
