"""Durations as Kubernetes and Linkerd write them: `250ms`, `1.5s`, `10m`, `24h`, `1h30m`.

Inside the code every duration is a float in seconds; this module is the only place where the text form is read or
written. Go's `time.ParseDuration` grammar is followed, less its sub-millisecond units, which no mesh setting uses.
"""

from __future__ import annotations

import re

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class InvalidDuration(ValueError):
    """The text is not a duration; the message says what was expected."""


def parse_duration(text: str) -> float:
    """Seconds in `text`.

    Raises:
        InvalidDuration: empty, signed, unit missing or unknown, or trailing characters.
    """
    position = 0
    total = 0.0
    while match := _PART.match(text, position):
        total += float(match.group(1)) * _UNIT_SECONDS[match.group(2)]
        position = match.end()
    if position == 0 or position != len(text):
        raise InvalidDuration(f"{text!r} is not a duration; write a number with a unit, such as 250ms, 30s or 1h30m")
    return total


def format_duration(seconds: float) -> str:
    """The shortest of the text forms that reads back as `seconds` to the millisecond."""
    milliseconds = round(seconds * 1000)
    if milliseconds % 1000:
        return f"{milliseconds}ms" if milliseconds < 1000 else f"{milliseconds / 1000:.3f}".rstrip("0") + "s"
    whole = milliseconds // 1000
    for unit, size in (("h", 3600), ("m", 60)):
        if whole and whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s"
