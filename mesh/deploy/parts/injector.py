"""proxy-injector: the mutating webhook that gives pods their sidecar."""

from __future__ import annotations

from mesh.deploy import pod
from mesh.deploy.access import INJECTOR_WEBHOOK, access
from mesh.deploy.labels import ADMISSION_WEBHOOKS, COMPONENT, INJECTOR, NAMESPACE, VIZ_NAMESPACE, metadata
from mesh.deploy.template import Each, Item, Node, Ref

NAME = "proxy-injector"
PORT, ADMIN_PORT = 8443, 9995


def injector() -> list[Node]:
    arguments: list[Node] = [
        "--listen",
        f"0.0.0.0:{PORT}",
        "--admin",
        f"0.0.0.0:{ADMIN_PORT}",
        "--controller-namespace",
        NAMESPACE,
        "--log-level",
        Ref("controllerLogLevel"),
    ]
    ports = {"injector": PORT, "admin": ADMIN_PORT}
    container = pod.container(
        "proxy-injector", "mesh.control.injector", arguments, ports, ADMIN_PORT, "proxyInjector", identity=False
    )
    return [
        pod.service_account(metadata(INJECTOR, NAME)),
        *access(INJECTOR, NAME),
        pod.service(metadata(INJECTOR, NAME), NAME, {"injector": (443, PORT)}),
        _webhook(),
        pod.disruption_budget(metadata(INJECTOR, NAME), NAME),
        pod.deployment(
            metadata(INJECTOR, NAME),
            INJECTOR,
            NAME,
            [container],
            replicas=Ref("controllerReplicas"),
            identity=False,
        ),
    ]


def _webhook() -> Node:
    """Pods of the mesh itself and of the cluster's own namespaces start whatever state the injector is in."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": metadata(INJECTOR_WEBHOOK, NAME, None),
        "webhooks": [
            {
                "name": "linkerd-proxy-injector.linkerd.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"service": {"name": INJECTOR, "namespace": NAMESPACE, "path": "/", "port": 443}},
                "failurePolicy": Ref("webhookFailurePolicy"),
                "namespaceSelector": {
                    "matchExpressions": [
                        {"key": ADMISSION_WEBHOOKS, "operator": "NotIn", "values": ["disabled"]},
                        {
                            "key": "kubernetes.io/metadata.name",
                            "operator": "NotIn",
                            "values": [NAMESPACE, VIZ_NAMESPACE, Each("proxyInjector.excludedNamespaces", Item())],
                        },
                    ]
                },
                "objectSelector": {"matchExpressions": [{"key": COMPONENT, "operator": "DoesNotExist"}]},
                "reinvocationPolicy": "Never",
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods", "services"],
                        "scope": "Namespaced",
                    }
                ],
                "sideEffects": "None",
                "timeoutSeconds": Ref("proxyInjector.timeoutSeconds"),
            }
        ],
    }
