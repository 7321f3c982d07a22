"""Steps that several faults take on Kubernetes. Each done twice is the same as done once.

Plain data only: nothing here speaks to a cluster (`chaos.kube` does), so that faults stay cheap to import.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from chaos.requests import Step
from chaos.world import WorldState

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
FIELD_MANAGER = "gameday-fault"


def scale(world: WorldState, namespace: str, deployment: str, replicas: int) -> Step:
    """A Deployment's number of replicas."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}/scale"
    return _step(world, "PATCH", path, {"spec": {"replicas": replicas}}, MERGE_PATCH)


def delete_pods(world: WorldState, namespace: str, selector: str) -> Step:
    """All pods with these labels, without grace."""
    path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={quote(selector)}"
    return _step(world, "DELETE", path, {"gracePeriodSeconds": 0})


def delete_pod(world: WorldState, namespace: str, pod: str) -> Step:
    """One pod, without grace; whoever owns it makes another."""
    return _step(world, "DELETE", f"/api/v1/namespaces/{namespace}/pods/{pod}", {"gracePeriodSeconds": 0})


def patch_deployment(world: WorldState, namespace: str, deployment: str, patch: dict[str, Any]) -> Step:
    """A strategic merge patch; None deletes a key."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}"
    return _step(world, "PATCH", path, patch, STRATEGIC_PATCH)


def apply(world: WorldState, path: str, manifest: dict[str, Any]) -> Step:
    """Server-side apply of a manifest at its path."""
    return _step(world, "PATCH", f"{path}?fieldManager={FIELD_MANAGER}&force=true", manifest, APPLY_PATCH)


def delete(world: WorldState, path: str) -> Step:
    return _step(world, "DELETE", path)


def patch(world: WorldState, path: str, body: dict[str, Any], content_type: str = MERGE_PATCH) -> Step:
    return _step(world, "PATCH", path, body, content_type)


def through_pod(
    world: WorldState, method: str, namespace: str, pod_port: str, path: str, body: dict[str, Any] | None = None
) -> Step:
    """A request to a pod's port (`cart-7d9:9999`) by way of the API server."""
    return _step(world, method, f"/api/v1/namespaces/{namespace}/pods/{pod_port}/proxy{path}", body)


def _step(
    world: WorldState,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    content_type: str = "application/json",
) -> Step:
    text = msgspec.json.encode(body).decode() if body is not None else ""
    return Step(method, world.kube_url(path), text, content_type)
