"""Typed reading of one mapping, field by field, with the unknown ones named at the end.

    fields = Fields(node, "load", problems)
    rate = fields.rate("rate", maximum=2000)
    timeout = fields.duration("timeout", default=10.0)
    fields.done()

Each reader returns a value of its type, always: where the field is wrong or missing it notes the problem and returns a
placeholder (its default, or the type's zero; for a duration NaN, so that no check across fields finds it too long or
too short), see `problems`. `absent` and `at` serve checks across fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator

from mesh.api.durations import InvalidDuration, parse_duration
from scenarios.load.document import Mapping, Node, Scalar, Sequence
from scenarios.load.problems import Mark, Problems, quote, suggestion

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
_PLAIN_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?/ ?(s|min|m)")
_WHAT = {"text": "text", "integer": "a number", "number": "a number", "boolean": "true or false", "null": "nothing"}


def describe(node: Node) -> str:
    """What a node is, for "… expected, not a list"."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "a mapping"
    return "nothing" if node.kind == "null" else f"{_WHAT[node.kind]} ({quote(node.text)})"


def as_number(text: str) -> float | None:
    """A finite number, or None. Written as in JSON: YAML's `0x1f`, `1_000` and `1:30` are not for people."""
    if not _NUMBER.fullmatch(text) or len(text) > 40:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


class Reader:
    """Reads single nodes; `Fields` and the list readers go through it."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def text(self, node: Node, field: str) -> str:
        if isinstance(node, Scalar) and node.kind == "text" and node.text.strip():
            return node.text.strip()
        hint = "; put it in quotes" if isinstance(node, Scalar) and node.kind not in ("null", "text") else ""
        empty = isinstance(node, Scalar) and node.kind == "text"
        what = "empty text" if empty else describe(node)
        self.problems.add(node.mark, field, f"text expected, not {what}{hint}")
        return ""

    def label(self, node: Node, field: str) -> str:
        text = self.text(node, field)
        if text and not _LABEL.fullmatch(text):
            self.problems.add(
                node.mark, field, f"{quote(text)} is no name; lower-case letters, digits and dashes, 63 at most"
            )
            return ""
        return text

    def duration(
        self, node: Node, field: str, *, default: float = 0.0, zero: bool = False, maximum: float = math.inf
    ) -> float:
        if not isinstance(node, Scalar) or node.kind in ("null", "boolean"):
            self.problems.add(node.mark, field, f"a duration such as 30s expected, not {describe(node)}")
            return default
        text = node.text.strip()
        if text.startswith("-"):
            self.problems.add(node.mark, field, f"{quote(text)} is negative; a duration counts forward")
            return default
        try:
            seconds = parse_duration(text) if len(text) <= 40 and text.isascii() else -1.0
        except InvalidDuration:
            seconds = -1.0
        if seconds < 0 or not math.isfinite(seconds):
            hint = f'; did you mean "{text}s"?' if _PLAIN_NUMBER.fullmatch(text) else "; write 250ms, 30s or 1h30m"
            self.problems.add(node.mark, field, f"{quote(text)} is not a duration{hint}")
            return default
        if seconds == 0 and not zero:
            self.problems.add(node.mark, field, "must be longer than zero")
            return default
        if seconds > maximum:
            self.problems.add(node.mark, field, f"{text} is too long; {maximum:g}s at most")
            return default
        return seconds

    def number(
        self, node: Node, field: str, *, default: float = 0.0, minimum: float = -math.inf, maximum: float = math.inf
    ) -> float:
        value = as_number(node.text) if isinstance(node, Scalar) else None
        if value is None:
            self.problems.add(node.mark, field, f"a number expected, not {describe(node)}")
            return default
        return value if self._in_range(node.mark, field, value, minimum, maximum) else default

    def integer(self, node: Node, field: str, *, default: int = 0, minimum: int = 0, maximum: int = 10**9) -> int:
        value = as_number(node.text) if isinstance(node, Scalar) else None
        if value is None or value != int(value):
            self.problems.add(node.mark, field, f"a whole number expected, not {describe(node)}")
            return default
        return int(value) if self._in_range(node.mark, field, value, minimum, maximum) else default

    def share(self, node: Node, field: str, *, default: float = 0.0, strict: bool = False) -> float:
        """`99.5%` or `0.995`; `strict` leaves out both ends, for objectives."""
        text = node.text.strip() if isinstance(node, Scalar) else ""
        value = as_number(text.removesuffix("%").rstrip()) if text else None
        if value is None:
            self.problems.add(node.mark, field, f"a share such as 25% expected, not {describe(node)}")
            return default
        if text.endswith("%"):
            value = round(value / 100, 12)
        if not 0 <= value <= 1:
            hint = f'; did you mean "{text}%"?' if 1 < value <= 100 and not text.endswith("%") else ""
            self.problems.add(node.mark, field, f"{quote(text)} is not between 0% and 100%{hint}")
            return default
        if strict and value in (0.0, 1.0):
            self.problems.add(
                node.mark,
                field,
                f"{quote(text)} is no objective; it lies between 0% and 100%, both excluded",
            )
            return default
        return value

    def rate(self, node: Node, field: str, *, default: float = 0.0, maximum: float = math.inf) -> float:
        """`60/s`, `90/min`, or a bare number of them a second."""
        text = node.text.strip() if isinstance(node, Scalar) else ""
        match = _RATE.fullmatch(text) if len(text) <= 40 else None
        if match:
            value: float | None = float(match.group(1)) / (1 if match.group(2) == "s" else 60)
        else:
            value = as_number(text)
        if value is None:
            self.problems.add(node.mark, field, f"a rate such as 60/s expected, not {describe(node)}")
            return default
        if not 0 < value <= maximum:
            limit = f" and at most {maximum:g}/s" if math.isfinite(maximum) else ""
            self.problems.add(node.mark, field, f"{quote(text)} is out of range; a rate is more than 0{limit}")
            return default
        return value

    def boolean(self, node: Node, field: str, *, default: bool = False) -> bool:
        if isinstance(node, Scalar) and node.kind == "boolean":
            return node.text.lower() in ("true", "yes", "on")
        self.problems.add(node.mark, field, f"true or false expected, not {describe(node)}")
        return default

    def choice(self, node: Node, field: str, options: Collection[str], *, what: str, default: str = "") -> str:
        text = self.text(node, field)
        if text and text not in options:
            self.problems.add(node.mark, field, f"no {what} {quote(text)}{suggestion(text, options)}")
            return default
        return text or default

    def _in_range(self, mark: Mark, field: str, value: float, minimum: float, maximum: float) -> bool:
        if minimum <= value <= maximum:
            return True
        limit = f"{minimum:g} or more" if value < minimum else f"{maximum:g} or less"
        self.problems.add(mark, field, f"{value:g} is out of range; {limit} expected")
        return False


_EMPTY_MARK = Mark("")


class Fields:
    """One mapping. `field` is its dotted name, empty for the top."""

    def __init__(self, node: Node | None, field: str, problems: Problems) -> None:
        self.field = field
        self.problems = problems
        self.reader = Reader(problems)
        self._known: set[str] = set()
        self._usable = isinstance(node, Mapping)
        if isinstance(node, Mapping):
            self.node = node
        else:
            if node is not None:
                problems.add(node.mark, field, f"a mapping expected, not {describe(node)}")
            self.node = Mapping({}, {}, node.mark if node is not None else _EMPTY_MARK)

    # ---- finding

    def name_of(self, key: str) -> str:
        return f"{self.field}.{key}" if self.field else key

    def at(self, key: str) -> Mark:
        """Where the value of `key` stands, or the mapping where it is missing."""
        value = self.node.entries.get(key)
        return value.mark if value is not None else self.node.mark

    def has(self, key: str) -> bool:
        self._known.add(key)
        return key in self.node.entries

    def optional(self, key: str) -> Node | None:
        self._known.add(key)
        return self.node.entries.get(key)

    def required(self, key: str) -> Node | None:
        node = self.optional(key)
        if node is None and self._usable:
            self.problem(key, "is missing")
        return node

    def problem(self, key: str, message: str) -> None:
        self.problems.add(self.at(key), self.name_of(key), message)

    # ---- values

    def text(self, key: str, default: str | None = None) -> str:
        node = self.required(key) if default is None else self.optional(key)
        return self.reader.text(node, self.name_of(key)) if node is not None else default or ""

    def label(self, key: str) -> str:
        node = self.required(key)
        return self.reader.label(node, self.name_of(key)) if node is not None else ""

    def duration(
        self, key: str, default: float | None = None, *, zero: bool = False, maximum: float = math.inf
    ) -> float:
        node = self.required(key) if default is None else self.optional(key)
        fallback = default if default is not None else math.nan
        if node is None:
            return fallback
        return self.reader.duration(node, self.name_of(key), default=fallback, zero=zero, maximum=maximum)

    def number(
        self, key: str, default: float | None = None, *, minimum: float = -math.inf, maximum: float = math.inf
    ) -> float:
        node = self.required(key) if default is None else self.optional(key)
        fallback = default if default is not None else 0.0
        if node is None:
            return fallback
        return self.reader.number(node, self.name_of(key), default=fallback, minimum=minimum, maximum=maximum)

    def integer(self, key: str, default: int | None = None, *, minimum: int = 0, maximum: int = 10**9) -> int:
        node = self.required(key) if default is None else self.optional(key)
        fallback = default if default is not None else minimum
        if node is None:
            return fallback
        return self.reader.integer(node, self.name_of(key), default=fallback, minimum=minimum, maximum=maximum)

    def share(self, key: str, default: float | None = None) -> float:
        node = self.required(key) if default is None else self.optional(key)
        fallback = default if default is not None else 0.0
        return self.reader.share(node, self.name_of(key), default=fallback) if node is not None else fallback

    def rate(self, key: str, *, maximum: float = math.inf) -> float:
        node = self.required(key)
        return self.reader.rate(node, self.name_of(key), default=1.0, maximum=maximum) if node is not None else 1.0

    def boolean(self, key: str, default: bool) -> bool:
        node = self.optional(key)
        return self.reader.boolean(node, self.name_of(key), default=default) if node is not None else default

    def choice(self, key: str, options: Collection[str], *, what: str, default: str | None = None) -> str:
        node = self.required(key) if default is None else self.optional(key)
        if node is None:
            return default or ""
        return self.reader.choice(node, self.name_of(key), options, what=what, default=default or "")

    # ---- parts

    def mapping(self, key: str, *, required: bool = True) -> Fields:
        node = self.required(key) if required else self.optional(key)
        return Fields(node, self.name_of(key), self.problems)

    def items(self, key: str, *, required: bool = False) -> Iterator[tuple[str, Node]]:
        """(dotted name, node) of each entry of a list."""
        node = self.required(key) if required else self.optional(key)
        if isinstance(node, Sequence):
            for index, item in enumerate(node.items):
                yield f"{self.name_of(key)}[{index}]", item
        elif node is not None:
            self.problem(key, f"a list expected, not {describe(node)}")

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self.reader.text(node, field) for field, node in self.items(key))

    def entries(self) -> Iterator[tuple[str, str, Node]]:
        """(key, dotted name, node) of every entry, for mappings whose keys are the user's own names."""
        for key, node in self.node.entries.items():
            self._known.add(key)
            yield key, self.name_of(key), node

    def key_mark(self, key: str) -> Mark:
        return self.node.key_marks.get(key, self.node.mark)

    def done(self) -> None:
        """Names the keys that nobody asked for."""
        for key in self.node.entries:
            if key not in self._known:
                known = suggestion(key, self._known)
                self.problems.add(self.key_mark(key), self.name_of(key), f"no such field{known}")
