"""A changed configuration as its user would write it: overrides for `--set`, and the files that they name.

    annotations        serviceAnnotations.payment={…}
    mesh manifests     meshResources=[{folder}/mesh.yaml], all manifests of the scenario in one file, changed
    replicas, queue    app={folder}/app.yaml, the application's own file with what is changed in it
    targets of faults  faults.payment-degraded.target.replicas=3
    certificates       identity.leafLifetime=60s

`{folder}` is put in by whoever writes the files. Loading the scenario with these overrides gives the very setup that
the twin played; tests hold every knob to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from mesh.api.durations import format_duration
from mesh.api.resources import AnyResource
from scenarios.model import AppService, Scenario
from sim.knobs.changes import FOREIGN, NO_FIELD
from sim.knobs.configuration import Configuration

FOLDER = "{folder}"
APP_FILE, MESH_FILE = "app.yaml", "mesh.yaml"
_OWN = ("replicas", "workers", "queue", "cancels")
_IDENTITY = {
    "leafLifetime": "leaf_lifetime",
    "clockSkew": "clock_skew",
    "minRefresh": "min_refresh",
    "maxRefresh": "max_refresh",
}
_API_VERSIONS = {
    "ServiceProfile": "linkerd.io/v1alpha2",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "TrafficSplit": "split.smi-spec.io/v1alpha2",
    "EgressNetwork": "policy.linkerd.io/v1alpha1",
    "Server": "policy.linkerd.io/v1beta3",
    "ServerAuthorization": "policy.linkerd.io/v1beta1",
    "AuthorizationPolicy": "policy.linkerd.io/v1alpha1",
    "MeshTLSAuthentication": "policy.linkerd.io/v1alpha1",
    "NetworkAuthentication": "policy.linkerd.io/v1alpha1",
    "HTTPLocalRateLimitPolicy": "policy.linkerd.io/v1alpha1",
    "EndpointSlice": "discovery.k8s.io/v1",
}


class CannotWrite(Exception):
    """The change has no written form here; the text says why."""


@dataclass(frozen=True, slots=True)
class Written:
    """What to pass to `--set`, in order, and the files by name."""

    overrides: tuple[str, ...]
    files: dict[str, str]

    def at(self, folder: str) -> tuple[str, ...]:
        """The overrides, with the folder that the files lie in."""
        return tuple(override.replace(FOLDER, folder) for override in self.overrides)


def write(changed: Configuration, original: Configuration) -> Written:
    """What makes `changed` of `original`.

    Raises:
        CannotWrite: no scenario can say it.
    """
    if changed.discovery_idle_seconds != original.discovery_idle_seconds:
        raise CannotWrite(NO_FIELD)
    overrides: list[str] = []
    files: dict[str, str] = {}
    services = _changed_services(changed.scenario, original.scenario)
    if services:
        files[APP_FILE] = _application(original.scenario, services)
        overrides.append(f"app={FOLDER}/{APP_FILE}")
    overrides += _targets(changed.scenario, original.scenario)
    overrides += _annotations(changed.scenario, original.scenario)
    if changed.resources != original.resources:
        files[MESH_FILE] = manifests(changed.resources)
        overrides.append(f'meshResources=["{FOLDER}/{MESH_FILE}"]')
    for key, name in _IDENTITY.items():
        value = getattr(changed.scenario.identity, name)
        if value != getattr(original.scenario.identity, name):
            overrides.append(f"identity.{key}={format_duration(value)}")
    return Written(tuple(overrides), files)


def _changed_services(changed: Scenario, original: Scenario) -> list[AppService]:
    before = {service.name: service for service in original.app.services}
    return [service for service in changed.app.services if service != before[service.name]]


def _application(original: Scenario, services: list[AppService]) -> str:
    if any(service.command is not None for service in original.app.services):
        raise CannotWrite(FOREIGN)
    try:
        document: dict[str, Any] = yaml.safe_load(original.app.source.read_text(encoding="utf-8"))
        table = document["spec"]["services"]
        for service in services:
            table[service.name] |= {name: getattr(service, name) for name in _OWN}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise CannotWrite(f"the application's file {original.app.source} cannot be read again: {error}") from None
    return _dumped(document)


def _targets(changed: Scenario, original: Scenario) -> Iterator[str]:
    before = {fault.name: fault for fault in original.faults}
    for fault in changed.faults:
        if fault.kind != before[fault.name].kind:
            yield f"faults.{fault.name}.kind={fault.kind}"
            yield f"faults.{fault.name}.target={json.dumps(fault.targets)}"
        replicas = fault.targets.get("replicas")
        if replicas != before[fault.name].targets.get("replicas"):
            yield f"faults.{fault.name}.target.replicas={replicas}"


def _annotations(changed: Scenario, original: Scenario) -> Iterator[str]:
    for service, own in changed.service_annotations.items():
        if own != original.service_annotations.get(service, {}):
            yield f"serviceAnnotations.{service}={json.dumps(own) if own else 'null'}"


def manifests(resources: tuple[AnyResource, ...]) -> str:
    """YAML documents that read back as `resources`."""
    documents = []
    for resource in resources:
        body = _without_none(msgspec.to_builtins(resource))
        kind = body.pop("kind")
        documents.append(_dumped({"apiVersion": _API_VERSIONS.get(kind, "v1"), "kind": kind, **body}))
    return "---\n".join(documents)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def _dumped(document: Any) -> str:
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))
