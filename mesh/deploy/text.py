"""Objects as the text that `kubectl apply -f -` and Helm read.

Both read it with Go's library, which takes some plain words for numbers or booleans that are text to PyYAML (1e3, y).
Those are put in quotes here; an image's tag would otherwise become a number on its way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Without `&id001`: shared parts of objects are written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_AMBIGUOUS = re.compile(r"[-+]?[0-9._]+([eE][-+]?[0-9]+)?|0[xXoObB][0-9a-fA-F_]+|[yYnN]")


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _AMBIGUOUS.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(objects: Iterable[Mapping[str, Any]]) -> str:
    """One document for each object; many lines of text stay lines."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=120)


def to_document(value: object) -> str:
    """One value as YAML, keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)
    return text


def name_of(item: Mapping[str, Any]) -> str:
    """For messages: `deployment linkerd/linkerd-identity`."""
    metadata = item["metadata"]
    where = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{str(item['kind']).lower()} {where}{metadata['name']}"
