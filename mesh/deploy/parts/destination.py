"""destination and policy: two containers of one pod, one service account, one TLS name.

destination streams endpoints and profiles. policy streams policy, refuses wrong resources as a validating webhook, and
writes the status of routes.
"""

from __future__ import annotations

from mesh.deploy import pod
from mesh.deploy.access import POLICY_WEBHOOK, access
from mesh.deploy.labels import ADMISSION_WEBHOOKS, DESTINATION, NAMESPACE, metadata
from mesh.deploy.template import Node, Ref

COMPONENT = "destination"
DESTINATION_PORT, DESTINATION_ADMIN = 8086, 9996
POLICY_PORT, POLICY_ADMIN = 8090, 9997
ADMISSION_PORT = 9443


def destination() -> list[Node]:
    containers = [
        pod.container(
            "destination",
            "mesh.control",
            _arguments("destination", DESTINATION_PORT, DESTINATION_ADMIN),
            {"destination": DESTINATION_PORT, "admin": DESTINATION_ADMIN},
            DESTINATION_ADMIN,
            "destination",
        ),
        pod.container(
            "policy",
            "mesh.control",
            [*_arguments("policy", POLICY_PORT, POLICY_ADMIN), "--admission-listen", f"0.0.0.0:{ADMISSION_PORT}"],
            {"policy": POLICY_PORT, "admission": ADMISSION_PORT, "policy-admin": POLICY_ADMIN},
            POLICY_ADMIN,
            "policyController",
        ),
    ]
    return [
        pod.service_account(metadata(DESTINATION, COMPONENT)),
        *access(DESTINATION, COMPONENT),
        pod.service(
            metadata("linkerd-dst", COMPONENT), COMPONENT, {"destination": (DESTINATION_PORT, DESTINATION_PORT)}
        ),
        pod.service(metadata("linkerd-policy", COMPONENT), COMPONENT, {"policy": (POLICY_PORT, POLICY_PORT)}),
        pod.service(metadata("linkerd-policy-validator", COMPONENT), COMPONENT, {"admission": (443, ADMISSION_PORT)}),
        _webhook(),
        pod.disruption_budget(metadata("linkerd-dst", COMPONENT), COMPONENT),
        pod.deployment(
            metadata(DESTINATION, COMPONENT), DESTINATION, COMPONENT, containers, replicas=Ref("controllerReplicas")
        ),
    ]


def _arguments(component: str, port: int, admin: int) -> list[Node]:
    return [
        component,
        "--kubernetes",
        "--listen",
        f"0.0.0.0:{port}",
        "--admin",
        f"0.0.0.0:{admin}",
        "--controller-namespace",
        NAMESPACE,
        "--identity-addr",
        pod.IDENTITY_ADDRESS,
        "--identity-name",
        pod.identity_of("linkerd-identity"),
        "--local-name",
        pod.identity_of(DESTINATION),
        "--token",
        pod.TOKEN_FILE,
        "--trust-anchors",
        pod.ANCHORS_FILE,
        "--min-refresh",
        Ref("identity.issuer.minRefresh"),
        "--trust-domain",
        Ref("identityTrustDomain"),
        "--cluster-domain",
        Ref("clusterDomain"),
        "--cluster-networks",
        Ref("clusterNetworks"),
        "--default-inbound-policy",
        Ref("proxy.defaultInboundPolicy"),
        "--log-level",
        Ref("controllerLogLevel"),
    ]


def _webhook() -> Node:
    """Without `caBundle`: the component puts its own CA there, and again at each rotation."""
    policy = [
        "servers",
        "serverauthorizations",
        "authorizationpolicies",
        "meshtlsauthentications",
        "networkauthentications",
        "httplocalratelimitpolicies",
        "httproutes",
        "egressnetworks",
    ]
    resources = {
        "policy.linkerd.io": policy,
        "linkerd.io": ["serviceprofiles"],
        "workload.linkerd.io": ["externalworkloads"],
        "gateway.networking.k8s.io": ["httproutes", "grpcroutes"],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": metadata(POLICY_WEBHOOK, COMPONENT, None),
        "webhooks": [
            {
                "name": "linkerd-policy-validator.linkerd.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {
                    "service": {"name": "linkerd-policy-validator", "namespace": NAMESPACE, "path": "/", "port": 443}
                },
                "failurePolicy": Ref("webhookFailurePolicy"),
                "namespaceSelector": {
                    "matchExpressions": [{"key": ADMISSION_WEBHOOKS, "operator": "NotIn", "values": ["disabled"]}]
                },
                "rules": [
                    {
                        "apiGroups": [group],
                        "apiVersions": ["*"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": plurals,
                        "scope": "Namespaced",
                    }
                    for group, plurals in resources.items()
                ],
                "sideEffects": "None",
                "timeoutSeconds": 10,
            }
        ],
    }
