"""Standard normals of which a forecast's replications have one each, spread evenly over them.

The median of n independent draws is off by 1.25/√n of their spread: with 40 replications of a latency that is known to
±8 %, by 1.6 %, which is chance of the twin and says nothing of the system. What moves all latencies of a replication at
once is therefore drawn from a Halton sequence with permuted digits and a random shift (Owen 2017, arXiv:1706.02808):
any first n of them cover the distribution, each alone is standard normal, and no two dimensions go together.
"""

from __future__ import annotations

from random import Random
from statistics import NormalDist

DIMENSIONS = {"machine": 2, "cpu": 3, "background": 5, "p50": 7, "p95": 11, "p99": 13, "bad": 17}
"""To the base of the sequence, a prime of its own. Few: high bases take many replications to be even."""
FINEST = 1e-9


def even_normal(seed: int, replication: int, dimension: str) -> float:
    """A standard normal; `dimension` is one of `DIMENSIONS`."""
    base = DIMENSIONS[dimension]
    random = Random(f"{seed}/{dimension}/evenly")
    digits = list(range(base))
    random.shuffle(digits)
    place, width = random.random(), 1.0
    while width > FINEST:
        width /= base
        replication, digit = divmod(replication, base)
        place += width * digits[digit]
    return NormalDist().inv_cdf(min(1.0 - FINEST, max(FINEST, place % 1.0)))
