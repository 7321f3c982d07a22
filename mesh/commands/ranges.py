"""Ranges of numbers on the command line, as validators of cyclopts: what lies outside is one line and exit code 2.

Cyclopts' own `Number` lets NaN pass, for which every comparison is false, and does not say the other end of the range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Validator = Callable[[Any, Any], None]


def within(low: float, high: float) -> Validator:
    """Takes numbers from `low` to `high`, both included, and None: the option was not given."""

    def check(_: object, value: float | None) -> None:
        if value is not None and not low <= value <= high:
            raise ValueError(f"It is a number from {_written(low)} to {_written(high)}.")

    return check


def _written(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
