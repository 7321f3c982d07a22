"""One line an event on stderr, as `key=value` pairs: readable as it is, and by any logfmt parser."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

LEVELS = ("debug", "info", "warn", "error")


class Log:
    """The log of one component. `clock` gives Unix seconds."""

    def __init__(
        self,
        component: str,
        level: str = "info",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._component = component
        self._threshold = LEVELS.index(level)
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock

    def debug(self, message: str, **fields: object) -> None:
        self._write(0, message, fields)

    def info(self, message: str, **fields: object) -> None:
        self._write(1, message, fields)

    def warn(self, message: str, **fields: object) -> None:
        self._write(2, message, fields)

    def error(self, message: str, **fields: object) -> None:
        self._write(3, message, fields)

    def _write(self, level: int, message: str, fields: dict[str, object]) -> None:
        if level < self._threshold:
            return
        now = self._clock()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        pairs = {"time": stamp, "level": LEVELS[level], "component": self._component, "msg": message, **fields}
        line = " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items())
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return  # stderr is gone (its reader died): serving goes on without a log


def _quoted(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if text and not any(c in ' "=\\' or not c.isprintable() for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else " " for c in escaped) + '"'
