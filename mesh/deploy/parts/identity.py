"""identity: signs the leaves of all proxies, and keeps the trust anchors equal in all namespaces that need them."""

from __future__ import annotations

from mesh.deploy import pod
from mesh.deploy.access import access
from mesh.deploy.labels import IDENTITY, ISSUER, NAMESPACE, TRUST_ROOTS, TRUST_ROOTS_KEY, metadata
from mesh.deploy.template import Is, Node, Not, Ref, Required, Secret, When

COMPONENT = "identity"
ADMIN_PORT = 9990


def identity() -> list[Node]:
    ports = {"identity": pod.IDENTITY_PORT, "admin": ADMIN_PORT}
    arguments: list[Node] = [
        "identity",
        "--kubernetes",
        "--listen",
        f"0.0.0.0:{pod.IDENTITY_PORT}",
        "--admin",
        f"0.0.0.0:{ADMIN_PORT}",
        "--controller-namespace",
        NAMESPACE,
        "--trust-anchors",
        pod.ANCHORS_FILE,
        "--trust-domain",
        Ref("identityTrustDomain"),
        "--leaf-lifetime",
        Ref("identity.issuer.issuanceLifetime"),
        "--clock-skew",
        Ref("identity.issuer.clockSkewAllowance"),
        "--log-level",
        Ref("controllerLogLevel"),
    ]
    container = pod.container("identity", "mesh.control", arguments, ports, ADMIN_PORT, "identity")
    return [
        When(Not(Is("identity.externalCA")), trust_roots(metadata(TRUST_ROOTS, COMPONENT))),
        When(Not(Is("identity.issuer.external")), _issuer()),
        pod.service_account(metadata(IDENTITY, COMPONENT)),
        *access(IDENTITY, COMPONENT),
        pod.service(metadata(IDENTITY, COMPONENT), COMPONENT, {"identity": (pod.IDENTITY_PORT, pod.IDENTITY_PORT)}),
        pod.disruption_budget(metadata(IDENTITY, COMPONENT), COMPONENT),
        pod.deployment(
            metadata(IDENTITY, COMPONENT), IDENTITY, COMPONENT, [container], replicas=Ref("controllerReplicas")
        ),
    ]


def trust_roots(labelled: dict[str, object]) -> Node:
    """The ConfigMap of the trust anchors, under this name and in this namespace."""
    anchors = Required("identityTrustAnchorsPEM", "give the trust anchors: --set-file identityTrustAnchorsPEM=ca.crt")
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": labelled, "data": {TRUST_ROOTS_KEY: anchors}}


def _issuer() -> Node:
    hint = "give the issuer: --set-file identity.issuer.tls.crtPEM=issuer.crt, identity.issuer.tls.keyPEM=issuer.key"
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(ISSUER, COMPONENT),
        "type": "kubernetes.io/tls",
        "data": {
            "ca.crt": Secret("identityTrustAnchorsPEM", hint),
            "tls.crt": Secret("identity.issuer.tls.crtPEM", hint),
            "tls.key": Secret("identity.issuer.tls.keyPEM", hint),
        },
    }
