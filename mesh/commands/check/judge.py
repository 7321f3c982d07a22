"""One check, and the judging of all of them: pure, over `Facts`.

A check is a claim (`issuer cert is within its validity period`) and a function that finds what contradicts it. It says
nothing about order or severity of others: a check whose ground is missing (no issuer at all) skips itself, and the
check of that ground is the one that fails, so that the first × of a broken install is its cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from mesh.commands.check.facts import Facts

ESSENTIAL = frozenset({"kubernetes_version", "namespace_exists", "values", "components", "pods", "allowed"})
"""Facts without which nobody may call the mesh healthy: that they cannot be learned is an error, as in Linkerd."""


class Severity(Enum):
    """As in Linkerd: warnings do not change the exit code."""

    OK = "success"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What contradicts a claim, and what to do about it."""

    text: str
    """One line or several."""
    do: str
    severity: Severity = Severity.ERROR


class Skip:
    """The ground of the check is missing; another check says so."""


SKIP = Skip()
Verdict = Finding | Skip | None
"""None: the claim holds."""


@dataclass(frozen=True, slots=True)
class Check:
    """One claim about the mesh."""

    claim: str
    judge: Callable[[Facts], Verdict]
    needs: tuple[str, ...] = ()
    """Fields of Facts without which it cannot be judged."""


@dataclass(frozen=True, slots=True)
class Category:
    """Claims about one part, in the order in which they are read."""

    name: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One judged claim."""

    category: str
    claim: str
    severity: Severity
    text: str = ""
    do: str = ""


def error(text: str, do: str) -> Finding:
    return Finding(text, do)


def warning(text: str, do: str) -> Finding:
    return Finding(text, do, Severity.WARNING)


def listed(lines: Sequence[str], limit: int = 10) -> str:
    """Several findings of one check, one a line; what is beyond `limit` is counted."""
    more = len(lines) - limit
    shown = list(lines[:limit])
    if more > 0:
        shown.append(f"… and {more} more")
    return "\n".join(shown)


def judge(facts: Facts, categories: Iterable[Category]) -> list[Result]:
    """The results of all claims that could be judged, in order. Without an API only its own checks are."""
    results: list[Result] = []
    for category in categories:
        for check in category.checks:
            result = _judge(facts, category.name, check)
            if result is not None:
                results.append(result)
        if facts.unreachable:
            break
    return results


def _judge(facts: Facts, category: str, check: Check) -> Result | None:
    for need in check.needs:
        if need in facts.unknown:
            severity = Severity.ERROR if need in ESSENTIAL else Severity.WARNING
            text = f"cannot tell: {facts.unknown[need]}"
            return Result(category, check.claim, severity, text, "ask for a role that may read it")
    verdict = check.judge(facts)
    if isinstance(verdict, Skip):
        return None
    if verdict is None:
        return Result(category, check.claim, Severity.OK)
    return Result(category, check.claim, verdict.severity, verdict.text, verdict.do)


def failed(results: Iterable[Result]) -> bool:
    """Whether any claim is wrong; warnings do not count."""
    return any(result.severity is Severity.ERROR for result in results)
