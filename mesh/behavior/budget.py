"""The retry budget of a ServiceProfile: a token window as tower's `TpsBudget` keeps it.

Each response that is not retried deposits; each retry withdraws. With ratio 0.2 a withdrawal costs five deposits, so
retries stay near 20 % of the requests that settled within `ttl`. A reserve lets quiet clients retry: `min per second ×
ttl` retries within any `ttl`. Deposits and withdrawals expire slot by slot, ten slots to a `ttl`.

Two consequences that surprise users: in a full outage nothing deposits and only the reserve is left, and the budget is
kept by every proxy for itself, so a service with many small clients sees the sum of their reserves.
"""

from __future__ import annotations

from mesh.api.messages import RetryBudgetSpec

SLOTS = 10


class RetryBudget:
    """One client proxy's budget for one destination. Amounts are integers: no deposit is lost to rounding."""

    __slots__ = ("_deposit", "_index", "_reserve", "_slot_seconds", "_slot_start", "_slots", "_withdrawal", "_writer")

    def __init__(self, spec: RetryBudgetSpec, now: float) -> None:
        if spec.retry_ratio <= 0:
            self._deposit, self._withdrawal = 0, 1
        elif spec.retry_ratio <= 1:
            self._deposit, self._withdrawal = 1, int(1 / spec.retry_ratio)
        else:
            self._deposit, self._withdrawal = 1000, int(1000 / spec.retry_ratio)
        self._reserve = int(spec.min_retries_per_second * spec.ttl_seconds) * self._withdrawal
        self._slot_seconds = spec.ttl_seconds / SLOTS
        self._slots = [0] * SLOTS
        self._index = 0
        self._slot_start = now
        self._writer = 0

    @property
    def balance(self) -> int:
        """Tokens left as of the last call, reserve included."""
        return self._reserve + self._writer + sum(self._slots)

    def deposit(self, now: float) -> None:
        """A request settled without a retry."""
        self._expire(now)
        self._writer += self._deposit

    def withdraw(self, now: float) -> bool:
        """Pays for one retry; False where the window cannot."""
        self._expire(now)
        if self.balance < self._withdrawal:
            return False
        self._writer -= self._withdrawal
        return True

    def _expire(self, now: float) -> None:
        elapsed = now - self._slot_start
        if elapsed < self._slot_seconds:
            return
        self._slots[self._index] = self._writer
        self._writer = 0
        passed = int(elapsed / self._slot_seconds)
        for _ in range(min(passed, SLOTS)):
            self._index = (self._index + 1) % SLOTS
            self._slots[self._index] = 0
        self._slot_start += passed * self._slot_seconds
