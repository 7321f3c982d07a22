"""viz's own metrics: counters and gauges, rendered for `/metrics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable


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
