"""What the control plane's own servers show in a handshake: their mesh certificates, and those of the webhooks."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lightkube.config.kubeconfig import SingleConfig

from mesh.api.values import Values
from mesh.commands.check.facts import Pod, Served
from mesh.commands.handshake import HandshakeFailed, shown_certificates
from mesh.commands.portforward import PortForwarder
from mesh.control.names import component_name

PARALLEL = 8
TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Server:
    """One TLS server in a container of the control plane."""

    component: str
    container: str
    port: int
    account: str = ""
    """Of its mesh certificate: `linkerd-<account>`. Empty: it is a webhook, and goes by its Service."""


SERVERS = (
    Server("identity", "identity", 8080, "identity"),
    Server("destination", "destination", 8086, "destination"),
    Server("policy", "policy", 8090, "destination"),
    Server("policy-validator", "policy", 9443),
    Server("proxy-injector", "proxy-injector", 8443),
)


def served(config: SingleConfig, namespace: str, pods: Iterable[Pod], values: Values) -> tuple[Served, ...]:
    """One for each server in a ready container."""
    wanted = [(pod, server) for pod in pods for server in SERVERS if pod.containers.get(server.container)]
    if not wanted:
        return ()
    forwarder = PortForwarder(config)

    def ask(place: tuple[Pod, Server]) -> Served:
        pod, server = place
        service = f"linkerd-{server.component}.{namespace}.svc"
        name = component_name(server.account, values.trust_domain) if server.account else service
        try:
            shown = shown_certificates(forwarder, namespace, pod.name, name, port=server.port, timeout=TIMEOUT_SECONDS)
        except HandshakeFailed as error:
            return Served(component=server.component, pod=pod.name, problem=str(error))
        return Served(component=server.component, pod=pod.name, chain_pem=shown.pem)

    with ThreadPoolExecutor(PARALLEL) as pool:
        return tuple(pool.map(ask, wanted))
