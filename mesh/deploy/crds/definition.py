"""A CustomResourceDefinition from its schema, with the labels of what we install."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.deploy.crds.schema import Schema, record
from mesh.deploy.labels import CRD_LABELS

STATUS: Schema = record(
    {
        "conditions": {
            "type": "array",
            "items": record(
                {
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "message": {"type": "string", "maxLength": 32_768},
                    "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                    "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "type": {"type": "string", "minLength": 1, "maxLength": 316},
                },
                required=["lastTransitionTime", "message", "reason", "status", "type"],
            ),
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        }
    }
)
"""metav1.Condition list, for kinds whose status is conditions alone."""


def column(name: str, path: str, kind: str = "string") -> dict[str, str]:
    """A column of `kubectl get`."""
    return {"name": name, "jsonPath": path, "type": kind}


def definition(
    group: str,
    kind: str,
    plural: str,
    versions: Sequence[str],
    spec: Schema,
    *,
    status: Schema | None = None,
    columns: Sequence[dict[str, str]] = (),
    short: Sequence[str] = (),
    annotations: dict[str, str] | None = None,
    categories: Sequence[str] = (),
) -> dict[str, Any]:
    """The last of `versions` is stored; the others are served with the same schema, so that none needs conversion."""
    fields = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": spec,
    }
    if status is not None:
        fields["status"] = status
    names: dict[str, Any] = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    if short:
        names["shortNames"] = list(short)
    if categories:
        names["categories"] = list(categories)
    metadata: dict[str, Any] = {"name": f"{plural}.{group}", "labels": dict(CRD_LABELS)}
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": group,
            "names": names,
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == versions[-1],
                    **({"subresources": {"status": {}}} if status is not None else {}),
                    **({"additionalPrinterColumns": list(columns)} if columns else {}),
                    "schema": {"openAPIV3Schema": record(fields, required=["spec"])},
                }
                for version in versions
            ],
        },
    }
