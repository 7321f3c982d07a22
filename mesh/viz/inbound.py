"""`stat-inbound`: what each Server and route of a workload let in, refused and limited, and how it went.

    inbound_http_authz_{allow,deny}_total, …_ratelimit_total     by Server and route: rate, refusals
    response_total, response_latency_ms {direction="inbound"}    the same names: success, latency

Answers without the names of a Server (older proxies, Linkerd's in some places) belong to their port: a row has them
where its Server and route are all that the port has (or the pod, where a proxy serves one port); several routes of one
port share them, and say None.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec

from mesh.viz.fleet import Fleet, Observed
from mesh.viz.flows import ALLOWED, DENIED, LIMITED, Inbound, Permission
from mesh.viz.resources import Resource
from mesh.viz.stat import GroupKey, Numbers, Sum, numbers


class InboundRow(Numbers, kw_only=True):
    """One route of one Server in front of one resource."""

    namespace: str
    kind: str
    name: str
    server: str
    """`namespace`-less; `default:NAME` for the default policy."""
    port: str
    route: str
    type: str
    """HTTPRoute, GRPCRoute, default …"""
    allowed: float = 0.0
    denied: float = 0.0
    limited: float = 0.0


RouteKey = tuple[GroupKey, str, str, str, str]
"""Group, Server, port, route, its kind."""


def stat_inbound(fleet: Fleet, resource: Resource, since: float, until: float) -> list[InboundRow]:
    """Rows by resource, Server and route, sorted."""
    verdicts: dict[RouteKey, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    rates: dict[RouteKey, float] = defaultdict(float)
    answers: dict[RouteKey, Sum] = defaultdict(Sum)
    shared: set[RouteKey] = set()
    for one in fleet.observe(since, until):
        if one.covered <= 0 or not resource.holds(one.member.pod):
            continue
        group = resource.group(one.member.pod)
        by_port: dict[str, set[RouteKey]] = defaultdict(set)
        for flow, tally in one.flows.items():
            if not isinstance(flow, Permission):
                continue
            key = _key(group, flow)
            by_port[_port(flow.target_addr)].add(key)
            for name in (ALLOWED, DENIED, LIMITED):
                verdicts[key][name] += tally.count(name)
            rates[key] += tally.count(ALLOWED) * one.factor
        _share(one, group, by_port, answers, shared)
    rows = []
    for key in sorted(verdicts):
        group, server, port, route, kind = key
        known = answers[key] if key in answers and key not in shared else Sum()
        found = msgspec.structs.asdict(numbers(known)) | {"rps": rates[key]}
        rows.append(
            InboundRow(
                namespace=group[0],
                kind=group[1],
                name=group[2],
                server=server,
                port=port,
                route=route,
                type=kind,
                **{name: verdicts[key][name] for name in (ALLOWED, DENIED, LIMITED)},
                **found,
            )
        )
    return rows


def _key(group: GroupKey, flow: Permission | Inbound) -> RouteKey:
    server = f"default:{flow.server}" if flow.server_kind == "default" else flow.server
    return group, server, flow.server_port, flow.route or "default", flow.route_kind or "default"


def _share(
    one: Observed,
    group: GroupKey,
    by_port: dict[str, set[RouteKey]],
    answers: dict[RouteKey, Sum],
    shared: set[RouteKey],
) -> None:
    """Gives answers to the route that they name, or to the one route that their port has."""
    everything = set().union(*by_port.values())
    ports = {_port(flow.target_addr) for flow in one.flows if isinstance(flow, Inbound)}
    for flow, tally in one.flows.items():
        if not isinstance(flow, Inbound):
            continue
        if flow.server:
            keys = {_key(group, flow)}
        else:
            keys = by_port.get(_port(flow.target_addr)) or (everything if len(ports) == 1 else set())
        if len(keys) == 1:
            total = answers[next(iter(keys))]
            total.saw(one)
            total.add(one, tally)
        else:
            shared |= keys


def _port(address: str) -> str:
    return address.rpartition(":")[2]
