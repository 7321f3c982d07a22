"""Mesh manifests and annotations: that they exist, can be read, and speak of services that there are."""

from __future__ import annotations

from pathlib import Path

from mesh.api.resources import ServiceProfile
from mesh.control.registry.manifests import InvalidManifest, load_manifests
from scenarios.load.document import Scalar
from scenarios.load.fields import Fields, describe
from scenarios.load.problems import Mark, Problems, display_path, quote, suggestion
from scenarios.model import Application

_KNOWN_ANNOTATIONS = (
    "retry.linkerd.io/http",
    "retry.linkerd.io/grpc",
    "retry.linkerd.io/limit",
    "retry.linkerd.io/timeout",
    "timeout.linkerd.io/request",
    "timeout.linkerd.io/response",
    "timeout.linkerd.io/idle",
    "balancer.linkerd.io/failure-accrual",
    "balancer.linkerd.io/failure-accrual-consecutive-max-failures",
    "balancer.linkerd.io/failure-accrual-consecutive-min-penalty",
    "balancer.linkerd.io/failure-accrual-consecutive-max-penalty",
    "balancer.linkerd.io/failure-accrual-consecutive-jitter-ratio",
)
_OURS = ("retry.linkerd.io/", "timeout.linkerd.io/", "balancer.linkerd.io/")
"""Under these prefixes an unknown name is a typo; any other annotation is somebody else's."""


def read_resources(spec: Fields, app: Application, folder: Path, problems: Problems) -> tuple[Path, ...]:
    """The files of `meshResources`, relative to the scenario's folder."""
    found: list[Path] = []
    for field, node in spec.items("meshResources"):
        name = spec.reader.text(node, field)
        if not name:
            continue
        try:
            path = (folder / name).resolve()
            is_file = path.is_file()
        except (OSError, ValueError, RuntimeError):  # a NUL, a name too long, a circle of links: no such file either
            is_file = False
        if not is_file:
            near = [entry.name for entry in folder.glob("*.y*ml") if entry.name != "scenario.yaml"]
            problems.add(node.mark, field, f"no such file: {quote(name)}{suggestion(name, near) if near else ''}")
        elif path in found:
            problems.add(node.mark, field, f"{display_path(path)} is named twice")
        else:
            found.append(path)
    _check_manifests(found, app, problems)
    return tuple(found)


def _check_manifests(paths: list[Path], app: Application, problems: Problems) -> None:
    """What the control plane would refuse, and profiles of services that are not there."""
    hosts = {service.host for service in app.services}
    for path in paths:
        try:
            resources = load_manifests([path])
        except InvalidManifest as error:
            for problem in error.problems:
                problems.add(Mark(display_path(problem.path), problem.line), problem.field, problem.message)
            continue
        for resource in resources:
            if isinstance(resource, ServiceProfile) and resource.metadata.name not in hosts:
                name = resource.metadata.name
                known = suggestion(name, hosts)
                problems.add(Mark(display_path(path)), "metadata.name", f"no service {quote(name)} in the app{known}")


def read_service_annotations(spec: Fields, app: Application, problems: Problems) -> dict[str, dict[str, str]]:
    """`serviceAnnotations`: service → annotation → value. Numbers and booleans become their text."""
    services = [service.name for service in app.services]
    found: dict[str, dict[str, str]] = {}
    table = spec.mapping("serviceAnnotations", required=False)
    for service, field, node in table.entries():
        if service not in services:
            known = suggestion(service, services)
            problems.add(table.key_mark(service), field, f"no service {quote(service)} in topology {app.name}{known}")
        annotations = Fields(node, field, problems)
        values = found.setdefault(service, {})
        for key, name, value in annotations.entries():
            if key.startswith(_OURS) and key not in _KNOWN_ANNOTATIONS:
                known = suggestion(key, _KNOWN_ANNOTATIONS)
                problems.add(annotations.key_mark(key), name, f"no annotation {quote(key)}{known}")
            if isinstance(value, Scalar) and value.kind != "null":
                values[key] = value.text
            else:
                problems.add(value.mark, name, f"text expected, not {describe(value)}")
    return found
