"""A template's node as Helm text: the same objects, decided by Helm when it renders.

    Ref("controllerReplicas")           {{ .Values.controllerReplicas | toJson }}
    Text("{image.name}:{…}")            {{ printf "%v:%v" .Values.image.name … | toJson }}
    When(Is("viz.enabled"), node)       {{- if .Values.viz.enabled }} … {{- end }}
    Each("imagePullSecrets", node)      {{- range $item := … }} … {{- end }}

Scalars go through `toJson`: JSON is YAML, and no value of a user can break out of its quotes. Constants may not contain
`{{`, which is checked. Whether a member is there is asked of `condition_of`, and `evaluate` answers the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from mesh.deploy.template import (
    ABSENT,
    CREDENTIALS,
    PLACEHOLDER,
    AllValues,
    Both,
    Each,
    Either,
    Is,
    Item,
    Node,
    Not,
    Ref,
    Required,
    Secret,
    Test,
    Text,
    When,
    condition_of,
)

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def emit_object(node: Node) -> str:
    """One document of a chart's template."""
    condition = condition_of(node)
    body = "\n".join(_lines(_inner(node, condition), 0))
    document = f"---\n{body}\n"
    return f"{{{{- if {_test(condition)} }}}}\n{document}{{{{- end }}}}\n" if condition is not None else document


def _inner(node: Node, condition: Test | None) -> Node:
    """What is under a condition that is already asked: its own `When`s need no second time."""
    while condition is not None and isinstance(node, When) and node.otherwise is ABSENT:
        node = node.then
    return node


def _lines(node: Node, indent: int) -> Iterator[str]:
    """The lines of a mapping or list."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _guarded(value, indent, lambda value, key=key: _entry(f"{_constant(key)}:", value, indent, 2))
    elif isinstance(node, list):
        for member in node:
            yield from _guarded(member, indent, lambda member: _entry("-", member, indent, 2))
    else:
        raise TypeError(f"not a mapping or list: {node!r}")


def _guarded(node: Node, indent: int, emit: Any) -> Iterator[str]:
    """`node` emitted, within the condition or loop under which it is there."""
    if isinstance(node, Each):
        field = _field(node.path)
        items = f"splitList {json.dumps(node.separator)} {field}" if node.separator else field
        yield f"{{{{- range $item := {items} }}}}"
        yield from emit(node.node)
        yield "{{- end }}"
        return
    if isinstance(node, When) and node.otherwise is not ABSENT:
        yield f"{{{{- if {_test(node.test)} }}}}"
        yield from emit(node.then)
        yield "{{- else }}"
        yield from emit(node.otherwise)
        yield "{{- end }}"
        return
    condition = condition_of(node)
    if condition is None:
        yield from emit(node)
        return
    yield f"{{{{- if {_test(condition)} }}}}"
    yield from emit(_inner(node, condition))
    yield "{{- end }}"


def _entry(head: str, value: Node, indent: int, step: int) -> Iterator[str]:
    space = " " * indent
    match value:
        case dict() | list() if value:
            if head == "-":
                yield from _item(value, indent, step)
            else:
                yield f"{space}{head}"
                yield from _lines(value, indent + step)
        case Ref(path) if type(value) is Ref and path in _WHOLE:
            yield f"{space}{head}"
            yield f"{' ' * (indent + step)}{{{{- toYaml {_field(path)} | nindent {indent + step} }}}}"
        case AllValues():
            yield f"{space}{head} |"
            yield f'{space}  {{{{- include "values" . | nindent {indent + step} }}}}'
        case _:
            yield f"{space}{head} {_scalar(value)}"


def _item(value: Node, indent: int, step: int) -> Iterator[str]:
    """A mapping or list as an item. The dash stands alone where its first member is conditional."""
    lines = list(_lines(value, indent + step))
    space = " " * indent
    if lines[0].startswith("{{"):
        yield f"{space}-"
        yield from lines
    else:
        yield f"{space}- {lines[0].lstrip()}"
        yield from lines[1:]


def _scalar(node: Node) -> str:
    match node:
        case Secret(path, hint):
            return f"{{{{ required {json.dumps(hint)} {_field(path)} | b64enc | toJson }}}}"
        case Required(path, hint):
            return f"{{{{ required {json.dumps(hint)} {_field(path)} | toJson }}}}"
        case Ref(path):
            return f"{{{{ {_field(path)} | toJson }}}}"
        case Text(text):
            fields = " ".join(_field(path) for path in node.paths)
            return f"{{{{ printf {json.dumps(PLACEHOLDER.sub('%v', text))} {fields} | toJson }}}}"
        case Item(number):
            return "{{ $item | trim | int }}" if number else "{{ $item | toJson }}"
        case _:
            return _constant(node)


def _constant(value: object) -> str:
    if isinstance(value, str):
        if "{{" in value:
            raise ValueError(f"{value!r} would be read as a template")
        if _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
            return value
    return json.dumps(value, ensure_ascii=False)


def _test(test: Test) -> str:
    match test:
        case Is(path):
            return _field(path)
        case Not(inner):
            return f"not {_argument(inner)}"
        case Both(first, second):
            return f"and {_argument(first)} {_argument(second)}"
        case Either(tests):
            return f"or {' '.join(_argument(inner) for inner in tests)}"


def _argument(test: Test) -> str:
    return _test(test) if isinstance(test, Is) else f"({_test(test)})"


def _field(path: str) -> str:
    return f"$.Values.{path}"


_WHOLE = frozenset({"nodeSelector", "tolerations"})
"""Fields that are mappings or lists, and go into an object as they are."""

HELPERS = f"""{{{{- /* All values, without certificates and keys: what linkerd-config tells the mesh. */ -}}}}
{{{{- define "values" -}}}}
{{{{- $values := deepCopy .Values -}}}}
{{{{- $_ := unset $values "{CREDENTIALS[0]}" -}}}}
{{{{- $_ := unset $values.identity.issuer "{CREDENTIALS[1].rpartition(".")[2]}" -}}}}
{{{{- toYaml $values -}}}}
{{{{- end -}}}}
"""
