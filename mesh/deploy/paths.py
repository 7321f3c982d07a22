"""Where the API server has the kinds that an install consists of, and the requests that install and removal make.

Plain dictionaries in and out: our objects go to the server as they were printed. lightkube supplies connection and
credentials; its models would drop a field that they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2
from lightkube import Client

from mesh.kube.client import http_of
from mesh.kube.kinds import Kind

_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"

NAMESPACE = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
CRD = Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)
CLUSTER_ROLE = Kind(_RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False)
CLUSTER_ROLE_BINDING = Kind(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False)
MUTATING = Kind(_ADMISSION, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", namespaced=False)
VALIDATING = Kind(
    _ADMISSION, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", namespaced=False
)
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
SECRET = Kind("", "v1", "Secret", "secrets")
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
KINDS = (
    MUTATING,
    VALIDATING,
    NAMESPACE,
    CLUSTER_ROLE_BINDING,
    CLUSTER_ROLE,
    CRD,
    CONFIG_MAP,
    SECRET,
    DEPLOYMENT,
    Kind("", "v1", "ServiceAccount", "serviceaccounts"),
    Kind("", "v1", "Service", "services"),
    Kind(_RBAC, "v1", "Role", "roles"),
    Kind(_RBAC, "v1", "RoleBinding", "rolebindings"),
    Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
)
"""Every kind of object that install prints."""
_BY_NAME = {(kind.api_version, kind.name): kind for kind in KINDS}


class RequestFailed(Exception):
    """The API server refused, or did not answer: one line for the user."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status
        """HTTP status; 0 where there was no answer."""


def kind_of(item: Mapping[str, Any]) -> Kind:
    return _BY_NAME[item["apiVersion"], item["kind"]]


def path_of(item: Mapping[str, Any]) -> str:
    metadata = item["metadata"]
    return kind_of(item).path(metadata.get("namespace"), metadata["name"])


def request(client: Client, method: str, path: str, **options: Any) -> dict[str, Any]:
    """The answer, decoded.

    Raises:
        RequestFailed: any status of 400 and above, or no answer.
    """
    try:
        response = http_of(client).request(method, path, **options)
    except httpx2.HTTPError as error:
        raise RequestFailed(f"{path}: {error or type(error).__name__}; is the cluster running?") from None
    if response.status_code >= 400:
        try:
            reason = str(response.json()["message"])
        except (ValueError, KeyError, TypeError):
            reason = response.text[:300]
        raise RequestFailed(f"{path}: {' '.join(reason.split())}", response.status_code)
    found: dict[str, Any] = response.json()
    return found


def get(client: Client, kind: Kind, name: str, namespace: str | None = None) -> dict[str, Any] | None:
    """One object; None where it, or its kind, does not exist. Raises RequestFailed."""
    try:
        return request(client, "GET", kind.path(namespace, name))
    except RequestFailed as error:
        if error.status == 404:
            return None
        raise


def list_labelled(client: Client, kind: Kind, selector: str) -> list[dict[str, Any]]:
    """The objects of a kind with these labels, in all namespaces. Raises RequestFailed."""
    found = request(client, "GET", kind.path(), params={"labelSelector": selector})
    items: list[dict[str, Any]] = found.get("items") or []
    for item in items:  # items of a list do not say what they are
        item["apiVersion"], item["kind"] = kind.api_version, kind.name
    return items


def apply_object(client: Client, item: Mapping[str, Any], field_manager: str) -> dict[str, Any]:
    """Server-side apply: what others own of the object (a `caBundle`, a replica count) stays. Raises RequestFailed."""
    return request(
        client,
        "PATCH",
        path_of(item),
        params={"fieldManager": field_manager, "force": "true"},
        content=json.dumps(item).encode(),
        headers={"content-type": "application/apply-patch+yaml"},
    )


def delete_object(client: Client, item: Mapping[str, Any]) -> bool:
    """Whether it was there. Raises RequestFailed."""
    try:
        request(client, "DELETE", path_of(item), params={"propagationPolicy": "Background"})
    except RequestFailed as error:
        if error.status == 404:
            return False
        raise
    return True
