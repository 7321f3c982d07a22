"""YAML and JSON documents together with the line of every value in them.

Errors must say `file:line`, and a mistake is often found long after parsing (a wrong annotation, a route that no
service has). So a document keeps its node tree, and `line_of` walks it by the same keys and indexes that the value
was reached by. JSON is read as the YAML that it also is.

Bounded against hostile input: size, depth, and the number of values after aliases are expanded (a few lines of aliases
can stand for billions). Duplicate keys are refused; PyYAML would silently keep the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one where PyYAML has it
MAX_BYTES = 1 << 20
MAX_DEPTH = 60
MAX_VALUES = 50_000

Path = tuple[str | int, ...]


class InvalidDocument(Exception):
    """Text that is no usable YAML; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file."""

    value: object
    node: yaml.Node

    def line_of(self, path: Path) -> int:
        """The line of the value at `path`, or of its nearest ancestor that exists."""
        return _line(_find(self.node, path).start_mark)


def parse_documents(text: str) -> list[Document]:
    """The non-empty documents in `text`.

    Raises:
        InvalidDocument: not YAML, or beyond the bounds above.
    """
    if len(text) > MAX_BYTES:
        raise InvalidDocument(1, f"larger than {MAX_BYTES // 1024} KiB")
    try:
        _check_depth(text)
        loader = _Loader(text)
        try:
            return _documents(loader)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise InvalidDocument(
            _line(error.problem_mark or error.context_mark), f"not valid YAML: {error.problem or error.context}"
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an impossible date or number
        raise InvalidDocument(1, f"not valid YAML: {str(error).splitlines()[0]}") from None


def _documents(loader: yaml.SafeLoader) -> list[Document]:
    documents = []
    while loader.check_node():
        node = loader.get_node()
        if node is None:
            continue
        _check_values(node)
        value = loader.construct_document(node)
        if value is not None:
            documents.append(Document(value, node))
    return documents


def _check_depth(text: str) -> None:
    """Composing recurses, so depth is checked on the event stream first."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidDocument(_line(event.start_mark), f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_values(root: yaml.Node) -> None:
    """Visits every value, aliases as often as they are used; a cycle runs into the bound."""
    visited = 0
    pending = [root]
    while pending:
        node = pending.pop()
        visited += 1
        if visited > MAX_VALUES:
            raise InvalidDocument(_line(root.start_mark), f"more than {MAX_VALUES} values (aliases expanded)")
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            pending.extend(value for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        line = _line(key.start_mark)
        if not isinstance(key, yaml.ScalarNode):
            raise InvalidDocument(line, "a key must be plain text")
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.value in seen:
            raise InvalidDocument(line, f"{key.value!r} is given twice")
        seen.add(key.value)


def _find(node: yaml.Node, path: Path) -> yaml.Node:
    for step in path:
        child = _child(node, step)
        if child is None:
            return node
        node = child
    return node


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        found: yaml.Node = node.value[step]
        return found
    return None


def _line(mark: Any) -> int:
    """PyYAML counts lines from 0, its C twin has marks of another type, and either may have none."""
    return int(mark.line) + 1 if mark is not None else 1
