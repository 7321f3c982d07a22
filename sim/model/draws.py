"""Random numbers of one replication, in streams that do not disturb each other.

One stream for each purpose (arrivals, each service's work, overheads, balancing, jitter), seeded by its name: a changed
policy that draws more from one leaves the others as they were, so two policies can be compared on common random
numbers. Durations are drawn in blocks by numpy: one at a time, `random.lognormvariate` was 8 % of a whole run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random

import numpy as np
import numpy.typing as npt

from sim.model.evenly import even_normal

BLOCK = 2048

Block = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]
"""Draws that many values, seconds."""


class Draws:
    """Values of one distribution, one after another."""

    __slots__ = ("_block", "_buffer", "_generator")

    def __init__(self, block: Block, generator: np.random.Generator) -> None:
        self._block = block
        self._generator = generator
        self._buffer: list[float] = []

    def next(self) -> float:
        if not self._buffer:
            self._buffer = self._block(self._generator, BLOCK).tolist()
        return self._buffer.pop()


class Streams:
    """Makes the streams of one replication."""

    def __init__(self, seed: int, replication: int) -> None:
        self._seed, self._replication = seed, replication
        self._name = f"{seed}/{replication}"

    def random(self, purpose: str) -> Random:
        return Random(self._number(purpose))

    def generator(self, purpose: str) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64(self._number(purpose)))

    def even_normal(self, dimension: str) -> float:
        """A standard normal that is spread evenly over replications: `sim.model.evenly`."""
        return even_normal(self._seed, self._replication, dimension)

    def draws(self, purpose: str, block: Block) -> Draws:
        return Draws(block, self.generator(purpose))

    def _number(self, purpose: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"{self._name}/{purpose}".encode(), digest_size=8).digest())
