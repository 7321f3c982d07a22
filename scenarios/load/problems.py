"""What is wrong with a user's file: where, which field, what to do.

Reading goes on after a problem, so that one run of `gameday lint` names them all. Readers put a harmless placeholder
where a value was wrong; `InvalidScenario` is raised before anyone outside `scenarios.load` could see one.

    scenario.yaml:14: faults[0].target.app: no app "paymet" in topology retail; did you mean "payment"?
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file (line from 1), or outside of any: `--set` and the name given on the command line."""

    path: str
    line: int | None = None

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    path: str
    line: int | None
    field: str
    """Dotted, below `spec`; empty where the file as a whole is meant."""
    message: str

    def __str__(self) -> str:
        """One line, whatever stands in the file: a key may be a line break."""
        where = str(Mark(self.path, self.line))
        return printable(f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}")


class InvalidScenario(ValueError):
    """The input cannot be run. `problems` has every one found, in order of file and line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Problems:
    """Collects; the same problem is kept once."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}

    def add(self, mark: Mark, field: str, message: str) -> None:
        self._found[Problem(mark.path, mark.line, field, message)] = None

    def copy_to(self, other: Problems) -> None:
        other._found.update(self._found)

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_if_any(self) -> None:
        """Raises InvalidScenario."""
        if self._found:
            raise InvalidScenario(sorted(self._found, key=lambda problem: (problem.path, problem.line or 0)))


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?`, or what there is to choose from, to be put behind a message."""
    names = sorted(set(known))
    close = get_close_matches(word[:_MAX_SHOWN], names, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; there is {', '.join(names)}" if names else ""


def quote(text: str) -> str:
    """`text` in quotes, on one line and not endless."""
    shown = text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
    return f'"{printable(shown)}"'


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def display_path(path: Path) -> str:
    """As a user would type it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError, RuntimeError):  # not below here; a NUL in the name; a circle of links
        return str(path)
