"""Counters and gauges in the Prometheus text format.

A control-plane process has a dozen series and no hot path, so a dictionary does; `prometheus_client` would double the
start-up time.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping

_HELP = {
    "process_start_time_seconds": ("gauge", "Unix time the process started"),
    "process_cpu_seconds_total": ("counter", "User and system CPU time"),
    "process_resident_memory_bytes": ("gauge", "Resident memory"),
    "process_open_fds": ("gauge", "Open file descriptors"),
}
_STARTED_AT = time.time()

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """The series of one process. Register a family before its first use; `labels` are given by keyword."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[Labels, float]] = {}
        self._sampled: dict[str, Callable[[], float]] = {}

    def counter(self, name: str, help_text: str) -> None:
        self._families[name] = ("counter", help_text)
        self._values.setdefault(name, {})

    def gauge(self, name: str, help_text: str, sample: Callable[[], float] | None = None) -> None:
        """With `sample`, the value is asked for at each scrape."""
        self._families[name] = ("gauge", help_text)
        self._values.setdefault(name, {})
        if sample is not None:
            self._sampled[name] = sample

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        series = self._values[name]
        key = tuple(sorted(labels.items()))
        series[key] = series.get(key, 0.0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        self._values[name][tuple(sorted(labels.items()))] = value

    def value(self, name: str, **labels: str) -> float:
        return self._values[name].get(tuple(sorted(labels.items())), 0.0)

    def exposition(self) -> str:
        lines: list[str] = []
        for name, (kind, help_text) in self._families.items():
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
            series: Mapping[Labels, float] = self._values[name]
            if name in self._sampled:
                series = {(): self._sampled[name]()}
            elif not series:
                series = {(): 0.0}
            lines += [f"{name}{_labels(labels)} {value!r}" for labels, value in series.items()]
        for name, value in _process().items():
            kind, help_text = _HELP[name]
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", f"{name} {value!r}"]
        return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _process() -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "process_start_time_seconds": _STARTED_AT,
        "process_cpu_seconds_total": usage.ru_utime + usage.ru_stime,
        "process_resident_memory_bytes": _resident_bytes(usage.ru_maxrss),
    }
    if os.path.isdir("/proc/self/fd"):
        found["process_open_fds"] = float(len(os.listdir("/proc/self/fd")))
    return found


def _resident_bytes(peak: int) -> float:
    """Now, where /proc says; else the peak (macOS, where getrusage counts bytes)."""
    try:
        with open("/proc/self/statm") as file:
            return float(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, IndexError, ValueError):
        return float(peak if sys.platform == "darwin" else peak * 1024)
