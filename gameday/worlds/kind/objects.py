"""Requests that bring a run's objects into the cluster and take them out again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx2
from lightkube import Client

from gameday.errors import WorldFailed
from gameday.worlds.kind.names import FIELD_MANAGER, RUN_LABEL
from gameday.worlds.kind.pods import Pod, decode_pods
from mesh.deploy import paths
from mesh.deploy.paths import RequestFailed
from mesh.kube import kinds
from mesh.kube.client import http_of
from mesh.kube.kinds import Kind

JOB = Kind("batch", "v1", "Job", "jobs")
KINDS = {
    (kind.api_version, kind.name): kind
    for kind in (*paths.KINDS, *kinds.MESH_KINDS, *kinds.FOREIGN_KINDS, *kinds.CORE_KINDS, JOB)
}
CLUSTER_WIDE = (paths.CLUSTER_ROLE_BINDING, paths.CLUSTER_ROLE)
POLL_SECONDS = 0.5
LOG_LINES = 400


def apply(client: Client, item: Mapping[str, Any], default_namespace: str = "default") -> None:
    """Server-side apply.

    Raises:
        WorldFailed: the API server refused it, or its kind is none of ours.
    """
    kind = KINDS.get((item.get("apiVersion", ""), item.get("kind", "")))
    if kind is None:
        raise WorldFailed(f"{item.get('apiVersion')} {item.get('kind')}: no kind that a scenario may bring")
    metadata = item["metadata"]
    path = kind.path(metadata.get("namespace", default_namespace) if kind.namespaced else None, metadata["name"])
    try:
        paths.request(
            client,
            "PATCH",
            path,
            params={"fieldManager": FIELD_MANAGER, "force": "true"},
            content=json.dumps(item).encode(),
            headers={"content-type": "application/apply-patch+yaml"},
        )
    except RequestFailed as error:
        raise WorldFailed(f"not applied: {error}") from None


def namespaces(client: Client) -> dict[str, dict[str, str]]:
    """Labels by namespace. Raises WorldFailed."""
    try:
        found = paths.request(client, "GET", paths.NAMESPACE.path())
    except RequestFailed as error:
        raise WorldFailed(str(error)) from None
    return {item["metadata"]["name"]: item["metadata"].get("labels") or {} for item in found.get("items", ())}


def pods_of_run(client: Client, run: str) -> list[Pod]:
    """Raises WorldFailed."""
    return _pods(client, "/api/v1/pods", {"labelSelector": f"{RUN_LABEL}={run}"})


def _pods(client: Client, path: str, params: Mapping[str, str]) -> list[Pod]:
    try:
        answer = http_of(client).get(path, params=params)
        answer.raise_for_status()
    except httpx2.HTTPError as error:
        raise WorldFailed(f"{path}: {error or type(error).__name__}") from None
    return decode_pods(answer.content)


def delete_namespaces(client: Client, names: Iterable[str], timeout: float) -> list[str]:
    """Deletes them and waits; returns those that are still there after `timeout` seconds. Raises WorldFailed."""
    left = list(names)
    try:
        for name in left:
            item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            paths.delete_object(client, item)
        deadline = time.monotonic() + timeout
        while left and time.monotonic() < deadline:
            left = [name for name in left if paths.get(client, paths.NAMESPACE, name) is not None]
            if left:
                time.sleep(POLL_SECONDS)
    except RequestFailed as error:
        raise WorldFailed(str(error)) from None
    return left


def delete_labelled(client: Client, run: str, namespace: str | None = None) -> None:
    """What of the run lies in no namespace of its own: roles; with `namespace`, its objects in that one.

    Raises:
        WorldFailed
    """
    selector = f"{RUN_LABEL}={run}"
    try:
        if namespace is None:
            for kind in CLUSTER_WIDE:
                for item in paths.list_labelled(client, kind, selector):
                    paths.delete_object(client, item)
            return
        for kind in (paths.DEPLOYMENT, kinds.SERVICE, paths.CONFIG_MAP, KINDS["v1", "ServiceAccount"]):
            found = paths.request(client, "GET", kind.path(namespace), params={"labelSelector": selector})
            for item in found.get("items", ()):
                paths.request(client, "DELETE", kind.path(namespace, item["metadata"]["name"]))
    except RequestFailed as error:
        raise WorldFailed(str(error)) from None


def save_logs(client: Client, where: Iterable[tuple[str, str]], folder: Path) -> None:
    """The last lines of every container of the pods in `where` ((namespace, label selector)), a file each.

    What cannot be had is left out: this runs when things have gone wrong already.
    """
    http = http_of(client)
    for namespace, selector in where:
        try:
            pods = _pods(client, f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector})
        except WorldFailed:
            continue
        for pod in pods:
            for container in pod.containers():
                path = f"/api/v1/namespaces/{namespace}/pods/{pod.metadata.name}/log"
                query = {"container": container.name, "tailLines": str(LOG_LINES)}
                try:
                    text = http.get(path, params=query).content
                    if container.restart_count:
                        text = (
                            http.get(path, params={**query, "previous": "true"}).content + b"\n--- restarted\n" + text
                        )
                except httpx2.HTTPError:
                    continue
                if text.strip():
                    (folder / f"{namespace}.{pod.metadata.name}.{container.name}.log").write_bytes(text)
