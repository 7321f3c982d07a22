"""`gameday mesh chart`: the Helm chart, written from the same templates that `gameday mesh install` evaluates.

    Chart.yaml  values.yaml  values-ha.yaml  values.schema.json  templates/<part>.yaml  templates/crds.yaml  README.md

CRDs stand among the templates: Helm installs what is in `crds/` once and never upgrades it. Trust anchor and issuer
must be given (Helm cannot make an ECDSA CA); `gameday mesh install` makes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from mesh.api.values import HA, VERSION, Values
from mesh.deploy.helm import HELPERS, emit_object
from mesh.deploy.labels import NAMESPACE
from mesh.deploy.objects import PARTS, Credentials, all_crds, context_of
from mesh.deploy.text import to_document

NAME = "gameday-mesh"


def chart_files(values: Values | None = None) -> dict[str, str]:
    """Every file of the chart: path → text. `values`: its defaults."""
    files = {
        "Chart.yaml": to_document(
            {
                "apiVersion": "v2",
                "name": NAME,
                "description": "A Linkerd-compatible service mesh: control plane, injector, viz",
                "type": "application",
                "version": VERSION,
                "appVersion": VERSION,
                "kubeVersion": ">=1.29.0-0",
            }
        ),
        "values.yaml": _VALUES_HEAD + to_document(context_of(values or Values(), Credentials(""))),
        "values-ha.yaml": "# What --ha of `gameday mesh install` changes.\n" + to_document(HA),
        "values.schema.json": json.dumps(values_schema(), indent=2) + "\n",
        "README.md": _README,
        "templates/_values.tpl": HELPERS,
        "templates/crds.yaml": "".join(emit_object(node) for node in all_crds()),
    }
    for part, build in PARTS.items():
        files[f"templates/{part}.yaml"] = "".join(emit_object(node) for node in build())
    return files


def write_chart(directory: Path, values: Values | None = None) -> list[Path]:
    """Writes the chart; files of an older one that it no longer has are left alone. The paths written."""
    written: list[Path] = []
    for name, text in chart_files(values).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(path)
    return written


def values_schema() -> dict[str, Any]:
    """JSON Schema of values.yaml: Helm refuses a misspelt field with it, as install does."""
    schema = msgspec.json.schema(Values)
    definitions: dict[str, Any] = schema.pop("$defs")
    for definition in definitions.values():
        if definition.get("type") == "object" and "properties" in definition:
            definition["additionalProperties"] = False
            for field in definition["properties"].values():
                field.pop("default", None)
    definitions["Issuer"]["properties"]["tls"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"crtPEM": {"type": "string"}, "keyPEM": {"type": "string"}},
    }
    definitions["Values"]["properties"] |= {"identityTrustAnchorsPEM": {"type": "string"}, "global": {"type": "object"}}
    return {"$schema": "https://json-schema.org/draft-07/schema#", **_plain_references(schema, definitions)}


def _plain_references(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """As draft 7, which is what Helm reads: `definitions` and not `$defs`."""
    text = json.dumps({**schema, "definitions": definitions}).replace("#/$defs/", "#/definitions/")
    found: dict[str, Any] = json.loads(text)
    return found


_VALUES_HEAD = """\
# Each field, with unit, default and reason: mesh/api/values.py. Beside those, the credentials:
#   identityTrustAnchorsPEM            trust anchors, PEM; not with identity.externalCA
#   identity.issuer.tls.crtPEM/keyPEM  issuer, PEM, ECDSA P-256; not with identity.issuer.external
"""

_README = f"""\
# {NAME}

Written by `gameday mesh chart`; the same objects as `gameday mesh install` prints.

    helm install {NAME} . \\
      --set-file identityTrustAnchorsPEM=ca.crt \\
      --set-file identity.issuer.tls.crtPEM=issuer.crt \\
      --set-file identity.issuer.tls.keyPEM=issuer.key

Everything goes to the namespaces {NAMESPACE} and {NAMESPACE}-viz, which the chart makes, whatever the release's own
namespace is. High availability: `--values values-ha.yaml`. Helm keeps the release's values, the issuer's key among
them, in a Secret of the release's namespace; with `identity.issuer.external=true` the key stays where you keep it.

Helm knows nothing of what the mesh itself has made: after `helm uninstall`, `gameday mesh uninstall --apply` removes
the copies of the trust anchors from the namespaces that had pods in the mesh.
"""
