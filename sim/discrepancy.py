"""What a model that is right in everything would still miss: two windows of one machine differ without a cause.

Each replication's quantities are spread by it before they become a forecast: latencies are multiplied by a log-normal
factor, error shares are spread a little more than counting alone would.
"""

from __future__ import annotations

import math

from sim.calibrate import Calibration
from sim.model.draws import Streams
from sim.quantities import PERCENTILES, Floats, Key
from sim.replicate import Outcome
from sim.setup import Setup

ATTEMPTS_SIGMA = 0.006
"""Counters are scraped once a second, so a window's edges cut them up to a second off."""
ERROR_SIGMA = 0.10
"""Overdispersion of the share of bad requests, on the logit scale."""
SHARED = 0.7
"""Correlation of the discrepancy between windows and SLOs: it is one machine."""


def with_discrepancy(
    outcome: Outcome, setup: Setup, calibration: Calibration, seed: int
) -> tuple[dict[Key, float], dict[tuple[str, str], Floats]]:
    """An outcome as it might be measured: (quantities, fans). The same replication always gets the same noise."""
    generator = Streams(seed, outcome.replication).generator("discrepancy")
    shared = {quantity: float(generator.standard_normal()) for quantity in (*PERCENTILES, "bad")}
    objectives = {slo.name: slo.objective for slo in setup.slos}
    values = dict(outcome.values)
    for key, value in outcome.values.items():
        quantity, subject, window = key
        z = float(generator.standard_normal())
        if quantity in PERCENTILES:
            mixed = SHARED * shared[quantity] + math.sqrt(1 - SHARED**2) * z
            values[key] = value * math.exp(calibration.residual[quantity] * mixed)
        elif quantity == "attempts_per_request":
            values[key] = value * math.exp(ATTEMPTS_SIGMA * z)
        elif quantity == "success_rate" and 0.0 < value < 1.0:
            mixed = SHARED * shared["bad"] + math.sqrt(1 - SHARED**2) * z
            logit = math.log(value / (1.0 - value)) + ERROR_SIGMA * mixed
            values[key] = 1.0 / (1.0 + math.exp(-logit))
            spent = ("budget_spent", subject, window)
            before = outcome.values.get(spent)
            if before is not None and objectives[subject] < 1.0:
                values[spent] = before * (1.0 - values[key]) / (1.0 - value)
    fans = dict(outcome.fans)
    for slo in setup.slos:
        if ("p95", slo.name) in fans:
            fans["p95", slo.name] = fans["p95", slo.name] * math.exp(calibration.residual["p95"] * shared["p95"])
    return values, fans
