"""SLO arithmetic: error budget, burn rate, and multi-window burn alerts compressed to the length of a drill.

    allowed  = (1 - objective) · total          bad requests that the objective permits
    spent    = bad / allowed                    1 = the whole budget of the window
    burn     = (bad / total) / (1 - objective)  1 = would spend exactly the budget

Alert windows follow the SRE Workbook's table for 30 days. A drill lasts minutes, so the windows are scaled by
drill / 30 days while the factors stay as they are: what Pyrra does when an SLO's window is not four weeks. A compressed
window can fall below the resolution of the counts (1 h of 30 days is 0.12 s of 90 s); it is then raised to a floor, and
the share of the budget that such a rule lets pass is printed rather than pretended away.

Beside it stands the 30-day equivalent: the same bad requests against the budget of 30 days of this traffic, and the
uncompressed rules, fed with a past as healthy as the baseline. Twin and report use one arithmetic: this one.

`BurnMeter` holds one count a second and answers for any moment, so the live guard, the live view and the report use one
implementation. Counts may arrive in any order: a request belongs to the second of its intended send but is known only
once it is over. Rejected: running sums per rule (a late count would have to be undone in each of them; sums over a few
hundred seconds cost microseconds).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

MONTH_SECONDS = 30 * 86_400.0
SHORTEST_LONG_WINDOW = 5.0
"""Floor of a compressed long window, seconds: below this a handful of requests decides."""
SHORTEST_SHORT_WINDOW = 1.0
"""Floor of a compressed short window: the resolution of the counts."""
STEADY_SECONDS = 5.0
"""So long the objective must be met for an SLO to have recovered: one good second proves nothing."""
STUCK_SHARE = 0.9
"""Below this share of good answers, long after the fault is gone, a system is metastable (Bronson et al., HotOS 2021;
the share is this project's)."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests of a window."""

    good: int = 0
    total: int = 0

    @property
    def bad(self) -> int:
        return self.total - self.good

    @property
    def ratio(self) -> float | None:
        """Share of good requests; None without requests."""
        return self.good / self.total if self.total else None

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.good + other.good, self.total + other.total)


def budget_spent(counts: Counts, objective: float) -> float | None:
    """Bad requests over those that the objective allows (1 = all spent); None without requests."""
    burn = burn_rate(counts, objective)
    return burn if counts.total else None


def burn_rate(counts: Counts, objective: float) -> float:
    """Error ratio over the ratio that the objective allows; 0 without requests, inf for a bad one at objective 1."""
    if counts.bad == 0:
        return 0.0
    allowed = 1.0 - objective
    return counts.bad / counts.total / allowed if allowed > 0 else math.inf


def held(counts: Counts, objective: float) -> bool | None:
    """Whether the objective was met; None without requests."""
    return counts.good >= objective * counts.total - 1e-9 if counts.total else None


def month_equivalent(spent: float, window_seconds: float) -> float:
    """A window's spent budget as a share of the budget of 30 days with the same traffic."""
    return spent * window_seconds / MONTH_SECONDS


# ---- alerts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BurnRule:
    """Fires when the burn rate is at or above `factor` over both windows (seconds)."""

    name: str
    severity: Literal["page", "ticket"]
    long: float
    short: float
    factor: float

    def budget_share(self, period: float) -> float:
        """Share of the period's budget that is spent when a constant burn at the factor fills the long window."""
        return self.factor * self.long / period


MONTH_RULES: tuple[BurnRule, ...] = (
    BurnRule("1h/5m", "page", 3_600.0, 300.0, 14.4),
    BurnRule("6h/30m", "page", 21_600.0, 1_800.0, 6.0),
    BurnRule("1d/2h", "ticket", 86_400.0, 7_200.0, 3.0),
    BurnRule("3d/6h", "ticket", 259_200.0, 21_600.0, 1.0),
)
"""SRE Workbook, chapter 5, for a period of 30 days. The short window is a twelfth of the long one."""


def compress(rules: Iterable[BurnRule], period: float) -> tuple[BurnRule, ...]:
    """The 30-day rules for a period of `period` seconds: windows scaled and floored, factors kept."""
    if period <= 0:
        raise ValueError(f"an SLO period is longer than {period} s")
    scale = period / MONTH_SECONDS
    return tuple(
        BurnRule(
            rule.name,
            rule.severity,
            max(rule.long * scale, SHORTEST_LONG_WINDOW),
            max(rule.short * scale, SHORTEST_SHORT_WINDOW),
            rule.factor,
        )
        for rule in rules
    )


@dataclass(slots=True)
class BurnMeter:
    """Good and total requests of one SLO by second, from `origin` (whole Unix seconds or any other clock).

    `healthy_rate` and `healthy_ratio` say what came before the first second (requests a second, share of good ones), so
    that windows longer than the record mean something; by default nothing came before.
    """

    objective: float
    origin: int
    healthy_rate: float = 0.0
    healthy_ratio: float = 1.0
    _good: list[int] = field(default_factory=list)
    _total: list[int] = field(default_factory=list)

    def push(self, second: int, good: int, total: int) -> None:
        """Adds requests to a second; late and repeated pushes add up. Raises ValueError before the origin."""
        index = second - self.origin
        if index < 0:
            raise ValueError(f"second {second} lies before the origin {self.origin}")
        missing = index + 1 - len(self._total)
        if missing > 0:
            self._good.extend([0] * missing)
            self._total.extend([0] * missing)
        self._good[index] += good
        self._total[index] += total

    @property
    def seconds(self) -> int:
        """How many seconds the record covers."""
        return len(self._total)

    def counts(self, start: float, end: float) -> Counts:
        """Requests of the whole seconds in [start, end)."""
        first = max(0, math.ceil(start - self.origin))
        last = max(first, math.ceil(end - self.origin))
        return Counts(sum(self._good[first:last]), sum(self._total[first:last]))

    def burn(self, at: float, window: float) -> float:
        """Burn rate over the `window` seconds before `at`."""
        counts = self.counts(at - max(window, 1.0), at)
        before = max(0.0, self.origin - (at - window)) * self.healthy_rate
        total = counts.total + before
        if total <= 0:
            return 0.0
        bad = counts.bad + before * (1.0 - self.healthy_ratio)
        allowed = 1.0 - self.objective
        return bad / total / allowed if allowed > 0 else (math.inf if bad else 0.0)

    def fires(self, rule: BurnRule, at: float) -> bool:
        """Whether the rule holds at `at`, over both windows."""
        return self.burn(at, rule.short) >= rule.factor and self.burn(at, rule.long) >= rule.factor

    def first_firing(self, rule: BurnRule, start: float, end: float) -> float | None:
        """The first whole second in [start, end] at which the rule fires."""
        moment = math.ceil(start)
        while moment <= end:
            if self.fires(rule, moment):
                return float(moment)
            moment += 1
        return None

    def sustained(self, at: float, burn: float, seconds: float, window: float = SHORTEST_LONG_WINDOW) -> bool:
        """Whether the burn over `window` stayed at or above `burn` for the `seconds` before `at`: the abort rule."""
        moments = range(math.ceil(at - seconds), math.floor(at) + 1)
        return bool(moments) and all(self.burn(moment, window) >= burn for moment in moments)

    def peak(self, start: float, end: float, window: float = SHORTEST_LONG_WINDOW) -> tuple[float, float] | None:
        """(highest burn over `window`, the second it was reached) in [start, end]; None without requests."""
        if self.counts(start - window, end).total == 0:
            return None
        moments = range(math.ceil(start) + 1, max(math.floor(end), math.ceil(start) + 1) + 1)
        at = max(moments, key=lambda moment: (self.burn(moment, window), -moment))
        return self.burn(at, window), float(at)

    def spent(self, start: float, end: float) -> list[tuple[float, float]]:
        """(second, share of the window's whole budget spent by its end): rises to the window's budget_spent.

        The budget is that of all requests of the window, so the line is known only afterwards; a live view divides by
        the requests it expects.
        """
        total = self.counts(start, end).total
        allowed = (1.0 - self.objective) * total
        if allowed <= 0:
            return []
        seconds = range(math.ceil(start), math.ceil(end))
        bad = accumulate(self.counts(second, second + 1).bad for second in seconds)
        return [(float(second + 1), count / allowed) for second, count in zip(seconds, bad, strict=True)]


def recovered_at(meter: BurnMeter, start: float, end: float) -> float | None:
    """The first moment from `start` on whose next five seconds meet the objective; None: none before `end`."""
    second = math.ceil(start)
    while second + STEADY_SECONDS <= end:
        if held(meter.counts(second, second + STEADY_SECONDS), meter.objective):
            return max(float(second), start)
        second += 1
    return None


def is_stuck(meter: BurnMeter, reverted_at: float, end: float, timeout: float) -> bool | None:
    """Whether the last five seconds before `end` were still bad although the fault has been gone for longer than any
    request lives. None: the time after the fault is too short to tell, or nobody asked for anything."""
    last = end - STEADY_SECONDS
    if last - reverted_at < timeout:
        return None
    share = meter.counts(last, end).ratio
    return None if share is None else share < STUCK_SHARE


def meter_of(
    outcomes: Sequence[tuple[float, bool]],
    objective: float,
    origin: int,
    healthy: Counts | None = None,
    over: float = 0.0,
) -> BurnMeter:
    """A meter of (intended send, good) pairs; those before the origin are left out.

    `healthy`: what a healthy stretch of `over` seconds held, for windows that reach back before the origin.
    """
    rate, ratio = 0.0, 1.0
    if healthy is not None and healthy.total and over > 0:
        rate, ratio = healthy.total / over, healthy.good / healthy.total
    meter = BurnMeter(objective, origin, rate, ratio)
    for at, good in outcomes:
        if at >= origin:
            meter.push(math.floor(at), int(good), 1)
    return meter
