"""When who arrives: a Poisson process of journeys, decided by its seed and by nothing that happens later.

A function of (rate, mix, seed) alone, so that the twin can be fed the arrivals of a run, and that a stall of the system
under test cannot thin out the load that should have shown it (coordinated omission).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from random import Random
from typing import NamedTuple


class Arrival(NamedTuple):
    at: float
    """Seconds from the start."""
    journey: str


def arrivals(rate: float, mix: Mapping[str, float], seed: int | str, duration: float) -> Iterator[Arrival]:
    """Arrivals in [0, duration). `mix`: share of each journey, any positive weights."""
    rng = Random(f"arrivals/{seed}")
    journeys = list(mix)
    bounds = list(accumulate(mix.values()))
    at = rng.expovariate(rate)
    while at < duration:
        draw = rng.random() * bounds[-1]
        yield Arrival(at, next((j for j, bound in zip(journeys, bounds, strict=True) if draw < bound), journeys[-1]))
        at += rng.expovariate(rate)
