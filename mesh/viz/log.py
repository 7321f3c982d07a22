"""One line an event on stderr, as `key=value` pairs, like the control plane's; counters for `/metrics` beside them."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable

LEVELS = ("debug", "info", "warn", "error")


class Log:
    """Says what happens. Fits `mesh.kube.api.Log`."""

    def __init__(self, level: str = "info", component: str = "viz") -> None:
        self._threshold = LEVELS.index(level)
        self._component = component

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
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        pairs = {"time": stamp, "level": LEVELS[level], "component": self._component, "msg": message, **fields}
        line = " ".join(f"{key}={_quoted(str(value))}" for key, value in pairs.items())
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            return  # stderr is gone (its reader died): serving goes on without a log


def _quoted(text: str) -> str:
    plain = text and text.isprintable() and not any(mark in text for mark in ' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)


class Counters:
    """viz's own metrics."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.gauges: dict[str, Callable[[], float]] = {}

    def add(self, name: str, labels: str = "", amount: int = 1) -> None:
        """`labels`: rendered, `a="b"`."""
        self.counts[name, labels] += amount

    def exposition(self) -> str:
        """Prometheus text format."""
        lines = []
        for name in sorted({name for name, _ in self.counts}):
            lines.append(f"# TYPE {name} counter")
            lines += [
                f"{name}{{{labels}}} {count}" if labels else f"{name} {count}"
                for (family, labels), count in sorted(self.counts.items())
                if family == name
            ]
        for name, read in self.gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {read()!r}"]
        return "\n".join(lines) + "\n"
