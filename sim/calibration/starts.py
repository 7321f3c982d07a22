"""What processes take to start, from the start of the run's own world.

The same processes started minutes before the window, of the same build, on the same machine: interpreted ones take
half as much again as compiled ones, and a user's own program whatever it takes. CPU seconds throughout, by what starts:
`cart/app`, `cart/proxy`, `control/policy`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sim.model.parameters import kind_of

POD_RESTART_FACTOR = 1.25
"""What a pod's processes take of the machine until they serve anew, of what each had used when its world was ready.
They use the same (0.97 to 1.25 of it, ten pods of twelve within 0.1), but get it later than that says: meanwhile a
quarter of a core's time is charged to none of the run's processes, an eighth before, and requests cost a fifth more."""
CONTROL_RESTART_FACTOR = 0.85
"""The same of a component of the control plane, which by then has answered the first questions of all."""
PRIOR_SIGMA = 0.25
"""Of the log, where no start was seen: machines differ, and compiled proxies from others."""
SIGMA = 0.12
"""Of the log, of these factors: of how long 14 drills' pods were away on one core."""


def restart_work(seen: Mapping[str, float]) -> dict[str, float]:
    """What each takes until it serves, from what it had used when all of its world was ready."""
    return {
        process: seconds * (CONTROL_RESTART_FACTOR if kind_of(process) == "control" else POD_RESTART_FACTOR)
        for process, seconds in seen.items()
    }


def drawn_starts(generator: np.random.Generator, starts: Mapping[str, float]) -> dict[str, float]:
    """One draw for all: a machine that is slower than it was is slower for each."""
    if not starts:
        return {}
    factor = math.exp(SIGMA * float(generator.standard_normal()))
    return {process: seconds * factor for process, seconds in starts.items()}
