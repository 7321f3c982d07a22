"""`edges` and the topology: who calls whom, and is it secured.

An edge is what a proxy of the source counted at an endpoint. `secured` means that every response of the window came
over mutual TLS to a server whose identity was verified; the reason is the proxy's own where it did not. Clients without
a proxy are seen by their servers only: their edges have no source. Opaque TCP is counted by the service it was dialled
for, not by endpoint; its edges go to the service, and are secured when all connections that the source's proxy opened
in the window were.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import msgspec

from mesh.viz.fleet import Fleet, Observed
from mesh.viz.flows import CONNECTIONS, OWN, Inbound, Outbound, Parent, Route, Tcp, Transport
from mesh.viz.pods import Pod
from mesh.viz.resources import Resource, parse_resource
from mesh.viz.stat import GroupKey, Numbers, Sum, destination_of, numbers

UNMESHED = "unmeshed"
"""Kind of a source that has no proxy: only its server saw it."""
_REASONS = {
    "no_tls_from_remote": "the client is not meshed",
    "not_provided_by_service_discovery": "the server is not meshed",
    "disabled": "identity is disabled",
}


class Edge(Numbers, kw_only=True):
    """Requests from one resource to another, by what secured them."""

    src: str
    src_kind: str
    src_namespace: str
    dst: str
    dst_kind: str
    dst_namespace: str
    client_id: str = ""
    server_id: str = ""
    secured: bool
    reason: str = ""
    """Why it is not."""
    protocol: str = "http"
    connections: float = 0.0
    """Opaque connections opened in the window."""


_Key = tuple[GroupKey, GroupKey, str, str, bool, str, str]
"""Source, destination, client, server, secured, reason, protocol."""


def edges(fleet: Fleet, resource: Resource, since: float, until: float) -> list[Edge]:
    """Edges whose source or destination belongs to `resource`, between resources of its kind, sorted."""
    everything = Resource(resource.kind)
    sums: dict[_Key, Sum] = defaultdict(Sum)
    connections: dict[_Key, float] = defaultdict(float)
    for one in fleet.observe(since, until):
        source = one.member.pod
        for flow, tally in one.flows.items():
            if isinstance(flow, Outbound):
                key = _called(fleet, source, flow, everything, resource)
            elif isinstance(flow, Inbound) and flow.tls != "true" and resource.holds(source):
                reason = _reason(flow.tls, flow.no_tls_reason)
                key = (("", UNMESHED, UNMESHED), everything.group(source), "", "", False, reason, "http")
            elif isinstance(flow, Tcp) and resource.holds(source):
                key = _dialled(one, flow, everything)
                connections[key] += tally.count(CONNECTIONS)
            else:
                continue
            if key is not None:
                sums[key].saw(one)
                sums[key].add(one, tally)
    found = []
    for key, total in sums.items():
        if total.tally.empty:
            continue
        (src_namespace, src_kind, src), (dst_namespace, dst_kind, dst), client, server, secured, reason, protocol = key
        found.append(
            Edge(
                src=src,
                src_kind=src_kind,
                src_namespace=src_namespace,
                dst=dst,
                dst_kind=dst_kind,
                dst_namespace=dst_namespace,
                client_id=client,
                server_id=server,
                secured=secured,
                reason=reason,
                protocol=protocol,
                connections=connections.get(key, 0.0),
                **msgspec.structs.asdict(numbers(total)),
            )
        )
    return sorted(found, key=lambda e: (e.src_namespace, e.src, e.dst_namespace, e.dst, e.server_id, not e.secured))


def _called(fleet: Fleet, source: Pod, flow: Outbound, everything: Resource, wanted: Resource) -> _Key | None:
    pod = destination_of(fleet, flow)
    if not wanted.holds(source) and (pod is None or not wanted.holds(pod)):
        return None
    target = everything.group(pod) if pod is not None else (flow.dst_namespace, "", flow.dst_pod or flow.target_addr)
    secured = flow.tls == "true" and bool(flow.server_id)
    reason = "" if secured else _reason(flow.tls, flow.no_tls_reason)
    client = source.identity if secured else ""
    return everything.group(source), target, client, flow.server_id, secured, reason, "http"


def _dialled(one: Observed, flow: Tcp, everything: Resource) -> _Key:
    states = {t.tls for t in one.flows if isinstance(t, Transport) and (t.direction, t.peer) == ("outbound", "dst")}
    secured = states == {"true"}
    reason = "" if secured else "some of its connections are not over mutual TLS" if states else "not known"
    target = (flow.parent.namespace, "Service", flow.parent.name)
    client = one.member.pod.identity if secured else ""
    return everything.group(one.member.pod), target, client, "", secured, reason, "tcp"


def _reason(tls: str, no_tls_reason: str) -> str:
    return _REASONS.get(no_tls_reason) or _REASONS.get(tls) or no_tls_reason or "not over mutual TLS"


# ---- topology -------------------------------------------------------------------------------------------------------


class Node(msgspec.Struct, kw_only=True):
    """A workload, or a service that nobody answered for."""

    id: str
    namespace: str
    kind: str
    name: str
    meshed: bool


class Link(Numbers, kw_only=True):
    """What one node sent to another. `own`: answers of the source's proxy, where no endpoint was there in time."""

    source: str
    target: str
    secured: bool
    reason: str = ""
    own: float = 0.0
    protocol: str = "http"


class Topology(msgspec.Struct, kw_only=True):
    nodes: list[Node]
    links: list[Link]


@dataclass(slots=True)
class _Gathered:
    total: Sum = field(default_factory=Sum)
    own: float = 0.0
    own_rate: float = 0.0
    secured: bool = True
    reason: str = ""
    protocol: str = "http"


def topology(fleet: Fleet, namespace: str, since: float, until: float) -> Topology:
    """All workloads of a namespace (empty: of all), and who calls whom.

    What a client's proxy answered itself (nobody there, fail-fast, timeouts) belongs to no endpoint. It is failures of
    the link to whatever is behind the service, or to the service itself where nothing is known to be.
    """
    workloads = parse_resource("workload", namespace)
    observed = fleet.observe(since, until)
    links: dict[tuple[GroupKey, GroupKey], _Gathered] = defaultdict(_Gathered)
    behind: dict[tuple[str, str], GroupKey] = {}
    for edge in edges(fleet, workloads, since, until):
        source = (edge.src_namespace, edge.src_kind, edge.src)
        target = (edge.dst_namespace, edge.dst_kind, edge.dst)
        link = links[source, target]
        link.secured &= edge.secured
        link.reason = link.reason or edge.reason
        link.protocol = edge.protocol
    for one in observed:
        source = workloads.group(one.member.pod)
        for flow, tally in one.flows.items():
            if isinstance(flow, Outbound):
                pod = destination_of(fleet, flow)
                target = workloads.group(pod) if pod is not None else (flow.dst_namespace, "", flow.target_addr)
                if flow.dst_service:
                    behind.setdefault((flow.dst_namespace, flow.dst_service), target)
                link_key = (source, target)
            elif isinstance(flow, Inbound) and flow.tls != "true":
                link_key = (("", UNMESHED, UNMESHED), source)
            else:
                continue
            if link_key in links:
                links[link_key].total.saw(one)
                links[link_key].total.add(one, tally)
    for one in observed:
        if workloads.holds(one.member.pod):
            _add_own(one, workloads.group(one.member.pod), behind, links)
    nodes = _nodes(fleet, workloads, [key for pair in links for key in pair])
    return Topology(nodes=nodes, links=[_link(pair, link) for pair, link in sorted(links.items())])


def _add_own(
    one: Observed,
    source: GroupKey,
    behind: dict[tuple[str, str], GroupKey],
    links: dict[tuple[GroupKey, GroupKey], _Gathered],
) -> None:
    for flow, tally in one.flows.items():
        own = tally.count(OWN) if isinstance(flow, Route) else 0.0
        if isinstance(flow, Route) and own > 0:
            parent: Parent = flow.parent
            target = behind.get((parent.namespace, parent.name), (parent.namespace, "Service", parent.name))
            link = links[source, target]
            link.total.saw(one)
            link.own += own
            link.own_rate += own * one.factor


def _nodes(fleet: Fleet, workloads: Resource, called: list[GroupKey]) -> list[Node]:
    meshed: dict[GroupKey, bool] = {}
    for member in fleet.running():
        if workloads.holds(member.pod):
            key = workloads.group(member.pod)
            meshed[key] = meshed.get(key, False) or member.pod.meshed
    for key in called:
        if key not in meshed:
            pods = [m for m in fleet.members.values() if Resource("Workload").group(m.pod) == key]
            meshed[key] = any(m.pod.meshed for m in pods) if pods else False
    return [
        Node(id=_id(key), namespace=key[0], kind=key[1], name=key[2], meshed=known)
        for key, known in sorted(meshed.items())
    ]


def _link(pair: tuple[GroupKey, GroupKey], gathered: _Gathered) -> Link:
    found = numbers(gathered.total)
    requests, failures = found.requests + gathered.own, found.failures + gathered.own
    found.success = (requests - failures) / requests if requests > 0 else None
    found.requests, found.failures = requests, failures
    found.rps = found.rps + gathered.own_rate if found.rps is not None else None
    return Link(
        source=_id(pair[0]),
        target=_id(pair[1]),
        secured=gathered.secured,
        reason=gathered.reason,
        own=gathered.own,
        protocol=gathered.protocol,
        **msgspec.structs.asdict(found),
    )


def _id(key: GroupKey) -> str:
    return "/".join(key)
