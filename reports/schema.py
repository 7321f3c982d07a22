"""The JSON Schema of report.json, made from the structs that write it.

    python -m reports.schema > docs/report.schema.json

The published file is the contract; a test fails when structs and file part, so that a change of the format is a change
that someone made on purpose. Further fields are allowed, for later versions only add.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from reports.document import SCHEMA, Document


def schema() -> dict[str, Any]:
    """Draft 2020-12."""
    made = msgspec.json.schema(Document)
    definitions = made["$defs"]
    document = definitions.pop("Document")
    document["properties"]["schema"] = {"const": SCHEMA}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:gameday:report:v1",
        "title": "Gameday report",
        "description": "report.json of a game day. Times are Unix seconds; null means that the run has no such figure.",
        **{key: value for key, value in document.items() if key not in ("title", "description")},
        "$defs": {name: definitions[name] for name in sorted(definitions)},
    }


def text() -> bytes:
    """The published file's bytes."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(text())
