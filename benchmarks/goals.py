"""A table of what was found beside its goal; whoever prints one exits 1 where a goal was missed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.machine import StartFailed


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    found: float
    goal: float
    unit: str = "MB"
    at_least: bool = False
    """Whether the goal is a floor; else it is a ceiling."""
    remark: str = ""

    @property
    def met(self) -> bool:
        return self.found >= self.goal if self.at_least else self.found <= self.goal

    def __str__(self) -> str:
        sign, result = "≥" if self.at_least else "≤", "met" if self.met else "**missed**"
        return (
            f"| {self.what} | {self.found:,.1f} {self.unit} | {sign} {self.goal:,.1f} {self.unit} | {result}"
            f" | {self.remark} |"
        )


def show(findings: Iterable[Finding]) -> int:
    """Prints the table line by line as findings come; the exit code: 1 where a goal was missed, else 0."""
    print("| what | found | goal | | |\n|---|--:|--:|---|---|", flush=True)
    code = 0
    try:
        for finding in findings:
            print(finding, flush=True)
            code |= not finding.met
    except StartFailed as error:
        print(f"| not there yet | {' '.join(str(error).split())} | | **missed** | |", flush=True)
        return 1
    return code
