"""Whether forecasts have become better or worse: recent runs against earlier ones.

The unit is a run, for the quantities of one move together. Two numbers of each run are watched: the share of its
quantities inside the 90 % interval, and its mean PIT (0.5 where the forecast is unbiased). For each the recent runs are
compared with the earlier ones by a permutation test, which asks for no distribution, and a CUSUM of the deviations from
the mean says after which run the change would have begun. Two numbers are asked at once, so each is tested at half of
the level.

Rejected: control limits of a tabular CUSUM (Page 1954) with textbook constants; they assume a known and normal
in-control distribution, and a dozen runs give neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_RUNS = 12
FEWEST_RECENT = 5
LEVEL = 0.02
"""Of both tests together: once in fifty looks there is an alarm without a cause."""
PERMUTATIONS = 4_000


@dataclass(frozen=True, slots=True)
class Drift:
    """What became of one number."""

    earlier: float
    recent: float
    earlier_runs: int
    recent_runs: int
    p_value: float
    """How often as large a difference arises with the same runs in another order."""
    begins_after: int
    """Index of the last run before the change, if there is one."""

    @property
    def is_drift(self) -> bool:
        return self.p_value < LEVEL / 2.0


def drift(values: Sequence[float], seed: int = 1) -> Drift | None:
    """`values`: one number for each run, oldest first. None with fewer than `FEWEST_RUNS`."""
    if len(values) < FEWEST_RUNS:
        return None
    series = np.asarray(values, dtype=np.float64)
    recent = max(FEWEST_RECENT, len(values) // 3)
    difference = series[-recent:].mean() - series[:-recent].mean()
    generator = np.random.default_rng(seed)
    shuffled = generator.permuted(np.tile(series, (PERMUTATIONS, 1)), axis=1)
    others = shuffled[:, -recent:].mean(axis=1) - shuffled[:, :-recent].mean(axis=1)
    as_large = int((np.abs(others) >= abs(difference) - 1e-12).sum())
    cusum = np.cumsum(series - series.mean())
    return Drift(
        earlier=float(series[:-recent].mean()),
        recent=float(series[-recent:].mean()),
        earlier_runs=len(values) - recent,
        recent_runs=recent,
        p_value=(as_large + 1) / (PERMUTATIONS + 1),
        begins_after=int(np.argmax(np.abs(cusum[:-1]))),
    )
