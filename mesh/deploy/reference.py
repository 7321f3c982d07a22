"""The table of values in docs/kubernetes.md, made from the fields and their docstrings: python -m mesh.deploy.reference

A docstring below a field is not there at run time, so that the source is read. A test holds the page against this.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mesh.api import values as source
from mesh.api.values import Section, Values

BEGIN, END = "<!-- values -->", "<!-- /values -->"
_GROUPED = ("Resources", "Probe")
"""Sections told of in one row, by their own docstring."""


def values_table() -> str:
    """Markdown: field, default, what it is and why."""
    rows = ["| field | default | what, and why |", "|---|---|---|"]
    rows += [f"| `{name}` | {_default(default)} | {text} |" for name, default, text in _rows(Values(), "")]
    return "\n".join(rows) + "\n"


def written(page: str) -> str:
    """The page with the table of now in it. Raises ValueError where it has no place for it."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} … {END} in the page")
    return f"{before}{BEGIN}\n{values_table()}{END}{after}"


def _rows(section: Section, prefix: str) -> Iterator[tuple[str, Any, str]]:
    told = _docstrings()[type(section).__name__] | _docstrings().get("Component", {})
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        name = f"{prefix}{field.encode_name}"
        if not isinstance(value, Section):
            yield name, value, told.get(field.name, "")
        elif type(value).__name__ in _GROUPED:
            fields = ", ".join(_leaves(value, ""))
            about = told.get(field.name) or inspect.getdoc(type(value)) or ""
            yield name, None, f"{' '.join(about.split())} Fields: {fields}.".strip()
        else:
            yield from _rows(value, f"{name}.")


def _leaves(section: Section, prefix: str) -> Iterator[str]:
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        name = f"{prefix}{field.encode_name}"
        if isinstance(value, Section):
            yield from _leaves(value, f"{name}.")
        else:
            yield f"`{name}`" if value == "" else f"`{name}` ({value})"


def _docstrings() -> dict[str, dict[str, str]]:
    """Class → field → the text below it, on one line."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(source)).body:
        if isinstance(node, ast.ClassDef):
            fields = found.setdefault(node.name, {})
            for member, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(member, ast.AnnAssign) and isinstance(after, ast.Expr):
                    assert isinstance(member.target, ast.Name)
                    assert isinstance(after.value, ast.Constant)
                    fields[member.target.id] = " ".join(str(after.value.value).split()).replace("|", "\\|")
    return found


def _default(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) and value else json.dumps(value)
    return f"`{text}`"


if __name__ == "__main__":
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/kubernetes.md")
    page.write_text(written(page.read_text()))
