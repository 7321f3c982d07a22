"""Route, rate limit or egress network + what it refers to → its status. Plain data; no API server, no clock.

    for each parent that is the mesh's:
        Accepted      the parent exists, can be one, and no GRPCRoute took its place
        ResolvedRefs  every backend is a Service that exists (or the EgressNetwork itself)

Reasons are Linkerd's policy controller's, which are the Gateway API's where that has one. Parents of other controllers
are theirs: what they wrote stays as it is. A condition's time moves only with its status.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mesh.api.resources import BackendRef, EgressNetwork, GRPCRoute, HTTPLocalRateLimitPolicy, HTTPRoute, ParentRef
from mesh.control.registry.index import Index, Key, parent_kind

CONTROLLER = "linkerd.io/policy-controller"
POLICY_GROUP = "policy.linkerd.io"

Status = dict[str, Any]
Subject = HTTPRoute | GRPCRoute | HTTPLocalRateLimitPolicy | EgressNetwork


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    holds: bool
    reason: str
    message: str = ""


ACCEPTED = Condition("Accepted", True, "Accepted")
RESOLVED = Condition("ResolvedRefs", True, "ResolvedRefs")


def desired_status(
    subject: Subject, index: Index, known: Status, generation: int, now: str, rivals: Iterable[Subject] = ()
) -> Status | None:
    """The status to write over `known`; None where it says so already.

    `rivals`: all subjects of the same kind. `now`: RFC 3339, for conditions that turn.
    """
    if isinstance(subject, (HTTPRoute, GRPCRoute)):
        found = _route_status(subject, index, known, generation, now)
    else:
        condition = _rate_limit(subject, index, rivals) if isinstance(subject, HTTPLocalRateLimitPolicy) else ACCEPTED
        found = {**known, "conditions": _conditions([condition], known.get("conditions"), generation, now)}
        if isinstance(subject, HTTPLocalRateLimitPolicy):
            target = subject.spec.target_ref
            found["targetRef"] = {"group": target.group, "kind": target.kind, "name": target.name}
    return found if found != known else None


# ---- routes


def _route_status(route: HTTPRoute | GRPCRoute, index: Index, known: Status, generation: int, now: str) -> Status:
    entries: list[Status] = list(known.get("parents") or ())
    others = [entry for entry in entries if entry.get("controllerName") != CONTROLLER]
    ours = [entry for entry in entries if entry.get("controllerName") == CONTROLLER]
    for_us: list[Status] = []
    for parent in route.spec.parent_refs:
        kind = _mesh_kind(parent)
        if kind is None:
            continue
        reference = _reference(parent)
        before = next((entry for entry in ours if entry.get("parentRef") == reference), {})
        conditions = [_accepted(route, parent, kind, index), _resolved(route, parent, index)]
        for_us.append(
            {
                "parentRef": reference,
                "controllerName": CONTROLLER,
                "conditions": _conditions(conditions, before.get("conditions"), generation, now),
            }
        )
    if not for_us and not ours:
        return known  # no parent of it is ours, and none was
    return {**known, "parents": others + for_us}


def _mesh_kind(parent: ParentRef) -> str | None:
    if parent.kind == "Server" and parent.group in (POLICY_GROUP, "core", ""):
        return "Server"
    return parent_kind(parent)


def _accepted(route: HTTPRoute | GRPCRoute, parent: ParentRef, kind: str, index: Index) -> Condition:
    key = (parent.namespace or route.metadata.namespace, parent.name)
    if kind == "Server":
        servers = index.inbound(key[0]).servers
        return ACCEPTED if any(server.metadata.name == key[1] for server in servers) else _no_parent(kind, key)
    if kind == "Service":
        service = index.services.get(key)
        if service is None:
            return _no_parent(kind, key)
        if service.spec.cluster_ip in ("", "None"):
            message = "parent service must have a ClusterIP"
            return Condition("Accepted", False, "NoMatchingParent", message)
        if parent.port is not None and all(port.port != parent.port for port in service.spec.ports):
            message = f"service {'/'.join(key)} has no port {parent.port}"
            return Condition("Accepted", False, "NoMatchingParent", message)
    elif not any((n.metadata.namespace, n.metadata.name) == key for n in index.egress_networks):
        return _no_parent(kind, key)
    if isinstance(route, HTTPRoute) and _has_grpc(route, parent, kind, key, index):
        message = "a GRPCRoute has this parent; HTTPRoutes take no part beside it"
        return Condition("Accepted", False, "RouteReasonConflicted", message)
    return ACCEPTED


def _has_grpc(route: HTTPRoute, parent: ParentRef, kind: str, key: Key, index: Index) -> bool:
    """Whether a GRPCRoute takes all that this route would get."""
    port = parent.port if parent.port is not None else -1  # one without a port is beaten by one without a port only
    return bool(index.grpc_routes(key, port, route.metadata.namespace, kind))


def _no_parent(kind: str, key: Key) -> Condition:
    return Condition("Accepted", False, "NoMatchingParent", f"no {kind} {'/'.join(key)}")


def _resolved(route: HTTPRoute | GRPCRoute, parent: ParentRef, index: Index) -> Condition:
    for rule in route.spec.rules:
        for backend in rule.backend_refs:
            condition = _backend(route, parent, backend, index)
            if condition is not None:
                return condition
    return RESOLVED


def _backend(route: HTTPRoute | GRPCRoute, parent: ParentRef, ref: BackendRef, index: Index) -> Condition | None:
    key = (ref.namespace or route.metadata.namespace, ref.name)
    if ref.kind == "Service" and ref.group in ("", "core"):
        if key in index.services:
            return None
        return Condition("ResolvedRefs", False, "BackendNotFound", f"no Service {'/'.join(key)}")
    if ref.kind == "EgressNetwork" and ref.group == POLICY_GROUP:
        if parent.kind == "EgressNetwork" and (parent.namespace or route.metadata.namespace, parent.name) == key:
            return None
        message = "an EgressNetwork can be the backend only of routes that it is the parent of"
        return Condition("ResolvedRefs", False, "EgressNetworkBackendMustBeParent", message)
    return Condition("ResolvedRefs", False, "InvalidKind", f"{ref.group or 'core'}/{ref.kind} cannot be a backend")


def _reference(parent: ParentRef) -> Status:
    found: Status = {"group": "" if parent.group == "core" else parent.group, "kind": parent.kind, "name": parent.name}
    if parent.namespace is not None:
        found["namespace"] = parent.namespace
    if parent.port is not None:
        found["port"] = parent.port
    return found


# ---- policies


def _rate_limit(policy: HTTPLocalRateLimitPolicy, index: Index, rivals: Iterable[Subject]) -> Condition:
    """Of several for one Server the oldest holds, then the first by name."""
    target, meta = policy.spec.target_ref, policy.metadata
    if not any(server.metadata.name == target.name for server in index.inbound(meta.namespace).servers):
        return Condition("Accepted", False, "NoMatchingTarget", f"no Server {meta.namespace}/{target.name}")
    same = [
        other
        for other in rivals
        if isinstance(other, HTTPLocalRateLimitPolicy)
        and other.metadata.namespace == meta.namespace
        and other.spec.target_ref.name == target.name
    ]
    first = min([*same, policy], key=_age)
    if first.metadata.name != meta.name:
        message = f"{first.metadata.name} already limits this Server"
        return Condition("Accepted", False, "RateLimitReasonAlreadyExists", message)
    return ACCEPTED


def _age(policy: HTTPLocalRateLimitPolicy) -> tuple[float, str]:
    created = policy.metadata.creation_timestamp
    return (created.timestamp() if created is not None else float("inf"), policy.metadata.name)


def _conditions(wanted: list[Condition], before: Any, generation: int, now: str) -> list[Status]:
    known = {str(condition.get("type")): condition for condition in before or ()}
    found = []
    for condition in wanted:
        status = "True" if condition.holds else "False"
        last = known.get(condition.type, {})
        found.append(
            {
                "type": condition.type,
                "status": status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": last["lastTransitionTime"] if last.get("status") == status else now,
            }
        )
    return found
