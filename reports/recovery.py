"""When it was noticed and when it was over: onset, page, revert, recovery of each SLO, on the drill's clock.

    fault      the first injection
    onset      begin of the unbroken burn that led to the page (or, where nothing pages, to the peak): no three seconds
               in it were without a bad request too many
    page       the first compressed page rule that fires after the injection (`scenarios.slo`)
    revert     the last fault that was taken back
    recovered  the first moment from the revert on whose next five seconds meet the objective

Recovery looks forward over five seconds because one good second proves nothing at a hundred requests a second, and asks
for the objective rather than for the baseline because that is what was promised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from reports.run import Run
from scenarios.model import SloSpec
from scenarios.slo import MONTH_RULES, BurnMeter, BurnRule, compress, recovered_at

ONSET_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Firing:
    """A burn rule, as compressed for this drill and as it stands for 30 days; seconds on the drill's clock."""

    rule: BurnRule
    month_rule: BurnRule
    budget_share: float
    fired_at: float | None
    month_fired_at: float | None
    """When the uncompressed rule would have fired, with a past as healthy as the baseline."""


@dataclass(frozen=True, slots=True)
class Course:
    """How one SLO went through the fault."""

    fault_at: float | None
    onset_at: float | None
    page_at: float | None
    page_rule: str | None
    reverted_at: float | None
    recovered_at: float | None
    firings: tuple[Firing, ...]

    @property
    def seconds_to_page(self) -> float | None:
        return _between(self.fault_at, self.page_at)

    @property
    def recovery_seconds(self) -> float | None:
        return _between(self.reverted_at, self.recovered_at)


def course(run: Run, slo: SloSpec) -> Course:
    """The course of an SLO through the run; all None where nothing was injected."""
    meter = run.meter(slo)
    fault_at = fault_begin(run)
    reverted_at = fault_end(run)
    window = run.windows.get("all")
    if window is None or fault_at is None:
        return Course(fault_at, None, None, None, reverted_at, None, ())
    end = run.clock(window[1])
    firings = tuple(_firings(meter, fault_at, end, window[1] - window[0]))
    pages = [
        (firing.fired_at, firing.rule.name) for firing in firings if firing.rule.severity == "page" and firing.fired_at
    ]
    page_at, page_rule = min(pages) if pages else (None, None)
    onset = _onset(meter, fault_at, page_at, end)
    recovered = None
    if reverted_at is not None:
        recovered = recovered_at(meter, reverted_at, end)
    return Course(fault_at, onset, page_at, page_rule, reverted_at, recovered, firings)


def fault_begin(run: Run) -> float | None:
    """The first injection, seconds on the drill's clock."""
    events = run.events_of("inject")
    return run.clock(events[0].at) if events else None


def fault_end(run: Run) -> float | None:
    """The last revert, seconds on the drill's clock; None while a fault is still in."""
    begun = {(event.data or {}).get("fault", event.text) for event in run.events_of("inject")}
    reverts = run.events_of("revert")
    ended = {(event.data or {}).get("fault", event.text) for event in reverts}
    if not reverts or not begun <= ended:
        return None
    return run.clock(reverts[-1].at)


def _firings(meter: BurnMeter, start: float, end: float, period: float) -> list[Firing]:
    return [
        Firing(
            rule,
            month_rule,
            rule.budget_share(period),
            meter.first_firing(rule, start, end),
            meter.first_firing(month_rule, start, end),
        )
        for rule, month_rule in zip(compress(MONTH_RULES, period), MONTH_RULES, strict=True)
    ]


def _onset(meter: BurnMeter, fault_at: float, page_at: float | None, end: float) -> float | None:
    peak = meter.peak(fault_at, end) if page_at is None else None
    anchor = page_at if page_at is not None else peak[1] if peak is not None and peak[0] >= 1.0 else None
    if anchor is None:
        return None
    second = math.floor(anchor)
    while second > fault_at and meter.burn(second, ONSET_SECONDS) >= 1.0:
        second -= 1
    stretch = range(max(math.floor(fault_at), math.floor(second - ONSET_SECONDS) + 1), math.floor(anchor) + 1)
    return next((max(float(at), fault_at) for at in stretch if meter.counts(at, at + 1).bad), None)


def _between(start: float | None, end: float | None) -> float | None:
    return end - start if start is not None and end is not None else None
