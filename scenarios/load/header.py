"""The four keys that every one of our documents starts with: apiVersion, kind, metadata, spec."""

from __future__ import annotations

from pathlib import Path

from scenarios.load.document import Mapping, read_documents
from scenarios.load.fields import Fields
from scenarios.load.problems import Mark, Problems, display_path, quote

API_VERSION = "gameday.dev/v1"


def read_header(path: Path, kind: str, problems: Problems) -> tuple[Fields, Mapping] | None:
    """Metadata and spec of the one document in `path`; None where there is none to speak of."""
    documents = read_documents(path, problems)
    mark = Mark(display_path(path), 1)
    if not documents:
        if not problems:
            problems.add(mark, "", f"is empty; a {kind.lower()} starts with apiVersion: {API_VERSION}, kind: {kind}")
        return None
    if len(documents) > 1:
        problems.add(documents[1].mark, "", f"holds more than one document; a {kind.lower()} is one")
    top = Fields(documents[0], "", problems)
    if not isinstance(documents[0], Mapping):
        return None
    found_version = top.text("apiVersion")
    if found_version and found_version != API_VERSION:
        top.problem("apiVersion", f"{quote(found_version)} is not known here; write {API_VERSION}")
    found_kind = top.text("kind")
    if found_kind and found_kind != kind:
        top.problem("kind", f"{quote(found_kind)} is not {kind}")
    metadata = top.mapping("metadata")
    spec = top.mapping("spec")
    top.done()
    return metadata, spec.node
