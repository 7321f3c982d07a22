"""The registry folder that the local control plane reads: Services, Pods, and EndpointSlices that follow readiness.

Files are replaced by rename, so that a reader never sees half of one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from chaos.world import PodAddress
from scenarios.model import AppService, Scenario

PROXY_VERSION_ANNOTATION = "linkerd.io/proxy-version"
INBOUND_ANNOTATION = "gameday.dev/inbound-address"


class Registry:
    """Writes one run's manifests."""

    def __init__(self, folder: Path, version: str) -> None:
        self._folder = folder
        self._version = version
        folder.mkdir(parents=True, exist_ok=True)

    def write_static(self, scenario: Scenario, pods: Sequence[PodAddress]) -> None:
        """Services, Pods, and the scenario's own manifests."""
        for index, path in enumerate(scenario.resources):
            shutil.copyfile(path, self._folder / f"scenario-{index}-{path.name}")
        services = {service.name: service for service in scenario.app.services}
        for service in scenario.app.services:
            self._write(
                f"service-{service.name}", _service(service, scenario.service_annotations.get(service.name, {}))
            )
        for pod in pods:
            known = services.get(pod.service)
            account = known.service_account if known is not None else pod.service
            self._write(f"pod-{pod.name}", _pod(pod, account, self._version))

    def write_slice(self, service: AppService, pod: PodAddress, ready: bool) -> None:
        """One pod's slice as of now. A slice for each pod, since in ports mode each has a port of its own."""
        self._write(f"endpoints-{pod.name}", _slice(service, pod, ready))

    def put(self, name: str, manifest: dict[str, Any]) -> None:
        """A manifest beside those of the run; replaces the one of this name."""
        self._write(f"added-{name}", manifest)

    def remove(self, name: str) -> None:
        """Takes away what `put` added, if it is there."""
        (self._folder / f"added-{name}.json").unlink(missing_ok=True)

    def _write(self, name: str, manifest: dict[str, Any]) -> None:
        temporary = self._folder / f".{name}.tmp"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        os.replace(temporary, self._folder / f"{name}.json")


def _service(service: AppService, annotations: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "namespace": service.namespace, "annotations": dict(annotations)},
        "spec": {"ports": [{"port": service.port, "name": "http"}], "selector": {"app": service.name}},
    }


def _pod(pod: PodAddress, account: str, version: str) -> dict[str, Any]:
    annotations = {PROXY_VERSION_ANNOTATION: version, INBOUND_ANNOTATION: pod.inbound} if pod.proxy_admin else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": pod.namespace,
            "labels": {"app": pod.service},
            "annotations": annotations,
        },
        "spec": {"serviceAccountName": account},
        "status": {"podIP": pod.ip},
    }


def _slice(service: AppService, pod: PodAddress, ready: bool) -> dict[str, Any]:
    port = int(pod.app.rpartition(":")[2]) if pod.app else service.port
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": pod.name,
            "namespace": service.namespace,
            "labels": {"kubernetes.io/service-name": service.name},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [pod.ip],
                "conditions": {"ready": ready, "serving": ready},
                "targetRef": {"kind": "Pod", "name": pod.name, "namespace": pod.namespace},
            }
        ],
        "ports": [{"name": "http", "port": port}],
    }
