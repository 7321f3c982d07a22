"""Pods of the control plane: what all of them have in common.

None of them carries a proxy: each does its own mTLS with a leaf that it asks identity for, with the projected token.
All satisfy PodSecurity `restricted`. Programs write nothing but temporary files: the root file system is read-only and
/tmp is memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.deploy.labels import COMPONENT, NAMESPACE, TRUST_ROOTS
from mesh.deploy.template import Each, Is, Item, Node, Ref, Text, When

UID = 2103
IMAGE = Text("{image.name}:{image.version}")
ANCHORS_DIR = "/var/run/linkerd/identity/trust-roots"
ANCHORS_FILE = f"{ANCHORS_DIR}/ca-bundle.crt"
TOKEN_DIR = "/var/run/secrets/tokens"  # noqa: S105 – a directory
TOKEN_FILE = f"{TOKEN_DIR}/linkerd-identity-token"
IDENTITY_PORT = 8080
IDENTITY_ADDRESS = Text(f"linkerd-identity.{NAMESPACE}.svc.{{clusterDomain}}:{IDENTITY_PORT}")

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": UID,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def identity_of(service_account: str, namespace: str = NAMESPACE) -> Text:
    """The TLS name of a service account (`mesh.control.names`)."""
    return Text(f"{service_account}.{namespace}.serviceaccount.identity.{NAMESPACE}.{{identityTrustDomain}}")


def resources(path: str) -> Node:
    """`requests` and `limits` from a `Resources` value; nothing where nothing is set."""

    def bound(which: str) -> Node:
        fields = {what: f"{path}.resources.{what}.{which}" for what in ("cpu", "memory")}
        return {what: When(Is(field), Ref(field)) for what, field in fields.items()}

    return {"requests": bound("request"), "limits": bound("limit")}


def container(
    name: str,
    module: str,
    arguments: Sequence[Node],
    ports: dict[str, int],
    admin: int,
    values: str,
    *,
    identity: bool = True,
) -> Node:
    """One container. `ports` by name, unique in the pod; `admin`: which answers probes; `values`: its section;
    `identity`: whether it has an identity of the mesh."""
    assert all(len(port) <= 15 for port in ports), "Kubernetes takes no longer names"
    mounts: list[Node] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 – the pod's own, in memory
    if identity:
        mounts += [
            {"name": "trust-roots", "mountPath": ANCHORS_DIR, "readOnly": True},
            {"name": "identity-token", "mountPath": TOKEN_DIR, "readOnly": True},
        ]
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": Ref("image.pullPolicy"),
        "command": ["python", "-m", module],
        "args": list(arguments),
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        "startupProbe": _probe("/live", admin, period=1, failures=60),
        "livenessProbe": _probe("/live", admin, period=10, failures=3, timeout=5),
        "readinessProbe": _probe("/ready", admin, period=2, failures=3, timeout=2),
        "resources": resources(values),
        "securityContext": RESTRICTED,
        "volumeMounts": mounts,
    }


def _probe(path: str, port: int, *, period: int, failures: int, timeout: int = 2) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def deployment(
    metadata: Node,
    service_account: str,
    component: str,
    containers: Sequence[Node],
    *,
    replicas: Node,
    identity: bool = True,
) -> Node:
    """A Deployment whose pods carry the labels of `metadata` and are selected by their component. `identity` as of
    its containers."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": {COMPONENT: component}},
            "strategy": When(Is("highAvailability"), {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": "25%"}}),
            "template": {
                "metadata": {
                    "labels": metadata["labels"],
                    "annotations": {
                        "linkerd.io/created-by": Text("gameday/mesh {image.version}"),
                        "linkerd.io/inject": "disabled",
                        "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
                    },
                },
                "spec": {
                    "serviceAccountName": service_account,
                    "automountServiceAccountToken": True,
                    "enableServiceLinks": False,
                    "imagePullSecrets": [Each("imagePullSecrets", {"name": Item()})],
                    "nodeSelector": When(Is("nodeSelector"), Ref("nodeSelector")),
                    "tolerations": When(Is("tolerations"), Ref("tolerations")),
                    "affinity": When(Is("highAvailability"), _apart(component)),
                    "securityContext": {
                        "runAsNonRoot": True,
                        "fsGroup": UID,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "terminationGracePeriodSeconds": 30,
                    "containers": list(containers),
                    "volumes": [
                        {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
                        *(_identity_volumes() if identity else ()),
                    ],
                },
            },
        },
    }


def _identity_volumes() -> list[Node]:
    """The trust anchors, and a token that is good for identity and nobody else."""
    token = {"path": "linkerd-identity-token", "expirationSeconds": 86_400, "audience": "identity.l5d.io"}
    return [
        {"name": "trust-roots", "configMap": {"name": TRUST_ROOTS}},
        {"name": "identity-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
    ]


def _apart(component: str) -> Node:
    """Replicas on different nodes, and in different zones where there are some: Linkerd's anti-affinity."""
    selector = {"matchExpressions": [{"key": COMPONENT, "operator": "In", "values": [component]}]}
    zone = {"labelSelector": selector, "topologyKey": "topology.kubernetes.io/zone"}
    return {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": zone}],
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}
            ],
        }
    }


def disruption_budget(metadata: Node, component: str) -> Node:
    """Drains take one replica at a time. Only with --ha: over a single replica it would block every drain."""
    return When(
        Is("highAvailability"),
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata,
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {COMPONENT: component}}},
        },
    )


def service(metadata: Node, component: str, ports: dict[str, tuple[int, int]]) -> Node:
    """A Service; `ports`: name → (port, the container's)."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "selector": {COMPONENT: component},
            "ports": [
                {"name": name, "port": port, "targetPort": target, "protocol": "TCP"}
                for name, (port, target) in ports.items()
            ],
        },
    }


def service_account(metadata: Node) -> Node:
    """Without a token by default: pods that need the API say so."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata,
        "automountServiceAccountToken": False,
    }
