"""Failure accrual: a breaker for each endpoint of each client proxy.

    closed ── max_failures in a row ──► open ── penalty over ──► probation ── success ──► closed
           ── success rate too low ──►   ▲                          │
                                         └──── failure, penalty × 2 ┘

`consecutive` has the first way to open, `unified` both. In probation exactly one request is admitted. There is no
ceiling on ejection: all endpoints of a service can be open at once, and then its queue fills and fails fast.

A rate-limited answer (429, RESOURCE_EXHAUSTED) is a success to the first way, a failure to the second, and to a probe
of a breaker that has the second (linkerd2-proxy `breaker/unified.rs`). The success rate is a moving average over time,
not over a window: it begins at 1, so a first failure cannot open the breaker, and after three windows without an answer
the least number of requests counts anew, so that one late failure cannot either.
"""

from __future__ import annotations

import enum
import math
from random import Random

from mesh.api.messages import FailureAccrualSpec, SuccessRateSpec
from mesh.behavior.backoff import Backoff


class State(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    PROBATION = "probation"


IDLE_WINDOWS = 3.0
"""linkerd2-proxy `IDLE_COLD_START_FACTOR`."""


class SuccessRate:
    """The share of answers that were neither failures nor rate-limited, recent ones weighing more."""

    __slots__ = ("_counted", "_last_at", "_rate", "_spec", "_updated_at")

    def __init__(self, spec: SuccessRateSpec, now: float) -> None:
        self._spec = spec
        self.reset(now)

    def reset(self, now: float) -> None:
        self._rate = 1.0
        self._counted = 0
        self._updated_at = self._last_at = now

    def observe(self, now: float, good: bool) -> bool:
        """Takes in an answer; whether the rate is too low now."""
        spec = self._spec
        if now - self._last_at > IDLE_WINDOWS * spec.window_seconds:
            self._counted = 0
        self._last_at = now
        self._counted += 1
        elapsed = now - self._updated_at
        if elapsed > 0.0:  # answers of one instant count as one, as in linkerd2-proxy
            keep = math.exp(-elapsed / spec.window_seconds)
            self._rate = self._rate * keep + (1.0 - keep if good else 0.0)
            self._updated_at = now
        return self._counted >= spec.min_requests and self._rate < spec.threshold


class FailureAccrual:
    """The breaker of one endpoint."""

    __slots__ = (
        "_backoff",
        "_consecutive",
        "_honors",
        "_max_failures",
        "_not_before",
        "_probing",
        "_rate",
        "open_until",
        "state",
    )

    def __init__(self, spec: FailureAccrualSpec, now: float = 0.0) -> None:
        self._max_failures = spec.max_failures
        rate = spec.success_rate
        self._rate = SuccessRate(rate, now) if rate is not None and rate.threshold > 0.0 else None
        self._honors = spec.honor_retry_after
        self._not_before = 0.0
        self._backoff = Backoff(spec.min_penalty_seconds, spec.max_penalty_seconds, spec.jitter_ratio)
        self._consecutive = 0
        self._probing = False
        self.state = State.CLOSED
        self.open_until = 0.0

    def admits(self, now: float) -> bool:
        """Whether a request may go to this endpoint now."""
        if self.state is State.CLOSED:
            return True
        if self.state is State.OPEN and now >= self.open_until:
            self.state = State.PROBATION
            self._probing = False
        return self.state is State.PROBATION and not self._probing

    def started(self) -> None:
        """A request that `admits` let through was sent."""
        if self.state is State.PROBATION:
            self._probing = True

    def abandoned(self) -> None:
        """A request ended with no verdict on the endpoint (the client went away)."""
        self._probing = False

    def observe(self, now: float, failed: bool, rng: Random, pushback: float | None = None) -> None:
        """A request to this endpoint ended. `pushback`: the answer was rate-limited and asked for so many seconds of
        quiet (0.0: it did not say). What ends while the breaker is open was sent before it opened: ignored, success or
        not, as linkerd2-proxy does."""
        if pushback is not None and self._honors:
            self._not_before = max(self._not_before, now + min(pushback, self._backoff.maximum))
        if self.state is State.OPEN:
            return
        rate = self._rate
        bad = failed or (rate is not None and pushback is not None)
        if self.state is State.PROBATION:
            if bad:
                self._open(now, rng)
            else:
                self._close(now)
            return
        self._consecutive = self._consecutive + 1 if failed else 0
        too_low = rate is not None and rate.observe(now, not bad)
        if too_low or 0 < self._max_failures <= self._consecutive:
            self._open(now, rng)
            self.open_until = max(self.open_until, self._not_before)

    def _open(self, now: float, rng: Random) -> None:
        self.state = State.OPEN
        self._probing = False
        self.open_until = now + self._backoff.next(rng)

    def _close(self, now: float) -> None:
        self.state = State.CLOSED
        self._probing = False
        self._consecutive = 0
        self._backoff.reset()
        if self._rate is not None:
            self._rate.reset(now)
