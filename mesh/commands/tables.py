"""Tables as Linkerd's commands print them: columns three spaces apart, no lines, no colours.

    NAME    MESHED   SUCCESS      RPS   LATENCY_P50
    emoji      1/1   100.00%   1.8rps           1ms

People read them, and scripts cut them with awk: each row has as many words as there are columns (an unknown value is
`-`), headings have no spaces, nothing is wrapped or shortened to the terminal's width. That is why rich, which does all
of it, is not used here. The same rows are printed with `-o json` as a list of objects with plain values, so that a
script need not undo `1.8rps`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

GAP = "   "
NONE = "-"
"""Shown for a value that is not known; `null` in JSON."""

Format = Literal["table", "json", "wide"]
Output = Annotated[Format, Parameter(name=("--output", "-o"))]
"""The option `-o` of commands that print a table."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, and how its values are shown."""

    name: str
    """Heading: capitals, no spaces."""
    show: Callable[[object], str] = str
    """A value as text; None is not given to it."""
    right: bool = False
    wide: bool = False
    """Shown with `-o wide` and in JSON only."""
    key: str | None = None
    """Name in JSON; the heading in lower case without it."""


def render(columns: Sequence[Column], rows: Iterable[Sequence[object]], output: Format = "table") -> str:
    """The rows as text that ends in a newline. Each row has one value for every column, wide ones included."""
    body = [tuple(row) for row in rows]
    if output == "json":
        keys = [column.key or column.name.lower() for column in columns]
        return json.dumps([dict(zip(keys, row, strict=True)) for row in body], indent=2, default=str) + "\n"
    shown = [index for index, column in enumerate(columns) if output == "wide" or not column.wide]
    lines = [[columns[index].name for index in shown]]
    lines += [[_text(columns[index], row[index]) for index in shown] for row in body]
    widths = [max(len(line[place]) for line in lines) for place in range(len(shown))]
    rights = [columns[index].right for index in shown]
    return "".join(_line(line, widths, rights) for line in lines)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]], output: Format = "table") -> None:
    sys.stdout.write(render(columns, rows, output))


def _text(column: Column, value: object) -> str:
    return NONE if value is None else column.show(value) or NONE


def _line(cells: Sequence[str], widths: Sequence[int], rights: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, rights, strict=True)
    )
    return GAP.join(padded).rstrip() + "\n"


# ---- values as Linkerd spells them ---------------------------------------------------------------------------------


def percent(ratio: object) -> str:
    """A ratio of 0 to 1: `97.53%`."""
    return f"{_number(ratio) * 100:.2f}%"


def per_second(rate: object) -> str:
    """Requests a second: `1.8rps`."""
    return f"{_number(rate):.1f}rps"


def milliseconds(latency: object) -> str:
    """Milliseconds: `14ms`."""
    return f"{_number(latency):.0f}ms"


def bytes_per_second(rate: object) -> str:
    """Bytes a second: `412.3B/s`, `1.2MB/s`."""
    value, unit = _number(rate), "B"
    for larger in ("KB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f}{unit}/s"


def _number(value: object) -> float:
    assert isinstance(value, (int, float)), value
    return float(value)
