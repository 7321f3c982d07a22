"""Words for structural schemas (OpenAPI v3, as CustomResourceDefinitions allow it).

    record({"port": port_or_name(), "podSelector": label_selector()}, required=["port"])

Every field has a type, as structural schemas demand; unknown fields are then pruned by the API server. Rules that types
cannot say are CEL (`rules`), checked by the API server itself, so that they hold even while the validating webhook is
down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]

DURATION = r"^(\d+(\.\d+)?(ms|s|m|h|d))+$"
"""`mesh.api.durations`."""
HTTP_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
MAX_ITEMS = 64
"""Of lists over which a CEL rule runs: the API server refuses rules whose cost it cannot bound."""


def record(fields: dict[str, Schema], required: Sequence[str] = (), **more: Any) -> Schema:
    schema: Schema = {"type": "object", "properties": fields}
    if required:
        schema["required"] = list(required)
    return schema | more


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """CEL: pairs of rule and what is wrong when it does not hold."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


def listing(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items} | more


def text(description: str = "", **more: Any) -> Schema:
    return _described({"type": "string"}, description) | more


def choice(*values: str, default: str | None = None, description: str = "") -> Schema:
    schema = _described({"type": "string", "enum": list(values)}, description)
    return schema if default is None else schema | {"default": default}


def duration(description: str = "") -> Schema:
    return text(description, pattern=DURATION)


def whole(minimum: int | None = None, maximum: int | None = None, description: str = "") -> Schema:
    schema = _described({"type": "integer"}, description)
    if minimum is not None:
        schema["minimum"] = minimum
    if maximum is not None:
        schema["maximum"] = maximum
    return schema


def number(description: str = "", **more: Any) -> Schema:
    return _described({"type": "number"}, description) | more


def flag(description: str = "") -> Schema:
    return _described({"type": "boolean"}, description)


def port() -> Schema:
    return whole(1, 65_535)


def int_or_text(**more: Any) -> Schema:
    return {"x-kubernetes-int-or-string": True} | more


def label_selector() -> Schema:
    """metav1.LabelSelector."""
    return record(
        {
            "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
            "matchExpressions": listing(
                record(
                    {
                        "key": text(),
                        "operator": choice("In", "NotIn", "Exists", "DoesNotExist"),
                        "values": listing(text()),
                    },
                    required=["key", "operator"],
                )
            ),
        }
    )


def reference(*, namespace: bool = True, port_allowed: bool = False, group: str | None = None) -> Schema:
    """A reference to another object, by group, kind and name."""
    fields = {
        "group": text(maxLength=253) | ({} if group is None else {"default": group}),
        "kind": text(minLength=1, maxLength=63),
        "name": text(minLength=1, maxLength=253),
    }
    if namespace:
        fields["namespace"] = text(minLength=1, maxLength=63)
    if port_allowed:
        fields["port"] = port()
    return record(fields, required=["kind", "name"])


def network(description: str = "") -> Schema:
    """A block of addresses, and those of them that are not meant."""
    return record({"cidr": text(description or "An address or CIDR"), "except": listing(text())}, required=["cidr"])


def _described(schema: Schema, description: str) -> Schema:
    return schema | {"description": description} if description else schema
