"""NetworkPolicies of the mesh's own pods: which ports may be reached, and what they may reach.

The API server, the kubelet and proxies on the host network are no pods, so that "from whom" cannot be said of webhooks,
probes and the API server's proxy; "which port" can. Every other port is closed, in both directions: a component that
was taken over reaches DNS, the API server and identity, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.deploy import pod
from mesh.deploy.labels import COMPONENT, NAMESPACE, metadata, viz_metadata
from mesh.deploy.parts import destination, identity, injector, viz
from mesh.deploy.template import Both, Each, Is, Item, Node, When

PROXY_TAP_PORT, PROXY_ADMIN_PORT = 4190, 4191


def network_policies() -> list[Node]:
    enabled = Is("networkPolicies.enabled")
    control_plane = [
        ("linkerd-identity", identity.COMPONENT, [pod.IDENTITY_PORT, identity.ADMIN_PORT], [_DNS, _API_SERVER]),
        (
            "linkerd-destination",
            destination.COMPONENT,
            [
                destination.DESTINATION_PORT,
                destination.DESTINATION_ADMIN,
                destination.POLICY_PORT,
                destination.POLICY_ADMIN,
                destination.ADMISSION_PORT,
            ],
            [_DNS, _API_SERVER, _identity()],
        ),
        ("linkerd-proxy-injector", injector.NAME, [injector.PORT, injector.ADMIN_PORT], [_DNS, _API_SERVER]),
    ]
    proxies = {"ports": [_tcp(PROXY_TAP_PORT), _tcp(PROXY_ADMIN_PORT)]}
    return [
        *(
            When(enabled, _policy(metadata(name, component), component, ports, egress))
            for name, component, ports, egress in control_plane
        ),
        When(
            Both(enabled, Is("viz.enabled")),
            _policy(
                viz_metadata("viz"),
                "viz",
                [viz.PORT, viz.ADMIN_PORT],
                [_DNS, _API_SERVER, _identity(elsewhere=True), proxies],
            ),
        ),
    ]


def _policy(labelled: dict[str, object], component: str, ports: Sequence[int], egress: list[Node]) -> Node:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": labelled,
        "spec": {
            "podSelector": {"matchLabels": {COMPONENT: component}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [_tcp(port) for port in ports]}],
            "egress": egress,
        },
    }


def _tcp(port: Node) -> Node:
    return {"port": port, "protocol": "TCP"}


_DNS: Node = {"ports": [{"port": 53, "protocol": "UDP"}, _tcp(53)]}
_API_SERVER: Node = {
    "ports": [Each("networkPolicies.apiServerPorts", _tcp(Item(number=True)), separator=",")],
}


def _identity(*, elsewhere: bool = False) -> Node:
    peer: Node = {"podSelector": {"matchLabels": {COMPONENT: identity.COMPONENT}}}
    if elsewhere:
        peer["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
    return {"to": [peer], "ports": [_tcp(pod.IDENTITY_PORT)]}
