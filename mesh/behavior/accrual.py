"""Failure accrual: a breaker for each endpoint of each client proxy (Linkerd's `consecutive`).

    closed ── max_failures in a row ──► open ── penalty over ──► probation ── success ──► closed
                                         ▲                          │
                                         └──── failure, penalty × 2 ┘

In probation exactly one request is admitted. There is no ceiling on ejection: all endpoints of a service can be open at
once, and then its queue fills and fails fast.
"""

from __future__ import annotations

import enum
from random import Random

from mesh.api.messages import FailureAccrualSpec
from mesh.behavior.backoff import Backoff


class State(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    PROBATION = "probation"


class FailureAccrual:
    """The breaker of one endpoint."""

    __slots__ = ("_backoff", "_consecutive", "_max_failures", "_probing", "open_until", "state")

    def __init__(self, spec: FailureAccrualSpec) -> None:
        self._max_failures = spec.max_failures
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

    def observe(self, now: float, failed: bool, rng: Random) -> None:
        """A request to this endpoint ended. What ends while the breaker is open was sent before it opened: ignored,
        success or not, as linkerd2-proxy does."""
        if self.state is State.OPEN:
            return
        if not failed:
            self._consecutive = 0
            self._probing = False
            self._backoff.reset()
            self.state = State.CLOSED
            return
        self._consecutive += 1
        if self.state is State.PROBATION or self._consecutive >= self._max_failures:
            self.state = State.OPEN
            self._probing = False
            self.open_until = now + self._backoff.next(rng)
