"""The abort guard: ends a run when an SLO burns faster than the scenario allows, for longer than it allows."""

from __future__ import annotations

from collections.abc import Sequence

from scenarios.model import AbortRule


class AbortGuard:
    """Fed with counts as they come in; pure."""

    def __init__(self, rules: Sequence[AbortRule]) -> None:
        self._rules = tuple(rules)
        self._since: dict[AbortRule, float] = {}
        self.tripped: str | None = None
        """Why the run must end, or None."""

    def observe(self, now: float, slo: str, good: int, bad: int, objective: float) -> None:
        """`good` and `bad` requests of the last moments. No requests say nothing: the state stays as it was."""
        if good + bad == 0:
            return
        burn = bad / (good + bad) / (1.0 - objective)
        for rule in self._rules:
            if rule.slo == slo:
                self._apply(rule, now, burn)

    def _apply(self, rule: AbortRule, now: float, burn: float) -> None:
        if burn < rule.burn_rate:
            self._since.pop(rule, None)
            return
        since = self._since.setdefault(rule, now)
        if self.tripped is None and now - since >= rule.for_seconds:
            self.tripped = (
                f"{rule.slo} burned its budget at {burn:.0f}x for {now - since:.0f} s"
                f" (the scenario allows {rule.burn_rate:g}x for {rule.for_seconds:g} s)"
            )
