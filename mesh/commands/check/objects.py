"""What an install consists of, and how much of it a cluster has.

The objects are rendered from the install's own values, as `gameday mesh install` renders them, so that this knows of
nothing by itself. Of RBAC objects the content counts as well: a role that lost a rule is there and does not do its
work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from mesh.commands.check.facts import Ref
from mesh.commands.check.reader import Json, Reader, Unlearned
from mesh.deploy.paths import path_of

PARALLEL = 8


def ref(manifest: Mapping[str, Json | str]) -> Ref:
    metadata = manifest["metadata"]
    assert isinstance(metadata, dict)
    return Ref(str(manifest["kind"]), str(metadata["name"]), str(metadata.get("namespace") or ""))


@dataclass(slots=True)
class Compared:
    """What became of the objects that should be there."""

    missing: set[Ref] = field(default_factory=set)
    altered: dict[Ref, str] = field(default_factory=dict)
    """Those that say less than they should → what they lack."""
    unread: dict[str, str] = field(default_factory=dict)
    """Kinds that could not be read → why."""


def compare(reader: Reader, expected: Iterable[Json]) -> Compared:
    """Looks for each of them."""
    wanted = list(expected)
    with ThreadPoolExecutor(PARALLEL) as pool:
        found = list(pool.map(lambda manifest: _look(reader, manifest), wanted))
    compared = Compared()
    for manifest, actual in zip(wanted, found, strict=True):
        if isinstance(actual, Unlearned):
            compared.unread[manifest["kind"]] = str(actual)
        elif actual is None:
            compared.missing.add(ref(manifest))
        elif difference := lacks(manifest, actual):
            compared.altered[ref(manifest)] = difference
    return compared


def _look(reader: Reader, manifest: Json) -> Json | Unlearned | None:
    try:
        return reader.get(path_of(manifest))
    except Unlearned as error:
        return error


def lacks(wanted: Json, actual: Json) -> str:
    """What `actual` lacks of `wanted`; empty: nothing that is looked at."""
    match wanted["kind"]:
        case "ClusterRole" | "Role":
            gone = [rule for rule in wanted.get("rules") or [] if not _granted(rule, actual.get("rules") or [])]
            return f"does not grant {'; '.join(map(_spell, gone))}" if gone else ""
        case "ClusterRoleBinding" | "RoleBinding":
            if wanted["roleRef"]["name"] != actual["roleRef"]["name"]:
                return f"binds {actual['roleRef']['name']}, not {wanted['roleRef']['name']}"
            subjects = {_subject(subject) for subject in actual.get("subjects") or []}
            gone = [name for subject in wanted["subjects"] if (name := _subject(subject)) not in subjects]
            return f"does not bind {', '.join(gone)}" if gone else ""
        case "CustomResourceDefinition":
            served = {version["name"] for version in actual["spec"]["versions"] if version.get("served")}
            versions = [version["name"] for version in wanted["spec"]["versions"] if version.get("served")]
            gone = [version for version in versions if version not in served]
            return f"does not serve {', '.join(gone)}" if gone else ""
    return ""


def _granted(rule: Json, actual: Iterable[Json]) -> bool:
    """Whether one of the actual rules allows all that `rule` allows."""
    return any(
        all(_covers(have.get(key) or [], rule.get(key) or []) for key in ("apiGroups", "resources", "verbs"))
        and (not have.get("resourceNames") or set(rule.get("resourceNames") or ["*"]) <= set(have["resourceNames"]))
        for have in actual
    )


def _covers(have: Iterable[str], wanted: Iterable[str]) -> bool:
    granted = set(have)
    return "*" in granted or set(wanted) <= granted


def _spell(rule: Json) -> str:
    return f"{','.join(rule.get('verbs') or [])} {','.join(rule.get('resources') or [])}"


def _subject(subject: Json) -> str:
    return f"{subject['kind']} {subject.get('namespace', '')}/{subject['name']}"
