"""Results as Linkerd prints them.

    linkerd-identity
    ----------------
    √ trust anchors are within their validity period
    × issuer cert is within its validity period
        1234 identity.linkerd.cluster.local: expired at 2026-08-01T10:00:00Z
        what to do: issue a new one and replace the Secret …

`short` leaves out what is right. JSON has Linkerd's shape (`categories[].checks[].result`), with `hint` as a sentence
and not an address.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Literal

from mesh.commands.check.judge import Result, Severity, failed

Form = Literal["table", "short", "json"]
MARKS = {Severity.OK: "√", Severity.WARNING: "‼", Severity.ERROR: "×"}
INDENT = "    "


def as_text(results: Sequence[Result], *, short: bool = False) -> str:
    """The categories, one after another, and the verdict."""
    shown = [result for result in results if not short or result.severity is not Severity.OK]
    blocks = []
    for category, group in _by_category(shown):
        lines = [category, "-" * len(category), *(line for result in group for line in _lines(result))]
        blocks.append("\n".join(lines) + "\n")
    blocks.append(f"Status check results are {MARKS[verdict(results)]}\n")
    return "\n".join(blocks)


def as_json(results: Sequence[Result]) -> str:
    categories = [
        {"categoryName": category, "checks": [_object(result) for result in group]}
        for category, group in _by_category(results)
    ]
    return json.dumps({"success": not failed(results), "categories": categories}, indent=2, ensure_ascii=False) + "\n"


def verdict(results: Iterable[Result]) -> Severity:
    """√ or ×, as Linkerd: warnings do not spoil it."""
    return Severity.ERROR if failed(results) else Severity.OK


def _by_category(results: Iterable[Result]) -> Iterable[tuple[str, list[Result]]]:
    for category, group in itertools.groupby(results, lambda result: result.category):
        yield category, list(group)


def _lines(result: Result) -> list[str]:
    lines = [f"{MARKS[result.severity]} {result.claim}"]
    lines += [f"{INDENT}{line}" for line in result.text.splitlines()]
    if result.do:
        lines.append(f"{INDENT}what to do: {result.do}")
    return lines


def _object(result: Result) -> dict[str, str]:
    found = {"description": result.claim, "result": result.severity.value}
    if result.severity is not Severity.OK:
        found |= {"error": result.text, "hint": result.do}
    return found
