"""viz: what the proxies report, gathered; API, web UI and tap client in one pod of its own namespace.

Identity keeps the trust anchors there equal, because of the label. The first copy is printed: the kubelet asks
for a missing ConfigMap at longer and longer intervals, and viz would be the last to be ready by far.
"""

from __future__ import annotations

from mesh.deploy import pod
from mesh.deploy.access import cluster_access, namespace_access
from mesh.deploy.labels import (
    ADMISSION_WEBHOOKS,
    NAMESPACE,
    TRUST_ROOTS,
    VIZ,
    VIZ_NAMESPACE,
    viz_labels,
    viz_metadata,
)
from mesh.deploy.parts.identity import trust_roots
from mesh.deploy.parts.namespace import POD_SECURITY
from mesh.deploy.template import Both, Is, Node, Not, Ref, When
from mesh.viz.permissions import PERMISSIONS

PORT, ADMIN_PORT = 8084, 9994


def viz() -> list[Node]:
    arguments: list[Node] = [
        "--kubernetes",
        "--listen",
        f"0.0.0.0:{PORT}",
        "--admin",
        f"0.0.0.0:{ADMIN_PORT}",
        "--namespace",
        VIZ_NAMESPACE,
        "--controller-namespace",
        NAMESPACE,
        "--identity-addr",
        pod.IDENTITY_ADDRESS,
        "--identity-name",
        pod.identity_of("linkerd-identity"),
        "--local-name",
        pod.identity_of(VIZ, VIZ_NAMESPACE),
        "--token",
        pod.TOKEN_FILE,
        "--trust-anchors",
        pod.ANCHORS_FILE,
        "--trust-domain",
        Ref("identityTrustDomain"),
        "--cluster-domain",
        Ref("clusterDomain"),
        "--scrape-interval",
        Ref("viz.scrapeInterval"),
        "--log-level",
        Ref("controllerLogLevel"),
    ]
    container = pod.container("viz", "mesh.viz", arguments, {"http": PORT, "admin": ADMIN_PORT}, ADMIN_PORT, "viz")
    objects: list[Node] = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": VIZ_NAMESPACE,
                "labels": viz_labels() | {ADMISSION_WEBHOOKS: "disabled"} | POD_SECURITY,
            },
        },
        pod.service_account(viz_metadata(VIZ)),
        *cluster_access(
            viz_metadata(VIZ_NAMESPACE, None), VIZ, VIZ_NAMESPACE, [dict(rule) for rule in PERMISSIONS["cluster"]]
        ),
        *namespace_access(viz_metadata(VIZ), VIZ, [dict(rule) for rule in PERMISSIONS["namespace"]]),
        pod.service(viz_metadata(VIZ), "viz", {"http": (PORT, PORT)}),
        # One replica: it holds the last minutes of history in memory.
        pod.deployment(viz_metadata(VIZ), VIZ, "viz", [container], replicas=1),
    ]
    copied = Both(Is("viz.enabled"), Not(Is("identity.externalCA")))
    return [
        *(When(Is("viz.enabled"), node) for node in objects[:1]),
        When(copied, trust_roots(viz_metadata(TRUST_ROOTS))),
        *(When(Is("viz.enabled"), node) for node in objects[1:]),
    ]
