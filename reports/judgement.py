"""Expectations and verdict, from what was measured; never from chaostoolkit's own status, which passes transient
breaches and calls a fault that stayed in a success.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from reports.document import ExpectationPart, Outcome
from reports.measure import Key
from reports.notation import comparison, quantity, stated
from scenarios.model import Expectation

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}


def judge_expectation(expectation: Expectation, measured: Mapping[Key, float], complete: bool) -> ExpectationPart:
    """An expectation beside its measured value.

    In a complete run, what could not be measured did not hold; in one that ended early it was not judged.
    """
    value = measured.get((expectation.quantity, expectation.subject or "", expectation.phase))
    held: bool | None = None
    if complete:
        held = value is not None and _COMPARE[expectation.op](value, expectation.value)
    return ExpectationPart(
        text=expectation.text,
        quantity=expectation.quantity,
        subject=expectation.subject,
        phase=expectation.phase,
        op=expectation.op,
        value=expectation.value,
        measured=value,
        held=held,
    )


def is_complete(state: str) -> bool:
    """Whether the run went through all its phases."""
    return state == "finished"


def outcome(state: str, expectations: list[ExpectationPart]) -> Outcome:
    """passed: every expectation held; failed: one did not; aborted: by the guard or a person; error: anything else."""
    if state == "aborted":
        return "aborted"
    if not is_complete(state):
        return "error"
    return "passed" if all(expectation.held for expectation in expectations) else "failed"


def reasons(state: str, stored: list[str], expectations: list[ExpectationPart]) -> list[str]:
    """Why the outcome is what it is; empty for a pass."""
    broken = [
        f"did not hold: {expectation.text} (measured {quantity(expectation.quantity, expectation.measured)},"
        f" expected {comparison(expectation.op)} {stated(expectation.quantity, expectation.value)})"
        for expectation in expectations
        if expectation.held is False
    ]
    if is_complete(state):
        return broken
    known = {
        "running": "the run never said that it ended: it was interrupted, or still goes on",
        "interrupted": "the run was interrupted",
    }
    return list(stored) or [known.get(state, f"the run ended as {state!r} without giving a reason")]
