"""How options of all commands behave: no `--no-…` unless a command names one, no default shown that says nothing."""

from __future__ import annotations

from cyclopts import Parameter


def _said(default: object) -> str | None:
    return None if default is None or default is False or default == () else str(default)


OPTIONS = Parameter(negative=(), show_default=_said)
