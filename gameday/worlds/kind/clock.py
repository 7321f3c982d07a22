"""How far the agent's clock is from ours, as NTP measures it.

    offset = agent's time - (sent + received) / 2,  off by half of the round trip at most

Of several answers the one with the shortest round trip counts. Requests are timed there and faults here, so a
difference is taken out of every time that the agent reports; one beyond 50 ms says that somebody's clock is not kept,
will go on drifting, and makes certificates' lives differ: such a run is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MAX_OFFSET_SECONDS = 0.050
SAMPLES = 12


@dataclass(frozen=True, slots=True)
class Offset:
    """Seconds that the agent's clock is ahead of ours, and how wrong that can be."""

    seconds: float
    error: float

    @property
    def too_far(self) -> bool:
        """Whether it is beyond the bound for certain."""
        return abs(self.seconds) - self.error > MAX_OFFSET_SECONDS

    @property
    def correction(self) -> float:
        """What to take off the agent's times: nothing where the offset may be an artefact of the way."""
        return self.seconds if abs(self.seconds) > self.error else 0.0


def best(samples: Iterable[tuple[float, float, float]]) -> Offset:
    """From (sent, agent's time, received), all Unix seconds.

    Raises:
        ValueError: no sample.
    """
    offsets = [Offset(remote - (sent + received) / 2, (received - sent) / 2) for sent, remote, received in samples]
    if not offsets:
        raise ValueError("no sample of the agent's clock")
    return min(offsets, key=lambda offset: offset.error)


def measure(ask: Callable[[], float], samples: int = SAMPLES) -> Offset:
    """`ask` returns the agent's Unix seconds."""
    found = []
    for _ in range(samples):
        sent = time.time()
        remote = ask()
        found.append((sent, remote, time.time()))
    return best(found)
