"""`stat`: success, rate and latency of workloads, services and authorities.

    stat deploy               what arrived at each, as its own proxies saw it
    stat deploy --to svc/pay  what each sent there, tries counted, as the senders' proxies saw it
    stat deploy --from ns/a   what those senders sent to each
    stat svc                  what all meshed clients sent to each

A row that no proxy told of is not zero: its numbers are None, and its pods are listed as unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from mesh.viz.fleet import Fleet, Member, Observed
from mesh.viz.flows import FAILURE, SUCCESS, Flow, Inbound, Outbound
from mesh.viz.history import open_connections
from mesh.viz.pods import Pod
from mesh.viz.resources import Resource
from mesh.viz.tally import Tally

GroupKey = tuple[str, str, str]
"""Namespace, kind, name."""


class Numbers(msgspec.Struct, kw_only=True):
    """What is said of a stream of requests. None: not known, or nothing to tell it from."""

    success: float | None = None
    """Ratio."""
    rps: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    requests: float = 0.0
    """Responses counted in the window; a window's edge within two scrapes takes its share, so these may be broken."""
    failures: float = 0.0


class StatRow(Numbers, kw_only=True):
    """One resource."""

    namespace: str
    kind: str
    name: str
    meshed: int | None = None
    """Running pods that have a proxy; None for services and authorities."""
    pods: int | None = None
    """Running pods."""
    seen: int = 0
    """Proxies that were scraped in the window."""
    unseen: tuple[str, ...] = ()
    """Pods with a proxy of which nothing is known in the window."""
    tcp_conn: float | None = None


@dataclass(slots=True)
class Sum:
    """Requests of several pods."""

    tally: Tally = field(default_factory=Tally)
    rate: float = 0.0
    seen: set[tuple[str, str]] = field(default_factory=set)

    def add(self, observed: Observed, tally: Tally, success: str = SUCCESS, failure: str = FAILURE) -> None:
        self.tally.add(tally)
        self.rate += (tally.count(success) + tally.count(failure)) * observed.factor

    def saw(self, observed: Observed) -> None:
        if observed.covered > 0:
            self.seen.add((observed.member.pod.namespace, observed.member.pod.name))


def numbers(total: Sum, success: str = SUCCESS, failure: str = FAILURE, unit_ms: float = 1.0) -> Numbers:
    """The numbers of a sum.

    Args:
        success, failure: names of the counts that are taken.
        unit_ms: milliseconds in one unit of the latency's bounds.
    """
    good, bad = total.tally.count(success), total.tally.count(failure)
    requests = good + bad

    def quantile(q: float) -> float | None:
        value = total.tally.quantile(q)
        return None if value is None else value * unit_ms

    return Numbers(
        success=good / requests if requests > 0 else None,
        rps=total.rate if total.seen else None,
        latency_p50_ms=quantile(0.50),
        latency_p95_ms=quantile(0.95),
        latency_p99_ms=quantile(0.99),
        requests=requests,
        failures=bad,
    )


def destination_of(fleet: Fleet, flow: Outbound) -> Pod | None:
    """The pod behind an endpoint, as its labels or its address tell."""
    member: Member | None = None
    if flow.dst_pod:
        member = fleet.named(flow.dst_namespace, flow.dst_pod)
    member = member or fleet.at(flow.target_addr)
    return member.pod if member is not None else None


def goes_to(fleet: Fleet, flow: Outbound, target: Resource) -> bool:
    """Whether an outbound flow goes to a resource."""
    if target.kind == "Authority":
        return not target.name or flow.authority == target.name
    if target.kind == "Service":
        if not flow.dst_service or (target.namespace and flow.dst_namespace != target.namespace):
            return False
        return not target.name or flow.dst_service == target.name
    pod = destination_of(fleet, flow)
    if pod is not None:
        return target.holds(pod)
    return target.kind == "Namespace" and bool(flow.dst_namespace) and target.name in ("", flow.dst_namespace)


def stat(
    fleet: Fleet, resource: Resource, since: float, until: float, to: Resource | None = None, by: Resource | None = None
) -> list[StatRow]:
    """Rows by resource, sorted by namespace and name.

    Args:
        to: what was sent there.
        by: what was sent by them (`--from`).
    """
    observed = fleet.observe(since, until)
    if not resource.of_pods:
        return _called(fleet, observed, resource, by)
    rows = _rows(fleet, resource)
    sums = {key: Sum() for key in rows}
    for one in observed:
        pod = one.member.pod
        if by is not None:
            if by.holds(pod):
                _sent_to(fleet, one, resource, sums)
            continue
        if not resource.holds(pod):
            continue
        total = sums.setdefault(resource.group(pod), Sum())
        total.saw(one)
        for flow, tally in one.flows.items():
            wanted = isinstance(flow, Inbound) if to is None else _to(fleet, flow, to)
            if wanted:
                total.add(one, tally)
    plain = to is None and by is None
    return [_row(fleet, key, rows.get(key), sums[key], resource, one_sided=not plain) for key in sorted(sums)]


def _to(fleet: Fleet, flow: Flow, to: Resource) -> bool:
    return isinstance(flow, Outbound) and goes_to(fleet, flow, to)


def _sent_to(fleet: Fleet, one: Observed, resource: Resource, sums: dict[GroupKey, Sum]) -> None:
    for total in sums.values():
        total.saw(one)
    for flow, tally in one.flows.items():
        if isinstance(flow, Outbound):
            pod = destination_of(fleet, flow)
            if pod is not None and resource.holds(pod):
                total = sums.setdefault(resource.group(pod), Sum())
                total.saw(one)
                total.add(one, tally)


def _called(fleet: Fleet, observed: Iterable[Observed], resource: Resource, by: Resource | None) -> list[StatRow]:
    """Services or authorities, as their clients see them."""
    key_of: Callable[[Outbound], GroupKey] = (
        (lambda flow: ("", "Authority", flow.authority))
        if resource.kind == "Authority"
        else (lambda flow: (flow.dst_namespace, "Service", flow.dst_service))
    )
    sums: dict[GroupKey, Sum] = {}
    clients = [one for one in observed if by is None or by.holds(one.member.pod)]
    for one in clients:
        for flow, tally in one.flows.items():
            if isinstance(flow, Outbound) and goes_to(fleet, flow, resource):
                total = sums.setdefault(key_of(flow), Sum())
                total.saw(one)
                total.add(one, tally)
    rows = []
    for (namespace, kind, name), total in sorted(sums.items()):
        found = msgspec.structs.asdict(numbers(total))
        rows.append(StatRow(namespace=namespace, kind=kind, name=name, seen=len(total.seen), **found))
    return rows


def _rows(fleet: Fleet, resource: Resource) -> dict[GroupKey, list[Member]]:
    rows: dict[GroupKey, list[Member]] = {}
    for member in fleet.running():
        if resource.holds(member.pod):
            rows.setdefault(resource.group(member.pod), []).append(member)
    return rows


def _row(
    fleet: Fleet,
    key: GroupKey,
    members: list[Member] | None,
    total: Sum,
    resource: Resource,
    *,
    one_sided: bool,
) -> StatRow:
    namespace, kind, name = key
    meshed = [member for member in members or () if member.pod.meshed]
    unseen = () if one_sided else _unseen(meshed, total)
    connections = None if one_sided else _connections(meshed)
    return StatRow(
        namespace=namespace,
        kind=kind,
        name=name,
        meshed=len(meshed),
        pods=len(members or ()),
        seen=len(total.seen),
        unseen=unseen,
        tcp_conn=connections,
        **msgspec.structs.asdict(numbers(total)),
    )


def _unseen(meshed: Iterable[Member], total: Sum) -> tuple[str, ...]:
    keys = ((member.pod.namespace, member.pod.name) for member in meshed)
    return tuple(sorted(name for namespace, name in keys if (namespace, name) not in total.seen))


def _connections(meshed: Iterable[Member]) -> float | None:
    """Open connections of clients, by the proxies' last scrapes; None when none of them was scraped."""
    known = [open_connections(member.history, "inbound", "src") for member in meshed]
    counted = [count for count in known if count is not None]
    return sum(counted) if counted else None
