"""Prometheus' text format (0.0.4), read for a few families out of many.

A busy proxy says some thousand lines, of which a histogram's buckets are nine in ten. They stand together and differ in
`le` alone, so what comes before it is compared with the line above and nothing is parsed twice: a series is returned
under its label text as it was written, and whoever needs labels parses each text once (`parse_labels`) and remembers.

Values are what the lines say: counters and cumulative bucket counts, not yet increases. Lines that are no samples are
counted, not fatal: half an exposition must not pass for a whole one, so a body that breaks off is `Truncated`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field

_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"\s*(?:,|$)\s*')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n"}
BUCKET = "_bucket"
MAX_BUCKETS = 120
"""Of one histogram; Linkerd's have 26."""

SeriesKey = tuple[str, str]
"""Name of the family, and the label text without `le`."""


class Truncated(ValueError):
    """The exposition does not end in a newline: its end is missing."""


@dataclass(slots=True)
class Buckets:
    """A histogram as it was scraped. `bounds` without +Inf; `counts` cumulative, one longer, +Inf last."""

    bounds: tuple[float, ...]
    counts: list[float]


@dataclass(slots=True)
class Exposition:
    """What one scrape said about the wanted families."""

    values: dict[SeriesKey, float] = field(default_factory=dict)
    histograms: dict[SeriesKey, Buckets] = field(default_factory=dict)
    unreadable: int = 0
    """Lines of wanted families that made no sense."""


def parse_labels(text: str) -> dict[str, str]:
    """The labels of `a="b",c="d"`.

    Raises:
        ValueError: it is not such a list.
    """
    labels: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if match is None:
            raise ValueError(f"no label at {text[position:][:40]!r}")
        value = match.group(2)
        if "\\" in value:
            value = _ESCAPE.sub(lambda found: _ESCAPED.get(found.group(1), found.group(1)), value)
        labels[match.group(1)] = value
        position = match.end()
    return labels


def read(text: str, counters: Collection[str], histograms: Collection[str]) -> Exposition:
    """The samples of these families.

    Args:
        counters: names of counters and gauges.
        histograms: names without `_bucket`; their `_sum` and `_count` are left out.

    Raises:
        Truncated: the last line is not complete.
    """
    if text and not text.endswith("\n"):
        raise Truncated("the exposition breaks off")
    found = Exposition()
    reader = _HistogramReader(found)
    for line in text.split("\n"):
        if not line or line[0] == "#":
            continue
        brace = line.find("{")
        name = line[:brace] if brace > 0 else line.partition(" ")[0]
        if name in counters:
            reader.close()
            labels = ""
            rest = line[len(name) :]
            if brace > 0:
                end = line.rfind("}")
                if end < 0:
                    found.unreadable += 1
                    continue
                labels, rest = line[brace + 1 : end], line[end + 1 :]
            value = _value(rest)
            if value is None:
                found.unreadable += 1
            else:
                found.values[name, labels] = value
        elif name.endswith(BUCKET) and name[: -len(BUCKET)] in histograms:
            reader.bucket(name, line, brace)
    reader.close()
    return found


def _value(text: str) -> float | None:
    """The number after the labels; a timestamp may follow it."""
    parts = text.split()
    try:
        return float(parts[0]) if parts else None
    except ValueError:
        return None


class _HistogramReader:
    """Gathers the lines of one histogram series, which follow each other."""

    def __init__(self, found: Exposition) -> None:
        self._found = found
        self._head = ""
        self._key: SeriesKey | None = None
        self._points: list[tuple[float, float]] = []
        self._bounds: dict[tuple[float, ...], tuple[float, ...]] = {}

    def bucket(self, name: str, line: str, brace: int) -> None:
        # Our proxies write `le` last; whoever does not is read the long way.
        head, quick, tail = line.rpartition('le="')
        bound, closing, rest = tail.partition('"} ')
        if quick and closing and '"' not in bound:
            labels = None
        else:
            end = line.rfind("}")
            try:
                parsed = parse_labels(line[brace + 1 : end])
                bound = parsed.pop("le")
            except (ValueError, KeyError):
                self._found.unreadable += 1
                return
            labels = ",".join(f'{key}="{_escape(value)}"' for key, value in parsed.items())
            head, rest = f"{name}{{{labels}", line[end + 1 :]
        try:
            point = (float(bound), float(rest.split()[0]))
        except (ValueError, IndexError):
            self._found.unreadable += 1
            return
        if head != self._head:
            self.close()
            self._head = head
            text = labels if labels is not None else head[brace + 1 :].rstrip(",")
            self._key = (name[: -len(BUCKET)], text)
        self._points.append(point)

    def close(self) -> None:
        if self._key is None:
            return
        points = sorted(self._points)
        if math.isinf(points[-1][0]) and len(points) <= MAX_BUCKETS:
            bounds = tuple(bound for bound, _ in points[:-1])
            bounds = self._bounds.setdefault(bounds, bounds)
            self._found.histograms[self._key] = Buckets(bounds, [count for _, count in points])
        else:
            self._found.unreadable += len(points)
        self._head, self._key, self._points = "", None, []


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
