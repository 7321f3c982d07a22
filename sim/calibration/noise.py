"""The noise floor: how much one window differs from another of the same length when nothing was changed.

drift      of the machine's pace, from the baseline to the fault: what was seen in 290 runs (docs/model.md). No baseline
           tells its own: in 84 of them the medians' differences between thirds went with it not at all
residual   of p50, p95, p99: the halves' log ratio beyond what resampling one window gives; never below what no
           window of seconds can exclude, and prior-wide where too few requests lie beyond the percentile
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sim.observation import ClientSample, LoadPoint, Observation

Values = npt.NDArray[np.float64]
MACHINE_DRIFT = 0.12
"""Sigma of the log."""
LATENCY_FLOOR = {"p50": 0.03, "p95": 0.06, "p99": 0.12}
"""Sigma of the log that no window of seconds can exclude: the machine's own noise between two windows."""
UNTOLD = 0.35
"""The same where nothing was measured: what such windows differ by between machines."""
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
ENOUGH_BEYOND = 3.0
"""Requests beyond a percentile, on one route, from which on the window itself speaks."""
FEWEST_SAMPLES = 20
HOLE_GAPS = 30.0
HOLE_SECONDS = 5.0


def holes_of(observation: Observation) -> float:
    """Seconds of the window in which nothing was recorded and something should have been: the clock jumped, or whoever
    recorded stopped. Poisson arrivals leave thirty mean gaps empty once in 10^13."""
    times = sorted(sample.intended_at for sample in observation.requests)
    if len(times) < FEWEST_SAMPLES:
        return 0.0
    gaps = np.diff(np.asarray(times))
    usual = float(np.median(gaps)) / math.log(2)
    return float(gaps[(gaps > HOLE_GAPS * max(usual, 1e-3)) & (gaps > HOLE_SECONDS)].sum())


def latencies_by_route(samples: Sequence[ClientSample]) -> dict[str, Values]:
    """Ascending, answered ones only."""
    found: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        if sample.latency is not None:
            found[sample.route].append(sample.latency)
    return {route: np.sort(np.asarray(values, dtype=np.float64)) for route, values in found.items()}


def residual_of(observation: Observation, measured: Mapping[str, Values], seed: int) -> dict[str, float]:
    """Sigma of the log of each percentile. `measured`: latencies of each route with enough answers."""
    generator = np.random.Generator(np.random.SFC64(seed))
    halves = [latencies_by_route(block) for block in blocks(observation, 2)]
    found: dict[str, float] = {}
    for quantity, share in SHARES.items():
        excess: list[float] = []
        for route, pooled in measured.items():
            first, second = halves[0].get(route), halves[1].get(route)
            if first is None or second is None or min(len(first), len(second)) * (1.0 - share) < 1.0:
                continue
            seen = math.log(float(np.quantile(first, share)) / float(np.quantile(second, share))) ** 2 / 2
            logs = np.log(np.quantile(generator.choice(pooled, (30, max(1, len(pooled) // 2))), share, axis=1))
            excess.append(seen - float(np.var(logs)))
        sigma = math.sqrt(max(0.0, float(np.mean(excess)))) if excess else 0.0
        floor = LATENCY_FLOOR[quantity] if excess else untold(quantity, measured)
        found[quantity] = min(0.5, max(floor, sigma))
    return found


def untold(quantity: str, measured: Mapping[str, Values]) -> float:
    """Sigma of the log where halves cannot be compared: between the floor and what nothing measured leaves."""
    beyond = max((len(values) * (1.0 - SHARES[quantity]) for values in measured.values()), default=0.0)
    floor = LATENCY_FLOOR[quantity]
    return max(floor, floor + (UNTOLD - floor) * (1.0 - min(1.0, beyond / ENOUGH_BEYOND)))


def residual_of_counters(points: Sequence[LoadPoint]) -> dict[str, float]:
    """The same from intervals of a scrape: the halves' mean latencies. A mean says little of a tail, so p95 and p99
    stay half and wholly untold."""
    ratios: list[float] = []
    for service in {point.service for point in points}:
        answered = [p for p in points if p.service == service and p.mean_latency is not None and p.requests > 0]
        middle = len(answered) // 2
        if middle >= 3:
            first, second = (_mean(half) for half in (answered[:middle], answered[middle:]))
            ratios.append(math.log(first / second) ** 2 / 2)
    if not ratios:
        return dict.fromkeys(SHARES, UNTOLD)
    sigma = min(0.5, max(LATENCY_FLOOR["p50"], math.sqrt(float(np.mean(ratios)))))
    return {"p50": sigma, "p95": max(sigma, UNTOLD / 2), "p99": max(sigma, UNTOLD)}


def _mean(points: Sequence[LoadPoint]) -> float:
    total = sum(point.requests for point in points)
    return max(1e-6, sum((point.mean_latency or 0.0) * point.requests for point in points) / total)


def blocks(observation: Observation, count: int) -> list[tuple[ClientSample, ...]]:
    """The window's requests in `count` equal stretches of time."""
    length = (observation.ended_at - observation.started_at) / count
    found: list[list[ClientSample]] = [[] for _ in range(count)]
    for sample in observation.requests:
        index = int((sample.intended_at - observation.started_at) / length) if length > 0 else 0
        found[min(max(index, 0), count - 1)].append(sample)
    return [tuple(block) for block in found]
