"""YAML text → a small tree in which every node knows its file and line.

PyYAML composes the nodes; nothing is constructed from them, so a tag cannot make an object and an odd scalar
(`2001-99-99` as a date) cannot raise. What a scalar means is for the reader of the field to say: the tree keeps its
text and what YAML would have taken it for, which makes `name: on` a message about quotes, not a boolean in a name.

Bounded on purpose, since a scenario may come from anyone: file size, nodes after aliases are followed (an alias bomb is
a few lines that stand for billions), depth (which also ends an alias that contains itself).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from scenarios.load.problems import Mark, Problems, display_path, quote

MAX_BYTES = 256 * 1024
MAX_NODES = 20_000
MAX_DEPTH = 40

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML was built with it: ten times faster, which the workload's start feels."""

ScalarKind = Literal["text", "integer", "number", "boolean", "null"]
_KINDS: dict[str, ScalarKind] = {
    "tag:yaml.org,2002:str": "text",
    "tag:yaml.org,2002:int": "integer",
    "tag:yaml.org,2002:float": "number",
    "tag:yaml.org,2002:bool": "boolean",
    "tag:yaml.org,2002:null": "null",
    # Written as words (2026-01-01, =), meant as words.
    "tag:yaml.org,2002:timestamp": "text",
    "tag:yaml.org,2002:value": "text",
    "tag:yaml.org,2002:merge": "text",
}


@dataclass(frozen=True, slots=True)
class Scalar:
    text: str
    kind: ScalarKind
    mark: Mark


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mapping:
    entries: dict[str, Node]
    key_marks: dict[str, Mark]
    mark: Mark


Node = Scalar | Sequence | Mapping


def read_documents(path: Path, problems: Problems) -> list[Node]:
    """The documents of a file, empty ones left out. What is wrong goes to `problems`; then the list is empty."""
    shown = display_path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # opening a named pipe would wait for a writer
            problems.add(Mark(shown), "", "is not a file")
            return []
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        problems.add(Mark(shown), "", "no such file")
    except IsADirectoryError:
        problems.add(Mark(shown), "", "is a directory, not a file")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        problems.add(Mark(shown), "", f"cannot be read: {getattr(error, 'strerror', None) or error}")
    else:
        return parse(body, shown, problems)
    return []


def parse(body: bytes, path: str, problems: Problems) -> list[Node]:
    """As `read_documents`, from bytes."""
    if len(body) > MAX_BYTES:
        problems.add(Mark(path), "", f"is larger than {MAX_BYTES // 1024} KiB")
        return []
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        problems.add(Mark(path, line), "", f"is not UTF-8 text (byte 0x{body[error.start]:02x})")
        return []
    try:
        deep = _line_beyond_depth(text)
        if deep is not None:
            problems.add(Mark(path, deep), "", f"is nested more than {MAX_DEPTH} deep")
            return []
        composed = list(yaml.compose_all(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part) or "not YAML"
        problems.add(Mark(path, mark.line + 1 if mark else None), "", f"not YAML: {what}")
    except yaml.reader.ReaderError as error:
        problems.add(Mark(path, text.count("\n", 0, error.position) + 1), "", f"not YAML: {error.reason}")
    except yaml.YAMLError as error:
        problems.add(Mark(path), "", f"not YAML: {quote(str(error))}")
    else:
        return _Converter(path, problems).documents(composed)
    return []


def _line_beyond_depth(text: str) -> int | None:
    """The line on which nesting passes MAX_DEPTH. Asked first, because libyaml's composer recurses on the C stack
    without a limit, and a file of brackets would take the process down."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                mark: Any = event.start_mark  # the stubs doubt that every event has one
                return int(mark.line) + 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def parse_value(text: str, mark: Mark, problems: Problems) -> Node | None:
    """A value from the command line (`--set load.rate=80/s`); every node of it is at `mark`."""
    within = Problems()
    documents = parse(text.encode(errors="replace"), mark.path, within)
    if within:
        problems.add(mark, "", f"{quote(text)} is not a YAML value")
        return None
    return _moved(documents[0], mark) if documents else Scalar("", "null", mark)


def _moved(node: Node, mark: Mark) -> Node:
    if isinstance(node, Scalar):
        return Scalar(node.text, node.kind, mark)
    if isinstance(node, Sequence):
        return Sequence(tuple(_moved(item, mark) for item in node.items), mark)
    entries = {key: _moved(value, mark) for key, value in node.entries.items()}
    return Mapping(entries, dict.fromkeys(entries, mark), mark)


class _TooMuchError(Exception):
    def __init__(self, mark: Mark, message: str) -> None:
        self.mark = mark
        self.message = message


class _Converter:
    def __init__(self, path: str, problems: Problems) -> None:
        self._path = path
        self._problems = problems
        self._nodes = 0

    def documents(self, composed: list[Any]) -> list[Node]:
        try:
            return [self._node(node, 0) for node in composed if node is not None and not _is_empty(node)]
        except _TooMuchError as error:
            self._problems.add(error.mark, "", error.message)
            return []

    def _node(self, node: Any, depth: int) -> Node:
        mark = Mark(self._path, node.start_mark.line + 1)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooMuchError(mark, f"has more than {MAX_NODES} values once aliases are followed")
        if depth > MAX_DEPTH:
            raise _TooMuchError(mark, f"is nested more than {MAX_DEPTH} deep")
        if isinstance(node, yaml.SequenceNode):
            return Sequence(tuple(self._node(item, depth + 1) for item in node.value), mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, mark, depth)
        kind = _KINDS.get(node.tag)
        if kind is None:
            self._problems.add(mark, "", f"the tag {quote(str(node.tag))} has no meaning here")
            kind = "text"
        return Scalar(str(node.value), kind, mark)

    def _mapping(self, node: Any, mark: Mark, depth: int) -> Mapping:
        entries: dict[str, Node] = {}
        marks: dict[str, Mark] = {}
        for key_node, value_node in node.value:
            key_mark = Mark(self._path, key_node.start_mark.line + 1)
            key: Hashable = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, str):
                self._problems.add(key_mark, "", "a key must be a word")
                continue
            value = self._node(value_node, depth + 1)
            if key in entries:
                self._problems.add(key_mark, "", f"{quote(key)} is written twice; first on line {marks[key].line}")
                continue
            entries[key] = value
            marks[key] = key_mark
        return Mapping(entries, marks, mark)


def _is_empty(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
