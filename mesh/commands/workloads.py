"""Pods that a user means by `deploy/web`, `pod web-1`, `svc/pay` or `ns/shop`."""

from __future__ import annotations

from collections.abc import Sequence

import httpx2
from lightkube import Client

from mesh.commands.control_plane import Json, get
from mesh.commands.errors import CommandFailed
from mesh.viz.pods import PROXY_CONTAINER, pod_from_object
from mesh.viz.resources import Resource, UnknownResource, parse_resource

ADMIN_PORT = 4191


def resources(texts: Sequence[str], namespace: str) -> list[Resource]:
    """The resources in `deploy/web po/x`, or in `deploy web`. Raises CommandFailed."""
    joined = list(texts)
    if len(joined) == 2 and not any("/" in text for text in joined):
        joined = ["/".join(joined)]
    try:
        return [parse_resource(text, namespace) for text in joined]
    except UnknownResource as error:
        raise CommandFailed(str(error)) from None


def pods_of(client: Client, resource: Resource) -> list[Json]:
    """The running pods that belong to it, as Kubernetes has them, meshed or not; sorted by name.

    Raises:
        CommandFailed: there is none.
    """
    place = resource.name if resource.kind == "Namespace" else resource.namespace
    path = f"/api/v1/namespaces/{place}/pods" if place else "/api/v1/pods"
    params = None
    if resource.kind == "Service":
        params = {"labelSelector": _selector(client, resource)}
    elif not resource.of_pods:
        raise CommandFailed(f"{resource}: no pods belong to this kind; name a workload, a pod or a service")
    found = []
    for manifest in get(client, path, params).get("items") or []:
        pod = pod_from_object(manifest, "", "")
        if pod is not None and (params or resource.holds(pod)):
            found.append(manifest)
    if not found:
        where = f" in namespace {place}" if place else ""
        raise CommandFailed(f"{resource}: no running pods{where}; see the name, and the namespace (-n)")
    return sorted(found, key=lambda manifest: (manifest["metadata"]["namespace"], manifest["metadata"]["name"]))


def meshed(pods: Sequence[Json]) -> list[Json]:
    """Those with a proxy."""
    return [pod for pod in pods if has_proxy(pod)]


def has_proxy(pod: Json) -> bool:
    spec = pod["spec"]
    every = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    return any(container["name"] == PROXY_CONTAINER for container in every)


def ports_of(pod: Json) -> list[int]:
    """TCP ports that the app's containers say they have, ascending."""
    containers = [c for c in pod["spec"].get("containers") or [] if c["name"] != PROXY_CONTAINER]
    ports = [port for container in containers for port in container.get("ports") or []]
    return sorted({port["containerPort"] for port in ports if port.get("protocol", "TCP") == "TCP"})


def _selector(client: Client, resource: Resource) -> str:
    path = f"/api/v1/namespaces/{resource.namespace}/services/{resource.name}"
    if not resource.name:
        raise CommandFailed("name a service, such as svc/web")
    try:
        selector = get(client, path)["spec"].get("selector") or {}
    except httpx2.HTTPStatusError as error:
        if error.response.status_code != 404:
            raise
        raise CommandFailed(f"{resource}: no such service in namespace {resource.namespace}") from None
    if not selector:
        raise CommandFailed(f"{resource}: has no selector, so no pods belong to it")
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
