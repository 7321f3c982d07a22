"""Where an authority's requests go: Service + EndpointSlice + Pod → endpoints.

    cart.shop.svc.cluster.local:8080 ─► Service shop/cart ─► its slices ─► ready addresses ─► each one's Pod

A meshed pod (annotation `linkerd.io/proxy-version`) is dialled with its identity as TLS name; any other in plaintext.
Either way at the slice's address and port: a meshed pod's iptables lead what arrives there to its proxy, which learns
from them which port was meant. An address whose slice names a Pod that the registry does not
(yet) have is left out: taken as not meshed it would get plaintext that its proxy must never see.

A proxy also asks for addresses that its app dials. A service's cluster ip is the service; the ip of a meshed pod is
that pod; any other address is unknown here (`NotFound`), and the proxy forwards to it as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from mesh.api.messages import Endpoint
from mesh.api.resources import EndpointConditions, EndpointSlice, ExternalWorkload, Pod, Service, SliceEndpoint
from mesh.control.names import identity_name
from mesh.control.registry.index import Index, Key
from mesh.control.translate import inbound_policy_message
from mesh.control.translate.inbound import port_set

PROXY_VERSION = "linkerd.io/proxy-version"
INBOUND_ADDRESS = "gameday.dev/inbound-address"
"""`ip:port` of a pod's inbound proxy, for worlds where pods share an ip."""
SKIP_INBOUND_PORTS = "config.linkerd.io/skip-inbound-ports"

_AUTHORITY = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc\.([a-z0-9.-]+):(\d{1,5})")


class InvalidAuthority(ValueError):
    """Not the name and port of a service."""


@dataclass(frozen=True, slots=True)
class Authority:
    """`service.namespace.svc.domain:port`, or `ip:port`."""

    text: str
    service: Key
    """Two empty texts for an address."""
    port: int
    ip: str = ""
    """Empty for a service."""

    @property
    def host(self) -> str:
        return self.text.rpartition(":")[0]


def parse_authority(text: str, cluster_domain: str) -> Authority:
    """Raises InvalidAuthority."""
    host, _, port = text.rpartition(":")
    if (ip := _ip(host)) and port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65_535:
        return Authority(text, ("", ""), int(port), ip)
    match = _AUTHORITY.fullmatch(text)
    if match is None or match.group(3) != cluster_domain or not 1 <= int(match.group(4)) <= 65_535:
        raise InvalidAuthority(f"{text!r} is not SERVICE.NAMESPACE.svc.{cluster_domain}:PORT")
    return Authority(text, (match.group(2), match.group(1)), int(match.group(4)))


def resolve(index: Index, authority: Authority, cluster_domain: str) -> Authority:
    """The service behind a cluster ip; any other authority as it is."""
    service = index.service_at(authority.ip) if authority.ip else None
    if service is None:
        return authority
    key = (service.metadata.namespace, service.metadata.name)
    return Authority(f"{key[1]}.{key[0]}.svc.{cluster_domain}:{authority.port}", key, authority.port)


class Known:
    """Endpoints of meshed pods as they were worked out last, with the objects that they came from.

    Whether a port is opaque takes the pod's whole inbound policy; with 500 pods that is 15 ms for each change of
    anything, and one of them changed.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[Key, str, int], tuple[tuple[object, ...], Endpoint]] = {}

    def get(self, place: tuple[Key, str, int], inputs: tuple[object, ...]) -> Endpoint | None:
        entry = self._entries.get(place)
        if entry is None or any(one is not other for one, other in zip(entry[0], inputs, strict=True)):
            return None
        return entry[1]

    def put(self, place: tuple[Key, str, int], inputs: tuple[object, ...], endpoint: Endpoint) -> None:
        self._entries[place] = (inputs, endpoint)

    def trim(self, living: int) -> None:
        """Forgets all once most are of pods that are gone."""
        if len(self._entries) > 2 * living + 32:
            self._entries.clear()


def endpoints_of(
    index: Index, authority: Authority, trust_domain: str, known: Known | None = None
) -> dict[str, Endpoint] | None:
    """Ready endpoints by address; None where there is no such service, or an address that is no meshed pod's."""
    known = known or Known()
    if authority.ip:
        pod = index.pod_at(authority.ip)
        if pod is None or not _intercepts(index, pod, authority.port):
            return None
        itself = _meshed(index, pod, authority.ip, authority.port, trust_domain, known)
        return {itself.address: itself}
    service = index.services.get(authority.service)
    if service is None:
        return None
    found: dict[str, Endpoint] = {}
    pieces = _one_family(index.slices(authority.service))
    for state in (_is_ready, _is_last_resort):
        for piece in pieces:
            port = _slice_port(service, piece, authority.port)
            if port is None:
                continue
            for member in piece.endpoints:
                if not state(member.conditions):
                    continue
                endpoint = _endpoint(index, piece.metadata.namespace, member, port, trust_domain, known)
                if endpoint is not None:
                    found[endpoint.address] = endpoint
        if found:
            break
    known.trim(len(found))
    return found


def _is_ready(conditions: EndpointConditions) -> bool:
    return conditions.ready


def _is_last_resort(conditions: EndpointConditions) -> bool:
    return conditions.serving and conditions.terminating


def _one_family(pieces: list[EndpointSlice]) -> list[EndpointSlice]:
    v4 = [piece for piece in pieces if piece.endpoints and ":" not in "".join(piece.endpoints[0].addresses)]
    return v4 or pieces


def _slice_port(service: Service, piece: EndpointSlice, port: int) -> int | None:
    """The pod's port behind the service's `port`.

    A slice carries the resolved port under the service port's name. A port that the service does not list is taken as
    the pod's own, as in Linkerd.
    """
    listed = next((p for p in service.spec.ports if p.port == port), None)
    if listed is None:
        return port
    for candidate in piece.ports:
        if candidate.name == listed.name:
            return candidate.port
    return None


def _endpoint(
    index: Index, namespace: str, member: SliceEndpoint, port: int, trust_domain: str, known: Known
) -> Endpoint | None:
    if not member.addresses:
        return None
    ip = member.addresses[0]
    reference = member.target_ref
    if reference is not None and reference.kind == "ExternalWorkload":
        workload = index.workloads.get((namespace, reference.name))
        return _external(workload, ip, port) if workload is not None else None
    if reference is None or reference.kind != "Pod":
        return Endpoint(address=_join(ip, port), pod=reference.name if reference else ip, namespace=namespace)
    pod = index.pods.get((namespace, reference.name))
    if pod is None:
        return None
    if not _intercepts(index, pod, port):
        return Endpoint(address=_join(ip, port), pod=reference.name, namespace=namespace)
    return _meshed(index, pod, ip, port, trust_domain, known)


def _intercepts(index: Index, pod: Pod, port: int) -> bool:
    """Whether what arrives at the pod's `port` goes through a proxy."""
    if PROXY_VERSION not in pod.metadata.annotations:
        return False
    skipped = pod.metadata.annotations.get(SKIP_INBOUND_PORTS)
    if skipped is None:
        namespace = index.namespaces.get(pod.metadata.namespace)
        skipped = namespace.metadata.annotations.get(SKIP_INBOUND_PORTS) if namespace is not None else None
    return skipped is None or port not in port_set(skipped)


def _external(workload: ExternalWorkload, ip: str, port: int) -> Endpoint:
    return Endpoint(
        address=_join(ip, port),
        pod=workload.metadata.name,
        namespace=workload.metadata.namespace,
        identity=workload.spec.mesh_tls.identity,
        port=port,
    )


def _meshed(index: Index, pod: Pod, ip: str, port: int, trust_domain: str, known: Known) -> Endpoint:
    """Opaque where the pod's own policy says so of the port: its proxy and the client's must agree."""
    namespace = pod.metadata.namespace
    place = ((namespace, pod.metadata.name), ip, port)
    inputs = (pod, index.namespaces.get(namespace), index.inbound(namespace))
    endpoint = known.get(place, inputs)
    if endpoint is None:
        policy = inbound_policy_message(pod, inputs[1], 0, 0.0, port=port, resources=inputs[2])
        endpoint = Endpoint(
            address=pod.metadata.annotations.get(INBOUND_ADDRESS, _join(ip, port)),
            pod=pod.metadata.name,
            namespace=namespace,
            identity=pod_identity(pod, trust_domain),
            opaque=policy.protocol == "opaque",
            port=port,
        )
        known.put(place, inputs, endpoint)
    return endpoint


def pod_identity(pod: Pod, trust_domain: str) -> str:
    return identity_name(pod.spec.service_account_name, pod.metadata.namespace, trust_domain)


def _ip(host: str) -> str:
    """The address in `host` in its shortest form; empty where it is a name."""
    try:
        return str(ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host))
    except ValueError:
        return ""


def _join(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
