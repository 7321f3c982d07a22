"""Log levels from Linkerd's filter text, at start and at run time.

    warn                        everything from warnings on
    warn,linkerd=info           `linkerd` and `linkerd_*` are this proxy: the same as `info`
    warn,identity=debug         one of our own loggers
    info,hyper=off,[{a=b}]=trace    parts and spans that only linkerd2-proxy has are accepted and mean nothing here

`trace` is `debug`, for the standard library knows nothing finer; `off` is silence.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

LEVELS: Mapping[str, int] = {
    "off": logging.CRITICAL + 10,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
OWN = frozenset({"proxy", "identity", "control", "trace", "tap", "inbound", "outbound", "policy"})
"""Names of our loggers."""
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_SPAN = re.compile(r"\[[^\]]*\]")
_TARGET = re.compile(r"[A-Za-z0-9_:.-]*")


class InvalidFilter(ValueError):
    """The text is no log filter; the message says which part."""


@dataclass(frozen=True, slots=True)
class LogFilter:
    """A filter as it was written, and what it means here."""

    text: str
    level: str = "error"
    """Of all loggers that have none of their own. As in Linkerd, a filter that names only targets leaves errors."""
    loggers: Mapping[str, str] = field(default_factory=dict)


def parse_filter(text: str) -> LogFilter:
    """The meaning of a filter.

    Raises:
        InvalidFilter: a part is neither a level nor `target=level`.
    """
    text = text.strip()
    level, ours = "", ""
    loggers: dict[str, str] = {}
    for part in _SPAN.sub("[]", text).split(","):
        target, equals, name = part.strip().rpartition("=")
        name = name.strip().lower()
        if name not in LEVELS:
            raise InvalidFilter(f"{name!r} is no log level; known: {', '.join(LEVELS)}")
        spans = "[]" in target
        target = target.replace("[]", "").strip()
        if _TARGET.fullmatch(target) is None:
            raise InvalidFilter(f"{target!r} is no target")
        if spans:
            continue
        if not equals:
            level = name
        elif target in OWN:
            loggers[target] = name
        elif target.startswith("linkerd"):
            ours = name if not ours or LEVELS[name] < LEVELS[ours] else ours
    return LogFilter(text, ours or level or "error", loggers)


class LogControl:
    """The filter in force."""

    def __init__(self, chosen: LogFilter | None = None) -> None:
        """None: leaves everything as it is until somebody changes it."""
        level = logging.getLogger().level
        self._filter = LogFilter(next((name for name, value in LEVELS.items() if value == level), "warn"))
        if chosen is not None:
            self.apply(chosen)

    @property
    def text(self) -> str:
        return self._filter.text

    def apply(self, chosen: LogFilter) -> None:
        self._filter = chosen
        logging.getLogger().setLevel(LEVELS[chosen.level])
        for name in OWN:
            level = chosen.loggers.get(name)
            logging.getLogger(name).setLevel(LEVELS[level] if level is not None else logging.NOTSET)


def start_logging(chosen: LogFilter) -> LogControl:
    """Logs to stderr from now on."""
    logging.basicConfig(format=FORMAT, stream=sys.stderr)
    return LogControl(chosen)
