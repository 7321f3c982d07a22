"""CRD schemas against the loader of `mesh.api.resources`: field by field, and by what both say of many manifests.

Whatever the loader takes, the API server must take, or a manifest that worked on one machine is refused in a cluster.
The reverse holds for shape; what needs judgement (a reference of the wrong kind) is the validating webhook's to refuse.
"""

from __future__ import annotations

import copy
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import jsonschema
import msgspec
import pytest
import yaml

from mesh.api import resources
from mesh.api.resources import AnyResource
from mesh.control.registry.manifests import InvalidManifest, read_manifest
from mesh.deploy.crds import crds, gateway_routes
from tests.mesh.deploy.example_manifests import EXTERNAL_WORKLOAD, examples

Json = dict[str, Any]


def definitions() -> dict[tuple[str, str], Json]:
    """Schemas by (apiVersion, kind)."""
    return {
        (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]): version["schema"][
            "openAPIV3Schema"
        ]
        for crd in crds() + gateway_routes()
        for version in crd["spec"]["versions"]
    }


SCHEMAS = definitions()
STRUCTS = {
    struct.__name__: struct for struct in get_args(AnyResource) if struct.__name__ in {kind for _, kind in SCHEMAS}
}


def as_json_schema(schema: Any) -> Any:
    """Kubernetes' own words as JSON Schema."""
    if isinstance(schema, list):
        return [as_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: as_json_schema(value) for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    return found


VALIDATORS = {key: jsonschema.Draft7Validator(as_json_schema(schema)) for key, schema in SCHEMAS.items()}


def schema_takes(manifest: Json) -> bool:
    validator = VALIDATORS.get((manifest.get("apiVersion", ""), manifest.get("kind", "")))
    return validator is not None and validator.is_valid(manifest)


def loader_takes(manifest: Json) -> bool:
    try:
        read_manifest(json.dumps(manifest), Path("x.yaml"))
    except InvalidManifest:
        return False
    return True


# ---- field by field


@pytest.mark.parametrize(("api_version", "kind"), sorted(key for key in SCHEMAS if key[1] in STRUCTS))
def test_schema_and_struct_have_the_same_fields_types_and_requirements(api_version: str, kind: str) -> None:
    spec = get_type_hints(STRUCTS[kind])["spec"]
    assert list(disagreements(spec, SCHEMAS[api_version, kind]["properties"]["spec"], "spec", 0)) == []


def disagreements(struct: Any, schema: Json, path: str, depth: int) -> Iterator[str]:
    if depth > 8 or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    hints = get_type_hints(struct)
    required = {field.encode_name for field in msgspec.structs.fields(struct) if field.required}
    if required != set(schema.get("required", [])):
        yield f"{path}: required {sorted(required)} and {schema.get('required')}"
    for field in msgspec.structs.fields(struct):
        name = f"{path}.{field.encode_name}"
        found = schema["properties"].get(field.encode_name)
        if found is None:
            yield f"{name}: not in the schema, so the API server would drop it"
            continue
        yield from type_disagreements(hints[field.name], found, name, depth)


def type_disagreements(hint: Any, schema: Json, path: str, depth: int) -> Iterator[str]:
    members = [member for member in get_args(hint) if member is not type(None)]
    if get_origin(hint) in (Union, types.UnionType):
        if len(members) > 1:
            expected = "x-kubernetes-int-or-string" if set(members) == {int, str} else None
            key = expected or "x-kubernetes-preserve-unknown-fields"
            if not schema.get(key):
                yield f"{path}: {hint} needs {key}"
            return
        hint = members[0]
    plain = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if hint in plain:
        if schema.get("type") != plain[hint]:
            yield f"{path}: {hint.__name__} and {schema.get('type')}"
    elif get_origin(hint) is tuple:
        if schema.get("type") != "array":
            yield f"{path}: a list and {schema.get('type')}"
        else:
            yield from type_disagreements(get_args(hint)[0], schema["items"], f"{path}[]", depth)
    elif get_origin(hint) is dict:
        if schema.get("additionalProperties") != {"type": "string"}:
            yield f"{path}: a map of texts and {schema}"
    elif schema.get("type") != "object":
        yield f"{path}: {hint.__name__} and {schema.get('type')}"
    else:
        yield from disagreements(hint, schema, path, depth + 1)


# ---- by what both say


def test_both_take_every_example_and_every_kind_has_one() -> None:
    for manifest in examples():
        assert loader_takes(manifest), manifest["metadata"]["name"]
        errors = list(VALIDATORS[manifest["apiVersion"], manifest["kind"]].iter_errors(manifest))
        assert errors == [], manifest["metadata"]["name"]
    assert {manifest["kind"] for manifest in examples()} == STRUCTS.keys()


def test_an_external_workload_passes_its_schema_and_is_read() -> None:
    manifest = yaml.safe_load(EXTERNAL_WORKLOAD)
    assert schema_takes(manifest)
    assert msgspec.convert(manifest, resources.ExternalWorkload).spec.workload_ips[0].ip == "192.0.2.7"


def test_shipped_scenarios_pass_the_schemas() -> None:
    seen = 0
    for path in sorted((Path(__file__).parents[3] / "scenarios").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and (document.get("apiVersion"), document.get("kind")) in VALIDATORS:
                seen += 1
                assert schema_takes(document), path
    assert seen > 0


WRONG: tuple[Any, ...] = (None, "", "x", -1, 0, 70_000, 1.5, True, [], {}, ["x"], {"x": 1}, "Exact", "10s")


def variants(manifest: Json) -> Iterator[Json]:
    """The manifest with one key left out, or one value replaced, at every place below `spec`."""
    for path in places(manifest["spec"], ()):
        for change in ("drop", *WRONG):
            varied = copy.deepcopy(manifest)
            parent: Any = varied["spec"]
            for step in path[:-1]:
                parent = parent[step]
            if change == "drop":
                del parent[path[-1]]
            else:
                parent[path[-1]] = change
            yield varied


def places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*path, step)
        yield from places(inner, (*path, step))


@pytest.mark.parametrize("manifest", examples(), ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_what_the_loader_takes_the_schema_takes(manifest: Json) -> None:
    tried = taken = 0
    for varied in variants(manifest):
        tried += 1
        if not loader_takes(varied):
            continue
        taken += 1
        pruned = without_nulls(varied)
        validator = VALIDATORS[varied["apiVersion"], varied["kind"]]
        errors = [
            f"{list(error.absolute_path)}: {error.message}"
            for error in validator.iter_errors(pruned)
            if error.validator != "minLength"  # an empty name refers to nothing; only the API server minds
        ]
        assert errors == [], yaml.safe_dump(varied["spec"])
    assert tried > 10
    assert 0 < taken < tried


def without_nulls(value: Any) -> Any:
    """The API server drops nulls of fields that are not nullable before it validates."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value
