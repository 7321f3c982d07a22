"""`stat-outbound` and `routes`: what clients asked for by route, and what it took to answer.

    effective   requests as the client saw them: retried ones once, with what the last try gave
    actual      tries as the backends saw them: each retry counts

The difference is what retries buy, and what they cost. HTTPRoutes, GRPCRoutes and services without a route come from
`outbound_{http,grpc}_route_*` (latency there in coarse buckets: 50 ms, 500 ms, 1 s, 10 s for requests), routes of
ServiceProfiles from `route_*`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mesh.viz.fleet import Fleet, Observed
from mesh.viz.flows import (
    ACTUAL_FAILURE,
    ACTUAL_SUCCESS,
    OWN,
    RETRIES,
    TIMEOUT,
    Backend,
    Outbound,
    Parent,
    Profile,
    Route,
)
from mesh.viz.resources import Resource
from mesh.viz.stat import GroupKey, Numbers, Sum, destination_of, numbers
from mesh.viz.tally import Tally

SECOND_MS = 1000.0


class BackendRow(Numbers, kw_only=True):
    """Tries at one backend of a route."""

    backend: str
    """NAME:PORT, with `.NAMESPACE` where it is another than the route's parent's."""


class OutboundRow(Numbers, kw_only=True):
    """Requests of one resource by one route."""

    namespace: str
    kind: str
    name: str
    service: str
    """NAME.NAMESPACE:PORT; an authority where no service is behind it."""
    route: str
    type: str
    """HTTPRoute, GRPCRoute, ServiceProfile, default …"""
    timeouts: float = 0.0
    retries: float = 0.0
    own: float = 0.0
    """Answers that the client's proxy made itself: nobody was there, or not in time."""
    backends: list[BackendRow] = msgspec.field(default_factory=list)


class RouteRow(Numbers, kw_only=True):
    """Effective numbers of a route over all clients asked about; actual ones beside them."""

    route: str
    service: str
    type: str
    actual_success: float | None = None
    actual_rps: float | None = None


@dataclass(slots=True)
class _RouteSum:
    effective: Sum = field(default_factory=Sum)
    actual: Sum = field(default_factory=Sum)
    backends: dict[Parent, Sum] = field(default_factory=lambda: defaultdict(Sum))


def stat_outbound(
    fleet: Fleet, resource: Resource, since: float, until: float, to: Resource | None = None
) -> list[OutboundRow]:
    """Rows by resource and route, sorted; each with its backends."""
    sums: dict[tuple[GroupKey, Route], _RouteSum] = defaultdict(_RouteSum)
    for one in fleet.observe(since, until):
        if resource.holds(one.member.pod):
            _add_routes(one, sums, resource.group(one.member.pod), to)
    rows = []
    for (group, route), total in sorted(sums.items()):
        counts = total.effective.tally
        backends = [
            BackendRow(backend=_backend_name(target, route), **_plain(part))
            for target, part in sorted(total.backends.items())
        ]
        rows.append(
            OutboundRow(
                namespace=group[0],
                kind=group[1],
                name=group[2],
                service=_service_name(route.parent),
                route=route.name or "default",
                type=_type_of(route),
                timeouts=counts.count(TIMEOUT),
                retries=counts.count(RETRIES),
                own=counts.count(OWN),
                backends=backends,
                **_plain(total.effective),
            )
        )
    return rows


def routes(fleet: Fleet, resource: Resource, since: float, until: float, to: Resource | None = None) -> list[RouteRow]:
    """Routes of a service (`svc/pay`: over all clients), or of what a workload calls.

    A workload's own routes (no `to`) are those of the services whose endpoints its pods are.
    """
    observed = fleet.observe(since, until)
    if resource.kind == "Service":
        clients, target = observed, resource
    elif to is not None:
        clients, target = [one for one in observed if resource.holds(one.member.pod)], to
    else:
        clients, target = observed, None
    services = _services_of(fleet, observed, resource) if target is None else set()
    by_profile: dict[Profile, Sum] = defaultdict(Sum)
    by_route: dict[Route, _RouteSum] = defaultdict(_RouteSum)
    for one in clients:
        kept: dict[tuple[GroupKey, Route], _RouteSum] = defaultdict(_RouteSum)
        for flow, tally in one.flows.items():
            if isinstance(flow, Profile) and _wanted(_profile_parent(flow), target, services):
                by_profile[flow].saw(one)
                by_profile[flow].add(one, tally)
        _add_routes(one, kept, ("", "", ""), target, services if target is None else None)
        for (_, route), part in kept.items():
            _merge(by_route[route], part)
    rows = [_profile_row(flow, total) for flow, total in by_profile.items()]
    profiled = {_service_name(_profile_parent(flow)) for flow in by_profile}
    rows += [
        _route_row(route, total) for route, total in by_route.items() if _service_name(route.parent) not in profiled
    ]
    return sorted(rows, key=lambda row: (row.service, row.route, row.type))


def _add_routes(
    one: Observed,
    sums: dict[tuple[GroupKey, Route], _RouteSum],
    group: GroupKey,
    to: Resource | None,
    services: set[tuple[str, str]] | None = None,
) -> None:
    for flow, tally in one.flows.items():
        route = flow if isinstance(flow, Route) else flow.route if isinstance(flow, Backend) else None
        if route is None or not _wanted(route.parent, to, services):
            continue
        total = sums[group, route]
        total.effective.saw(one)
        total.actual.saw(one)
        if isinstance(flow, Backend):
            total.backends[flow.target].saw(one)
            total.backends[flow.target].add(one, tally)
            total.actual.add(one, tally)
        else:
            total.effective.add(one, tally)


def _wanted(parent: Parent, to: Resource | None, services: set[tuple[str, str]] | None) -> bool:
    if to is None:
        return not services or (parent.namespace, parent.name) in services if services is not None else True
    if to.kind == "Namespace":
        return to.name in ("", parent.namespace)
    if to.kind == "Authority":
        whole = to.name.startswith(f"{parent.name}.{parent.namespace}.svc.") and to.name.endswith(f":{parent.port}")
        return whole or to.name in ("", parent.name)
    if to.namespace and parent.namespace != to.namespace:
        return False
    return to.name in ("", parent.name)


def _services_of(fleet: Fleet, observed: list[Observed], resource: Resource) -> set[tuple[str, str]]:
    """The services through which a resource's pods were called."""
    found = set()
    for one in observed:
        for flow in one.flows:
            if isinstance(flow, Outbound) and flow.dst_service:
                pod = destination_of(fleet, flow)
                if pod is not None and resource.holds(pod):
                    found.add((flow.dst_namespace, flow.dst_service))
    return found


def _merge(total: _RouteSum, part: _RouteSum) -> None:
    for mine, other in ((total.effective, part.effective), (total.actual, part.actual)):
        mine.tally.add(other.tally)
        mine.rate += other.rate
        mine.seen |= other.seen


def _profile_parent(flow: Profile) -> Parent:
    host, _, port = flow.dst.partition(":")
    parts = host.split(".")
    return Parent("Service", parts[1] if len(parts) > 2 and parts[2] == "svc" else "", parts[0], port)


def _profile_row(flow: Profile, total: Sum) -> RouteRow:
    counts: Tally = total.tally
    good, bad = counts.count(ACTUAL_SUCCESS), counts.count(ACTUAL_FAILURE)
    effective = numbers(total)
    tries = good + bad
    return RouteRow(
        route=flow.route or "[DEFAULT]",
        service=_service_name(_profile_parent(flow)),
        type="ServiceProfile",
        actual_success=good / tries if tries > 0 else None,
        actual_rps=_scaled(effective, tries),
        **msgspec.structs.asdict(effective),
    )


def _scaled(effective: Numbers, tries: float) -> float | None:
    """The rate of tries: that of the requests times tries per request, since both come from the same pods."""
    if effective.rps is None:
        return None
    return effective.rps * tries / effective.requests if effective.requests > 0 else 0.0


def _route_row(route: Route, total: _RouteSum) -> RouteRow:
    actual = numbers(total.actual)
    return RouteRow(
        route=route.name or "default",
        service=_service_name(route.parent),
        type=_type_of(route),
        actual_success=actual.success,
        actual_rps=actual.rps,
        **_plain(total.effective),
    )


def _plain(total: Sum) -> dict[str, Any]:
    """The numbers as fields; latencies of these histograms are in seconds."""
    return msgspec.structs.asdict(numbers(total, unit_ms=SECOND_MS))


def _type_of(route: Route) -> str:
    return route.kind or "default"


def _service_name(parent: Parent) -> str:
    name = f"{parent.name}.{parent.namespace}" if parent.namespace else parent.name
    return f"{name}:{parent.port}" if parent.port else name


def _backend_name(target: Parent, route: Route) -> str:
    name = target.name if target.namespace == route.parent.namespace else f"{target.name}.{target.namespace}"
    return f"{name}:{target.port}" if target.port else name
