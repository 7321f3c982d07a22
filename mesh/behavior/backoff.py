"""Exponential backoff with jitter, the one rule behind reconnects, retries and breaker penalties."""

from __future__ import annotations

from random import Random


class Backoff:
    """Doubles from `minimum` to `maximum` seconds; `jitter` adds up to that share of the delay at random.

    Jitter only adds, as in linkerd2-proxy `linkerd/exp-backoff`: the minimum stays a minimum.
    """

    __slots__ = ("jitter", "maximum", "minimum", "steps")

    def __init__(self, minimum: float, maximum: float, jitter: float) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.jitter = jitter
        self.steps = 0

    def next(self, rng: Random) -> float:
        """The delay to wait now; the one after it will be twice as long."""
        base = min(self.maximum, self.minimum * 2.0 ** min(self.steps, 32))
        self.steps += 1
        return min(self.maximum, base + base * self.jitter * rng.random())

    def reset(self) -> None:
        self.steps = 0
