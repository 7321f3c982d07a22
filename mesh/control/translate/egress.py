"""EgressNetwork and its routes → `OutboundPolicy` of an address outside the cluster.

    networks of the client's namespace, else of `linkerd-egress` ─► the one with the smallest block around the address
        HTTPRoutes, GRPCRoutes with it as parent ─► routes, the most specific first
        trafficPolicy ─► the last route: Allow forwards, Deny answers 403; and what becomes of what is not HTTP

Ties go to the older network, then to the first by name, as in Linkerd's policy controller.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from mesh.api.messages import FailureSpec, FiltersSpec, HttpRouteSpec, OutboundPolicy
from mesh.api.resources import EgressNetwork, GRPCRoute, HTTPRoute, NetworkRef, Service, ServiceSpec
from mesh.behavior.authz import parse_network
from mesh.control.translate.annotations import suggestion
from mesh.control.translate.outbound import ComplainOfRoute, outbound_policy_message
from mesh.control.translate.problems import Complain, FieldPath, ignore_problems

EGRESS_GROUP = "policy.linkerd.io"
EGRESS_NAMESPACE = "linkerd-egress"
"""Linkerd's `--global-egress-network-namespace`."""
TRAFFIC_POLICIES = ("Allow", "Deny")
ALLOW_ROUTE, DENY_ROUTE = "http-egress-allow", "http-egress-deny"


def find_egress_network(
    networks: Iterable[EgressNetwork], address: str, client_namespace: str, cluster_networks: tuple[str, ...]
) -> EgressNetwork | None:
    """The EgressNetwork that covers `address` for clients of a namespace."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    known = list(networks)
    own = [network for network in known if network.metadata.namespace == client_namespace]
    considered = own or [network for network in known if network.metadata.namespace == EGRESS_NAMESPACE]
    matched: list[tuple[tuple[object, ...], EgressNetwork]] = []
    for network in considered:
        size = _block_size(network, ip, cluster_networks)
        if size is not None:
            created = network.metadata.creation_timestamp
            age = (0, created.timestamp()) if created is not None else (1, 0.0)
            matched.append(((size, *age, network.metadata.namespace, network.metadata.name), network))
    return min(matched, key=lambda entry: entry[0])[1] if matched else None


def egress_policy_message(
    authority: str,
    network: EgressNetwork,
    http_routes: Iterable[HTTPRoute],
    version: int,
    published_at: float,
    complain: Complain = ignore_problems,
    complain_route: ComplainOfRoute | None = None,
    *,
    grpc_routes: Iterable[GRPCRoute] = (),
    services: Collection[tuple[str, str]] | None = None,
) -> OutboundPolicy:
    """How proxies treat an address that `network` covers. Arguments as those of `outbound_policy_message`."""
    parent = Service(metadata=network.metadata, spec=ServiceSpec(ports=()))
    routes = list(http_routes)
    grpc = list(grpc_routes)
    policy = outbound_policy_message(
        authority,
        parent,
        routes,
        version,
        published_at,
        complain,
        complain_route,
        grpc_routes=grpc,
        services=services,
    )
    denied = network.spec.traffic_policy == "Deny"
    filters = FiltersSpec(failure=FailureSpec(status=403)) if denied else None
    # Retries and timeouts of the network's annotations stand on its own route, where that is all there is.
    base = policy.routes[-1] if not (routes or grpc) else HttpRouteSpec(name="")
    last = msgspec.structs.replace(base, name=DENY_ROUTE if denied else ALLOW_ROUTE, filters=filters)
    return msgspec.structs.replace(
        policy,
        routes=(*(policy.routes if routes or grpc else ()), last),
        load_bias=None,  # an address has no balancer
        egress="deny" if denied else "allow",
    )


def egress_problems(network: EgressNetwork) -> list[tuple[FieldPath, str]]:
    """What is wrong with the resource by itself."""
    found: list[tuple[FieldPath, str]] = []
    policy = network.spec.traffic_policy
    if policy not in TRAFFIC_POLICIES:
        found.append(
            (("spec", "trafficPolicy"), f"{policy!r} is neither Allow nor Deny" + suggestion(policy, TRAFFIC_POLICIES))
        )
    for index, ref in enumerate(network.spec.networks):
        texts = [(("cidr",), ref.cidr)] + [(("except", i), text) for i, text in enumerate(ref.except_)]
        for place, text in texts:
            try:
                parse_network(text)
            except ValueError:
                message = f"{text!r} is not a network; write an address or CIDR such as 198.51.100.0/24"
                found.append((("spec", "networks", index, *place), message))
    return found


def _block_size(network: EgressNetwork, ip: IPv4Address | IPv6Address, cluster_networks: tuple[str, ...]) -> int | None:
    """Addresses in the smallest of its blocks that holds `ip`; None where none does."""
    refs = network.spec.networks or (
        NetworkRef(cidr="0.0.0.0/0", except_=cluster_networks),
        NetworkRef(cidr="::/0", except_=cluster_networks),
    )
    sizes: list[int] = []
    for ref in refs:
        try:
            block, excepted = parse_network(ref.cidr), [parse_network(text) for text in ref.except_]
        except ValueError:
            continue  # told by `egress_problems`
        if ip in block and not any(ip in other for other in excepted):
            sizes.append(block.num_addresses)
    return min(sizes, default=None)
