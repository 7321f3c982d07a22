"""How an SLO goes through a fault: when it pages, when it is back, whether it ever will be. One reading for the twin's
record and for a real run's, so that both are counted alike.

    paged                1 if any page rule fires after the first injection, else 0          window all
    time_to_page R       seconds from the first injection until rule R fires                 window all
    peak_burn            highest burn rate over five seconds                                 window all
    time_to_recover      seconds from the last revert until five seconds meet the objective  window recover
    metastable           1 if the last five seconds are still bad, long after the revert     window recover

R is one of the SRE Workbook's rules for 30 days (`1h/5m`), its windows scaled to the drill (`scenarios.slo`). A time
that did not come within its window is written as the time that there was, by both sides: it is censored there. Burn is
counted by the second, so times are whole seconds from the second in which the fault came or went.
`metastable` is told of SLOs without a latency threshold only, and left out where the time after the fault is too short
to tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from scenarios.model import FaultSpec, SloSpec
from scenarios.slo import MONTH_RULES, BurnMeter, compress, is_stuck, recovered_at

PAGED, PEAK, RECOVER, METASTABLE = "paged", "peak_burn", "time_to_recover", "metastable"
EVENTS = (PAGED, METASTABLE)
PAGE_TIMES = {rule.name: f"time_to_page {rule.name}" for rule in MONTH_RULES}
"""Rule → quantity."""
QUANTITIES = (
    (PAGED, "all"),
    *((name, "all") for name in PAGE_TIMES.values()),
    (PEAK, "all"),
    (RECOVER, "recover"),
    (METASTABLE, "recover"),
)
"""(quantity, window), headlines first."""


def planned(faults: Iterable[FaultSpec]) -> tuple[float, float] | None:
    """(first injection, last revert) as planned, seconds from the begin of the inject phase; None without faults."""
    spans = [(fault.at, fault.at + fault.duration) for fault in faults]
    return (min(at for at, _ in spans), max(end for _, end in spans)) if spans else None


def censored_at(plan: tuple[float, float] | None, end: float) -> dict[str, float]:
    """Quantity → the value that means "that long or longer", of each time that has one; none without a plan."""
    if plan is None:
        return {}
    return {**dict.fromkeys(PAGE_TIMES.values(), end - plan[0]), RECOVER: end - plan[1]}


def read_course(
    meter: BurnMeter, slo: SloSpec, plan: tuple[float, float], seen: tuple[float, float], end: float, timeout: float
) -> dict[tuple[str, str], float]:
    """(quantity, window) → value. `plan`: (first injection, last revert) as planned, for what is censored; `seen`: the
    same as they were. `end`: of the recover window. All in seconds of the meter's clock."""
    found: dict[tuple[str, str], float] = {}
    injected, reverted = seen
    since, gone = math.floor(injected), math.floor(reverted)
    paged = 0.0
    for rule, month in zip(compress(MONTH_RULES, end), MONTH_RULES, strict=True):
        at = meter.first_firing(rule, injected, end)
        found[PAGE_TIMES[month.name], "all"] = end - plan[0] if at is None else min(at - since, end - plan[0])
        paged = max(paged, float(at is not None and rule.severity == "page"))
    found[PAGED, "all"] = paged
    peak = meter.peak(0.0, end)
    if peak is not None and math.isfinite(peak[0]):
        found[PEAK, "all"] = peak[0]
    back = recovered_at(meter, reverted, end)
    left = end - plan[1]
    if left > 0:
        found[RECOVER, "recover"] = left if back is None else min(back - gone, left)
        stuck = is_stuck(meter, reverted, end, timeout) if slo.threshold is None else None
        if stuck is not None:
            found[METASTABLE, "recover"] = float(stuck)
    return found


def nothing_changes(slo: SloSpec, plan: tuple[float, float], end: float) -> dict[tuple[str, str], float]:
    """What the naive forecast says of these: nobody is paged, and it is well in the first whole second."""
    found = {(name, "all"): end - plan[0] for name in PAGE_TIMES.values()}
    found[PAGED, "all"], found[RECOVER, "recover"] = 0.0, 1.0
    if slo.threshold is None:
        found[METASTABLE, "recover"] = 0.0
    return found
