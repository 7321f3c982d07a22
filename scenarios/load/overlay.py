"""Variants and `--set`: one tree laid over another before anything is read.

Mappings merge key by key and `null` takes a key away. A list of named things (faults, SLOs) merges by name, so that a
variant says only what differs; any other list is replaced whole. Nodes keep their marks: a mistake in a variant is
reported on the variant's line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence as AbstractSequence

from scenarios.load.document import Mapping, Node, Scalar, Sequence, parse_value
from scenarios.load.problems import Mark, Problems, quote, suggestion

_PART = re.compile(r"([^.\[\]]+)|\[([0-9]{1,4})\]")


def lay_over(base: Node | None, top: Node) -> Node | None:
    """`top` over `base`; None where `top` takes it away."""
    if isinstance(top, Scalar) and top.kind == "null":
        return None
    if isinstance(top, Mapping):
        return _lay_mapping(base if isinstance(base, Mapping) else Mapping({}, {}, top.mark), top)
    if isinstance(base, Sequence) and isinstance(top, Sequence):
        base_names = _names(base)
        top_names = _names(top)
        if base_names is not None and top_names is not None:
            return _lay_named(base, base_names, top, top_names)
    return top


def _lay_mapping(base: Mapping, top: Mapping) -> Mapping:
    entries = dict(base.entries)
    marks = dict(base.key_marks)
    for key, value in top.entries.items():
        merged = lay_over(entries.get(key), value)
        if merged is None:
            entries.pop(key, None)
            marks.pop(key, None)
        else:
            entries[key] = merged
            marks[key] = top.key_marks[key]
    return Mapping(entries, marks, base.mark)


def _lay_named(base: Sequence, base_names: list[str], top: Sequence, top_names: list[str]) -> Sequence:
    items = list(base.items)
    for name, item in zip(top_names, top.items, strict=True):
        if name in base_names:
            merged = lay_over(items[base_names.index(name)], item)
            assert merged is not None  # both are mappings
            items[base_names.index(name)] = merged
        else:
            items.append(item)
    return Sequence(tuple(items), base.mark)


def _names(sequence: Sequence) -> list[str] | None:
    """The names of a list of named things; None for any other list, an empty one and one with a name twice."""
    names: list[str] = []
    for item in sequence.items:
        name = item.entries.get("name") if isinstance(item, Mapping) else None
        if not isinstance(name, Scalar):
            return None
        names.append(name.text.strip())
    return names if names and len(set(names)) == len(names) else None


def apply_overrides(spec: Mapping, overrides: AbstractSequence[str], problems: Problems) -> Mapping:
    """`spec` with each `path=value` put in; the path leads through keys, names of list entries and [indices]."""
    for override in overrides:
        key, equals, value = override.partition("=")
        mark = Mark(f"--set {quote(override)[1:-1]}")
        parts = [word or int(index) for word, index in _PART.findall(key.strip())]
        if not equals or not parts or _PART.sub("", key.strip()).strip("."):
            problems.add(mark, "", "write it as field=value, for example load.rate=80/s")
            continue
        node = parse_value(value.strip(), mark, problems)
        if node is None:
            continue
        changed = _put(spec, parts, node, mark, "", problems)
        if isinstance(changed, Mapping):
            spec = changed
    return spec


def _put(
    tree: Node | None, parts: list[str | int], value: Node, mark: Mark, path: str, problems: Problems
) -> Node | None:
    if not parts:
        return None if isinstance(value, Scalar) and value.kind == "null" else value
    part, rest = parts[0], parts[1:]
    if isinstance(tree, Sequence):
        return _put_in_list(tree, part, rest, value, mark, path, problems)
    if isinstance(part, int):
        problems.add(mark, f"{path}[{part}]", "is not a list")
        return tree
    if tree is not None and not isinstance(tree, Mapping):
        problems.add(mark, f"{path}.{part}" if path else part, f"{path} has no parts to set")
        return tree
    entries = dict(tree.entries) if tree is not None else {}
    marks = dict(tree.key_marks) if tree is not None else {}
    changed = _put(entries.get(part), rest, value, mark, f"{path}.{part}" if path else part, problems)
    if changed is None:
        entries.pop(part, None)
        marks.pop(part, None)
    else:
        entries[part] = changed
        marks.setdefault(part, mark)
    return Mapping(entries, marks, tree.mark if tree is not None else mark)


def _put_in_list(
    tree: Sequence, part: str | int, rest: list[str | int], value: Node, mark: Mark, path: str, problems: Problems
) -> Node:
    names = _names(tree) or []
    index = part if isinstance(part, int) else names.index(part) if part in names else None
    if index is None and isinstance(part, str) and part.isascii() and part.isdigit() and len(part) < 5:
        index = int(part)
    if index is None:
        problems.add(mark, path, f"has no entry {quote(str(part))}{suggestion(str(part), names)}")
        return tree
    if index >= len(tree.items):
        problems.add(mark, path, f"has {len(tree.items)} entries; there is no [{index}]")
        return tree
    changed = _put(tree.items[index], rest, value, mark, f"{path}[{index}]", problems)
    kept = (changed,) if changed is not None else ()
    return Sequence((*tree.items[:index], *kept, *tree.items[index + 1 :]), tree.mark)
