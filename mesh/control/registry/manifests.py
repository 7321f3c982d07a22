"""Manifests → resources: YAML or JSON, several documents a file, `kind: List` included.

Two readers with two tempers:

    load_manifests (strict)   before anything starts: every mistake is an error with file, line, field and a suggestion
    read_manifest (lenient)   the running control plane: what Kubernetes' admission would refuse is an error, and the
                              file counts as refused; what Linkerd tolerates (a wrong annotation) passes

Kinds that say nothing about the mesh (Deployment, ConfigMap, …) are passed over, so a user's whole folder can be given.
Kinds of the mesh that this version does not act on are an error in strict reading: passing over a policy would
silently do less than the user asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mesh.api.resources import AnyResource
from mesh.control.registry.lint import problems_of
from mesh.control.registry.located import Document, InvalidDocument, parse_documents
from mesh.control.translate.annotations import suggestion

INBOUND_KINDS = (
    "Server",
    "ServerAuthorization",
    "AuthorizationPolicy",
    "MeshTLSAuthentication",
    "NetworkAuthentication",
    "HTTPLocalRateLimitPolicy",
)
OUTBOUND_KINDS = ("ServiceProfile", "HTTPRoute", "GRPCRoute", "TrafficSplit", "EgressNetwork")
KINDS = ("Namespace", "Service", "EndpointSlice", "Pod", *OUTBOUND_KINDS, *INBOUND_KINDS)
UNSUPPORTED_MESH_KINDS = frozenset(
    {
        "TCPRoute",
        "TLSRoute",
        "ExternalWorkload",
        "Link",
    }
)
OTHER_KINDS = frozenset(
    {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "CronJob",
        "CustomResourceDefinition",
        "DaemonSet",
        "Deployment",
        "Gateway",
        "HorizontalPodAutoscaler",
        "Ingress",
        "Job",
        "LimitRange",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "ReplicaSet",
        "ResourceQuota",
        "Role",
        "RoleBinding",
        "Secret",
        "ServiceAccount",
        "StatefulSet",
    }
)
SUFFIXES = (".yaml", ".yml", ".json")

_TYPE_WORDS = {
    "int": "a whole number",
    "str": "text",
    "object": "a mapping",
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "null": "nothing",
}
"""YAML's words for msgspec's types."""
_PATH_STEP = re.compile(r"\.([A-Za-z0-9_]+)|\[(\d+)\]|\[\.\.\.\]")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. Prints as `file:line: field: message`."""

    path: Path
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}"
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class InvalidManifest(ValueError):
    """One or more manifests cannot be used; `problems` holds each mistake, in the order of the files."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def load_manifests(paths: Iterable[Path | str], *, strict: bool = True) -> list[AnyResource]:
    """Every resource in the files (and in the manifests directly inside folders) of `paths`.

    Raises:
        InvalidManifest: with all problems of all files.
    """
    resources: list[AnyResource] = []
    problems: list[Problem] = []
    origin: dict[tuple[str, str, str], Path] = {}
    for path in _files(paths, problems):
        try:
            text = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem(path, 1, "", _unreadable(error)))
            continue
        found, wrong = _read(text, path, strict)
        problems.extend(wrong)
        for resource in found:
            key = (type(resource).__name__, resource.metadata.namespace, resource.metadata.name)
            if strict and key in origin:
                again = "in this file" if origin[key] == path else f"in {origin[key]}"
                problems.append(
                    Problem(path, 1, "metadata.name", f"{key[0]} {key[1]}/{key[2]} is already defined {again}")
                )
            origin[key] = path
            resources.append(resource)
    if problems:
        raise InvalidManifest(problems)
    return resources


def read_manifest(text: str, path: Path) -> list[AnyResource]:
    """The resources in one file's text, read leniently. Raises InvalidManifest."""
    resources, problems = _read(text, path, strict=False)
    if problems:
        raise InvalidManifest(problems)
    return resources


def _files(paths: Iterable[Path | str], problems: list[Problem]) -> list[Path]:
    files: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            files.extend(sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith(".")))
        elif path.exists():
            files.append(path)
        else:
            problems.append(Problem(path, 1, "", "no such file"))
    return files


def _unreadable(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return f"cannot be read: {error.strerror or error}"


def _read(text: str, path: Path, strict: bool) -> tuple[list[AnyResource], list[Problem]]:
    try:
        documents = parse_documents(text)
    except InvalidDocument as error:
        return [], [Problem(path, error.line, "", str(error))]
    resources: list[AnyResource] = []
    problems: list[Problem] = []
    for document in documents:
        for value, prefix in _items(document.value):
            reader = _Reader(document, prefix, path, strict, problems)
            resource = reader.resource(value)
            if resource is not None:
                resources.append(resource)
    return resources, problems


def _items(value: object) -> list[tuple[object, tuple[str | int, ...]]]:
    """The resources of a document: itself, or the items of a `List`."""
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        return [(item, ("items", index)) for index, item in enumerate(value["items"])]
    return [(value, ())]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one resource of a document and files its problems."""

    document: Document
    prefix: tuple[str | int, ...]
    path: Path
    strict: bool
    problems: list[Problem]

    def resource(self, value: object) -> AnyResource | None:
        if not isinstance(value, dict):
            self._problem((), "a resource must be a mapping with kind, metadata and spec")
            return None
        kind = value.get("kind")
        if not isinstance(kind, str):
            self._problem((), "kind is missing" if kind is None else "kind must be text")
            return None
        if kind not in KINDS:
            self._foreign(kind)
            return None
        try:
            resource = msgspec.convert(value, AnyResource)
        except msgspec.ValidationError as error:
            path, message = shape_problem(error, value)
            self._problem(path, message)
            return None
        before = len(self.problems)
        for problem in problems_of(resource):
            if problem.fatal or self.strict:
                self._problem(problem.path, problem.message)
        return resource if len(self.problems) == before else None

    def _foreign(self, kind: str) -> None:
        if not self.strict or kind in OTHER_KINDS:
            return
        if kind in UNSUPPORTED_MESH_KINDS:
            self._problem(("kind",), f"{kind} is not enforced by this version of the mesh; take it out")
        elif near := suggestion(kind, KINDS):
            self._problem(("kind",), f"unknown kind {kind!r}{near}")

    def _problem(self, path: tuple[str | int, ...], message: str) -> None:
        where = self.prefix + path
        self.problems.append(Problem(self.path, self.document.line_of(where), field_text(where), message))


def shape_problem(error: msgspec.ValidationError, value: object) -> tuple[tuple[str | int, ...], str]:
    """Where in `value` the shape is wrong, and how."""
    message, _, where = str(error).partition(" - at ")
    return _steps_to(where.strip("`"), value), plain_message(message)


def _steps_to(where: str, value: object) -> tuple[str | int, ...]:
    """msgspec's `$.spec.ports[0].port` as steps; `[...]` stands for a key of a text map, found by its type."""
    steps: list[str | int] = []
    for match in _PATH_STEP.finditer(where):
        name, index = match.group(1), match.group(2)
        step: str | int | None = name if name is not None else int(index) if index is not None else None
        if step is None:
            step = _misfit(value)
            if step is None:
                break
        steps.append(step)
        value = _descend(value, step)
    return tuple(steps)


def _misfit(value: object) -> str | None:
    """The first key of a map of texts whose key or value is no text."""
    if not isinstance(value, dict):
        return None
    return next((str(k) for k, v in value.items() if not isinstance(v, str) or not isinstance(k, str)), None)


def _descend(value: object, step: str | int) -> object:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def plain_message(message: str) -> str:
    """msgspec's sentences in the words of YAML: "expected text (put it in quotes), got a whole number"."""

    def words(match: re.Match[str]) -> str:
        names = [name for name in match.group(1).split(" | ") if name != "null"] or ["null"]
        return " or ".join(_TYPE_WORDS.get(name, name) for name in names)

    text = re.sub(r"`([^`]*)`", words, message)
    text = text.replace("xpected text, got", "xpected text (put it in quotes), got")
    return text[:1].lower() + text[1:]


def field_text(path: tuple[str | int, ...]) -> str:
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif "/" in step or "." in step:
            text += f'["{step}"]'
        else:
            text += f".{step}" if text else step
    return text
