"""What a user can cause: one clear line and exit code 2, nothing started."""

from __future__ import annotations

import enum
import errno
import sqlite3


class Exit(enum.IntEnum):
    """Exit codes of `gameday run`."""

    HELD = 0
    NOT_HELD = 1
    BAD_INPUT = 2
    ABORTED = 3
    HARNESS_FAILED = 4


class BadInput(Exception):
    """Says what is wrong, where, and what to do. Never shown with a traceback."""


class WorldFailed(Exception):
    """The world did not come up, or fell over, through no fault of the scenario's: exit 4."""


def cannot_write(error: BaseException) -> bool:
    """Whether there was no room left, or no right to write: nothing that a traceback explains."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
