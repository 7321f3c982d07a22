"""RBAC objects from what each component says that it needs: nothing is granted that no component names.

mesh.kube.permissions   identity, destination and policy
mesh.viz.permissions    viz
webhook rules here      a component with a webhook keeps its certificate in a Secret, and puts the CA into its
                        webhook configuration, both by name
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.deploy.labels import NAMESPACE, metadata
from mesh.deploy.template import Node
from mesh.kube import permissions
from mesh.kube.permissions import READ, Rule

INJECTOR_WEBHOOK = "linkerd-proxy-injector-webhook-config"
POLICY_WEBHOOK = "linkerd-policy-validator-webhook-config"

_ADMISSION = "admissionregistration.k8s.io"


def webhook_rules(configurations: str, configuration: str) -> tuple[Rule, ...]:
    """For the whole cluster: a webhook configuration, which is in no namespace."""
    return (Rule((_ADMISSION,), (configurations,), ("get", "patch"), (configuration,)),)


def webhook_namespace_rules(secret: str) -> tuple[Rule, ...]:
    """For our own namespace: the Secret with the webhook's certificate."""
    return (
        Rule(("",), ("secrets",), ("get", "update"), (secret,)),
        Rule(("",), ("secrets",), ("create",)),
    )


CLUSTER: dict[str, tuple[Rule, ...]] = {
    "linkerd-identity": permissions.CLUSTER["linkerd-identity"],
    "linkerd-destination": (
        *permissions.CLUSTER["linkerd-destination"],
        *webhook_rules("validatingwebhookconfigurations", POLICY_WEBHOOK),
    ),
    "linkerd-proxy-injector": (
        Rule(("",), ("namespaces",), READ),
        Rule(("",), ("events",), ("create", "patch")),
        *webhook_rules("mutatingwebhookconfigurations", INJECTOR_WEBHOOK),
    ),
}
NAMESPACED: dict[str, tuple[Rule, ...]] = {
    "linkerd-identity": permissions.NAMESPACE["linkerd-identity"],
    "linkerd-destination": (
        *permissions.NAMESPACE["linkerd-destination"],
        *webhook_namespace_rules("linkerd-policy-validator-k8s-tls"),
    ),
    "linkerd-proxy-injector": (
        Rule(("",), ("configmaps",), READ, ("linkerd-config", permissions.TRUST_ROOTS)),
        *webhook_namespace_rules("linkerd-proxy-injector-k8s-tls"),
    ),
}


def access(service_account: str, component: str) -> list[Node]:
    """ClusterRole, Role and their bindings for a component of the control plane."""
    cluster_name = f"linkerd-{service_account}"
    return [
        *cluster_access(
            metadata(cluster_name, component, None), service_account, NAMESPACE, manifests(CLUSTER[service_account])
        ),
        *namespace_access(
            metadata(service_account, component), service_account, manifests(NAMESPACED[service_account])
        ),
    ]


def manifests(rules: Sequence[Rule]) -> list[Node]:
    return [rule.manifest() for rule in rules]


def cluster_access(labelled: dict[str, object], service_account: str, namespace: str, rules: list[Node]) -> list[Node]:
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": labelled, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": labelled,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": labelled["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": service_account, "namespace": namespace}],
        },
    ]


def namespace_access(labelled: dict[str, object], service_account: str, rules: list[Node]) -> list[Node]:
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": labelled, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": labelled,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": labelled["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": service_account, "namespace": labelled["namespace"]}],
        },
    ]
