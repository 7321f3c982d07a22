"""What ends a command of `gameday mesh`."""

from __future__ import annotations


class CommandFailed(Exception):
    """The command cannot do what was asked; the text is one line for the user: what, where, what to do. Exit code 2."""
