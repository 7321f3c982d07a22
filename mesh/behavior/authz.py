"""Who may call: authorizations, compiled, and the default policies by name.

A client is let in by the first authorization that has both its network and its proof of identity; where none has, it is
refused. There is no rule that takes anything away but `except` within a network, so order decides only whose name
the metrics bear, not who comes in.

    proof              un-meshed    mesh TLS, no identity    mesh TLS, identity
    unauthenticated    yes          yes                      yes
    mesh-tls           no           yes                      yes
    identities         no           no                       if a pattern has it

Patterns are Linkerd's: a name is compared whole, `*.shop.example` has names that end in `.shop.example` (whole labels:
`cart.workshop.example` is no member, nor is `shop.example` itself), `*` has every name. Names are DNS names from a
verified certificate and compared without case; a SPIFFE id is only ever compared whole.

An IPv4 client of a dual-stack listener shows as `::ffff:10.0.0.1`. Both sides are brought to IPv4 first, so that
`10.0.0.0/8` and its `except`s hold for it, and `::/0` does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from mesh.api.messages import ANY_NETWORK, AuthorizationSpec, InboundPolicy, NetworkSpec

DEFAULT_POLICIES = (
    "all-unauthenticated",
    "all-authenticated",
    "cluster-unauthenticated",
    "cluster-authenticated",
    "deny",
    "audit",
)
CLUSTER_NETWORKS = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fd00::/8",
    # Linkerd's end here. In a pod loopback is the pod itself; in a world of processes it is the cluster.
    "127.0.0.0/8",
    "::1/128",
)
AUDIT = "audit"

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_MAPPED = IPv6Network("::ffff:0:0/96")


def default_authorizations(
    policy: str, cluster_networks: Iterable[str] = CLUSTER_NETWORKS
) -> tuple[AuthorizationSpec, ...]:
    """What the default policy of that name grants; nothing for `deny` and for a name that is none."""
    if policy == "deny" or policy not in DEFAULT_POLICIES:
        return ()
    networks: tuple[NetworkSpec, ...] = ANY_NETWORK
    if policy.startswith("cluster-"):
        networks = tuple(NetworkSpec(cidr=cidr) for cidr in cluster_networks)
    if policy.endswith("-authenticated"):
        return (AuthorizationSpec(kind="default", group="", name=policy, networks=networks, identities=("*",)),)
    return (AuthorizationSpec(kind="default", group="", name=policy, networks=networks, client="unauthenticated"),)


def default_inbound_policy(
    policy: str, cluster_networks: Iterable[str] = CLUSTER_NETWORKS, *, version: int = 0, published_at: float = 0.0
) -> InboundPolicy:
    """The whole policy of a port that no Server selects."""
    return InboundPolicy(
        version=version,
        published_at=published_at,
        server_name=policy,
        authorizations=default_authorizations(policy, cluster_networks),
    )


def parse_network(text: str) -> Network:
    """A network in CIDR form, or a single address; bits beyond the prefix are dropped, as Linkerd does.

    Raises:
        ValueError: neither.
    """
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return ip_network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


def parse_address(text: str) -> Address | None:
    """The address of a client; None where it has none (a unix socket, a transport in memory)."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class _Within:
    __slots__ = ("_except", "_network")

    def __init__(self, spec: NetworkSpec) -> None:
        self._network = parse_network(spec.cidr)
        self._except = [parse_network(cidr) for cidr in spec.except_]

    def __contains__(self, address: Address) -> bool:
        return address in self._network and not any(address in network for network in self._except)


class Authorization:
    """One authorization, ready to be asked."""

    __slots__ = ("_any_identity", "_any_network", "_client", "_names", "_networks", "_suffixes", "audit", "spec")

    def __init__(self, spec: AuthorizationSpec) -> None:
        """Raises ValueError where a network is none."""
        self.spec = spec
        self.audit = spec.kind == "default" and spec.name == AUDIT
        self._networks = [_Within(network) for network in spec.networks]
        self._any_network = all(network in spec.networks for network in ANY_NETWORK)
        self._client = spec.client
        names = [name.lower() if "://" not in name else name for name in spec.identities]
        self._any_identity = "*" in names
        self._names = frozenset(name for name in names if not name.startswith("*"))
        # The dot stays on: without it `*.shop.example` would have `cart.workshop.example`.
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))

    def allows(self, address: Address | None, tls: bool, identity: str | None) -> bool:
        """Whether it lets in a client at `address` (None: unknown), on mesh TLS or not, of that verified identity."""
        return self._has_network(address) and self._has_proof(tls, identity)

    def _has_network(self, address: Address | None) -> bool:
        if self._any_network:
            return True
        return address is not None and any(address in network for network in self._networks)

    def _has_proof(self, tls: bool, identity: str | None) -> bool:
        if self._client == "unauthenticated":
            return True
        if not tls:
            return False
        if self._client == "mesh-tls":
            return True
        if not identity:
            return False
        if "://" in identity:
            return identity in self._names
        name = identity.lower()
        return self._any_identity or name in self._names or _ends_with_label(name, self._suffixes)


def _ends_with_label(name: str, suffixes: tuple[str, ...]) -> bool:
    return any(name.endswith(suffix) and len(name) > len(suffix) for suffix in suffixes)


def first_that_allows(
    authorizations: Iterable[Authorization], address: Address | None, tls: bool, identity: str | None
) -> Authorization | None:
    """The authorization that lets the client in; None: refused."""
    return next((a for a in authorizations if a.allows(address, tls, identity)), None)
