"""The knobs of a system: what its owners can set, how far from today's value a setting is, and what is worth trying.

The size of a change says how much of a step it is for those who make it:

    size = sum over the knobs it turns of   1 + weight × |doublings| (+ 1 where it brings in a mechanism that was off)

`doublings` is the distance on the scale on which the knob acts: powers of two of one plus the retries that a request
may have (its greatest amplification), of seconds, of places in a queue, of replicas. `weight` is what a step costs its
owners: 1 for a line of policy, 1.5 for places to wait or work in, 2 for pods, which are paid for. "No limit" counts as
the client's own timeout, a breaker that is off as one that trips after 64 failures. Sizes order changes; nothing else
is read from them. Rejected: distance as a share of today's value, in which 0 → 1 retries is infinitely far and 10 → 1
is not even one.

Each knob comes with ladders: values from today's outwards, downwards and upwards, which `sim.explain.search` climbs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sim.knobs.configuration import Configuration

OFF = math.inf
"""The value of a timeout or breaker that is not set."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One thing that can be set, at one place."""

    name: str
    """`retry limit`."""
    place: str
    """The service, or `mesh`."""
    today: float
    ladders: tuple[tuple[float, ...], ...]
    """Each from the value nearest today's to the farthest."""
    whole: bool
    """Whether only whole numbers make sense."""
    scale: Callable[[float], float]
    """A value's place on the scale of doublings."""
    turn: Callable[[Configuration, float], Configuration]
    """The configuration with the knob at a value."""
    say: Callable[[float], str]
    """The change in a line for people."""
    weight: float = 1.0
    adds: bool = False
    """Whether any other value than today's brings in a mechanism that was off."""
    group: str = ""
    """Knobs of one group at one place rule each other out."""
    unverifiable: str | None = None
    """Why it cannot be turned for real; None where it can."""

    def size(self, value: float) -> float:
        """How big a change it is to set the knob to `value`; 0 for today's."""
        if value == self.today:
            return 0.0
        return 1.0 + float(self.adds) + self.weight * abs(self.scale(value) - self.scale(self.today))

    def between(self, near: float, far: float) -> float | None:
        """The value half way on the scale; None where there is none, or none worth telling apart."""
        low, high = sorted((near, far))
        if math.isinf(high):
            return None
        middle = low
        if self.whole:
            middle = float(math.floor((low + high) / 2.0))
        else:
            start, end = low, high
            target = (self.scale(low) + self.scale(high)) / 2.0
            for _ in range(40):
                middle = (start + end) / 2.0
                start, end = (middle, end) if self.scale(middle) < target else (start, middle)
            middle = rounded(middle)
        return middle if low < middle < high else None


def rounded(value: float) -> float:
    """To two digits, so that a setting reads as one that a person would write."""
    if value == 0.0 or math.isinf(value):
        return value
    digits = 1 - math.floor(math.log10(abs(value)))
    return max(round(value, digits), 0.001)


def doublings(value: float) -> float:
    return math.log2(max(value, 1e-3))


def amplification(retries: float) -> float:
    """Of retries for each request: the most tries that one can come to."""
    return math.log2(1.0 + retries)


def upwards(today: float, factors: tuple[float, ...], most: float) -> tuple[float, ...]:
    """Multiples of today's value."""
    return tuple(v for v in (rounded(today * factor) for factor in factors) if today < v <= most)


def downwards(today: float, factors: tuple[float, ...], least: float) -> tuple[float, ...]:
    return tuple(v for v in (rounded(today / factor) for factor in factors) if least <= v < today)
