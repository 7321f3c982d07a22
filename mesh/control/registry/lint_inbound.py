"""What is wrong with a resource that says who may call: the rules of Linkerd's admission webhook, and of its CRDs.

All of them are fatal: such a resource never reaches Linkerd's policy controller. What needs other resources (a
reference that leads nowhere, two Servers for one port) shows when a policy is made, and is told there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mesh.api.resources import (
    AuthorizationPolicy,
    HTTPLocalRateLimitPolicy,
    HTTPRoute,
    InboundResource,
    LabelSelector,
    MeshTLSAuthentication,
    NetworkAuthentication,
    NetworkRef,
    Server,
    ServerAuthorization,
    TargetRef,
)
from mesh.behavior.authz import Network, parse_network
from mesh.control.names import is_dns_name, is_label
from mesh.control.translate.annotations import suggestion
from mesh.control.translate.authorizations import GROUP, Cluster, Unusable, is_kind, server_authorization
from mesh.control.translate.inbound import POLICIES, PROTOCOLS, SERVER_GROUPS
from mesh.control.translate.inbound_routes import inbound_route
from mesh.control.translate.problems import FieldPath

Found = tuple[FieldPath, str]

GATEWAY_GROUP = "gateway.networking.k8s.io"
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
_AUTHENTICATIONS = {"MeshTLSAuthentication": GROUP, "NetworkAuthentication": GROUP, "ServiceAccount": ""}
_IDENTITY = re.compile(r"(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]+(/(?!\.\.?(/|$))[A-Za-z0-9._-]+)*")
_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")


def inbound_problems(resource: InboundResource) -> Iterator[Found]:
    """Every problem of `resource` that shows without looking at other resources."""
    match resource:
        case Server():
            yield from _server(resource)
        case ServerAuthorization():
            yield from _server_authorization(resource)
        case AuthorizationPolicy():
            yield from _authorization_policy(resource)
        case MeshTLSAuthentication():
            yield from _mesh_tls(resource)
        case NetworkAuthentication():
            if not resource.spec.networks:
                yield ("spec", "networks"), "must name a network, such as {cidr: 10.0.0.0/8}"
            yield from _networks(resource.spec.networks, ("spec", "networks"))
        case HTTPLocalRateLimitPolicy():
            yield from _rate_limit(resource)


def inbound_route_problems(route: HTTPRoute) -> Iterator[Found]:
    """What a Server's HTTPRoute cannot say; nothing for a route of another parent."""
    if not any(parent.kind == "Server" for parent in route.spec.parent_refs):
        return
    for index, parent in enumerate(route.spec.parent_refs):
        path: FieldPath = ("spec", "parentRefs", index)
        if parent.kind == "Server" and parent.group not in SERVER_GROUPS:
            yield (*path, "group"), f"a Server's group is {GROUP}, not {parent.group!r}"
        elif parent.kind == "Server" and parent.namespace not in (None, route.metadata.namespace):
            yield (*path, "namespace"), "a route must be in the namespace of its Server"
    for rule_index, rule in enumerate(route.spec.rules):
        if rule.filters:
            yield (
                ("spec", "rules", rule_index, "filters"),
                "filters are not supported on a Server's route; take them out",
            )
        for match_index, match in enumerate(rule.matches):
            place: FieldPath = ("spec", "rules", rule_index, "matches", match_index)
            try:
                inbound_route(route, GROUP, "", match, (), place)
            except Unusable as error:
                yield error.path, str(error)


def _server(server: Server) -> Iterator[Found]:
    spec = server.spec
    if isinstance(spec.port, int) and not 1 <= spec.port <= 65_535:
        yield ("spec", "port"), f"{spec.port} is not a port (1..65535)"
    elif isinstance(spec.port, str) and not _PORT_NAME.fullmatch(spec.port):
        yield ("spec", "port"), f"{spec.port!r} is neither a port's number nor the name of a container's port"
    if spec.external_workload_selector is not None:
        yield ("spec", "externalWorkloadSelector"), "external workloads are not supported; select pods with podSelector"
    elif spec.pod_selector is None:
        yield ("spec",), "podSelector is missing; {} selects every pod of the namespace"
    if spec.pod_selector is not None:
        yield from _selector(spec.pod_selector, ("spec", "podSelector"))
    yield from _one_of(spec.proxy_protocol, tuple(PROTOCOLS), ("spec", "proxyProtocol"))
    if spec.access_policy is not None:
        yield from _one_of(spec.access_policy, POLICIES, ("spec", "accessPolicy"))


def _server_authorization(resource: ServerAuthorization) -> Iterator[Found]:
    server, client = resource.spec.server, resource.spec.client
    if (server.name is None) == (server.selector is None):
        yield ("spec", "server"), "needs exactly one of name and selector"
    if server.selector is not None:
        yield from _selector(server.selector, ("spec", "server", "selector"))
    path: FieldPath = ("spec", "client")
    yield from _networks(client.networks, (*path, "networks"))
    mesh_tls = client.mesh_tls
    if mesh_tls is not None:
        if client.unauthenticated:
            yield (*path, "unauthenticated"), "must not be true together with meshTLS; take one of them out"
        if mesh_tls.unauthenticated_tls and (mesh_tls.identities or mesh_tls.service_accounts):
            message = "must not be true where identities or serviceAccounts are named; take one of them out"
            yield (*path, "meshTLS", "unauthenticatedTLS"), message
        yield from _identities(mesh_tls.identities, (*path, "meshTLS", "identities"))
    try:
        server_authorization(resource, Cluster())
    except Unusable as error:
        if error.path[:3] != (*path, "networks"):  # said above
            yield error.path, str(error)


def _authorization_policy(policy: AuthorizationPolicy) -> Iterator[Found]:
    target = policy.spec.target_ref
    path: FieldPath = ("spec", "targetRef")
    targets = [("Server", GROUP), ("HTTPRoute", GROUP), ("HTTPRoute", GATEWAY_GROUP), ("Namespace", "")]
    if not any(is_kind(target, kind, group) for kind, group in targets):
        groups = [group for kind, group in targets if kind.lower() == target.kind.lower()]
        if groups:
            yield (*path, "group"), f"the group of {target.kind} is {' or '.join(map(_group, groups))}"
        else:
            known = ("Server", "Namespace", "HTTPRoute")
            message = f"{target.kind!r} cannot be a target; write {', '.join(known)}"
            yield (*path, "kind"), message + suggestion(target.kind, known)
    elif is_kind(target, "Namespace", "") and target.name != policy.metadata.namespace:
        yield (*path, "name"), f"must be the policy's own namespace, {policy.metadata.namespace}"
    elif target.namespace not in (None, "", policy.metadata.namespace):
        yield (*path, "namespace"), "a target must be in the policy's own namespace"
    identities: list[int] = []
    networks: list[int] = []
    for index, ref in enumerate(policy.spec.required_authentication_refs):
        place: FieldPath = ("spec", "requiredAuthenticationRefs", index)
        wrong = _kind_problem(ref, _AUTHENTICATIONS, place)
        if wrong is not None:
            yield wrong
        elif is_kind(ref, "NetworkAuthentication", GROUP):
            networks.append(index)
        else:
            identities.append(index)
    for indexes, kinds in (
        (identities, "MeshTLSAuthentication or ServiceAccount"),
        (networks, "NetworkAuthentication"),
    ):
        for index in indexes[1:]:
            yield ("spec", "requiredAuthenticationRefs", index), f"only one {kinds} may be required"


def _mesh_tls(resource: MeshTLSAuthentication) -> Iterator[Found]:
    spec = resource.spec
    if bool(spec.identities) == bool(spec.identity_refs):
        yield ("spec",), "needs exactly one of identities and identityRefs, and at least one client in it"
    yield from _identities(spec.identities, ("spec", "identities"))
    for index, ref in enumerate(spec.identity_refs):
        path: FieldPath = ("spec", "identityRefs", index)
        wrong = _kind_problem(ref, {"ServiceAccount": "", "Namespace": ""}, path)
        if wrong is not None:
            yield wrong
            continue
        is_namespace = is_kind(ref, "Namespace", "")
        if is_namespace and ref.namespace is not None:
            yield (*path, "namespace"), "a Namespace is in no namespace; take it out"
        if not (is_label(ref.name) if is_namespace else is_dns_name(ref.name)):
            yield (*path, "name"), f"{ref.name!r} is not the name of a {ref.kind}"


def _rate_limit(policy: HTTPLocalRateLimitPolicy) -> Iterator[Found]:
    spec = policy.spec
    wrong = _kind_problem(spec.target_ref, {"Server": GROUP}, ("spec", "targetRef"))
    if wrong is not None:
        yield wrong
    limits: list[tuple[FieldPath, int]] = [
        (("spec", name, "requestsPerSecond"), limit.requests_per_second)
        for name, limit in (("total", spec.total), ("identity", spec.identity))
        if limit is not None
    ]
    for index, override in enumerate(spec.overrides):
        limits.append((("spec", "overrides", index, "requestsPerSecond"), override.requests_per_second))
        if not override.client_refs:
            yield ("spec", "overrides", index, "clientRefs"), "must name a ServiceAccount"
        for number, ref in enumerate(override.client_refs):
            path: FieldPath = ("spec", "overrides", index, "clientRefs", number)
            wrong = _kind_problem(ref, {"ServiceAccount": ""}, path)
            if wrong is not None:
                yield wrong
    if not limits:
        yield ("spec",), "limits nothing; write total, identity or overrides"
    for path, value in limits:
        if value < 1:
            yield path, f"must be greater than 0, not {value}"
        elif spec.total is not None and value > spec.total.requests_per_second >= 1:
            yield path, f"{value} is more than total.requestsPerSecond ({spec.total.requests_per_second}) lets through"


# ---- parts


def _kind_problem(ref: TargetRef, known: dict[str, str], path: FieldPath) -> Found | None:
    for kind, group in known.items():
        if is_kind(ref, kind, group):
            return None
        if ref.kind.lower() == kind.lower():
            return (*path, "group"), f"the group of {kind} is {_group(group)}, not {ref.group!r}"
    return (*path, "kind"), f"{ref.kind!r} is not one of {', '.join(known)}" + suggestion(ref.kind, known)


def _group(group: str) -> str:
    return group or "core, or empty"


def _one_of(value: str, known: tuple[str, ...], path: FieldPath) -> Iterator[Found]:
    if value not in known:
        yield path, f"{value!r} is not one of {', '.join(known)}" + suggestion(value, known)


def _selector(selector: LabelSelector, path: FieldPath) -> Iterator[Found]:
    for index, requirement in enumerate(selector.match_expressions):
        place: FieldPath = (*path, "matchExpressions", index)
        yield from _one_of(requirement.operator, OPERATORS, (*place, "operator"))
        if requirement.operator in ("In", "NotIn") and not requirement.values:
            yield (*place, "values"), f"{requirement.operator} needs values"
        if requirement.operator in ("Exists", "DoesNotExist") and requirement.values:
            yield (*place, "values"), f"{requirement.operator} takes no values"


def _identities(identities: tuple[str, ...], path: FieldPath) -> Iterator[Found]:
    for index, identity in enumerate(identities):
        if not (_IDENTITY.fullmatch(identity) or _SPIFFE.fullmatch(identity)):
            yield (*path, index), f"{identity!r} is no identity; write a DNS name, *, *.and.a.suffix, or a SPIFFE id"


def _networks(networks: tuple[NetworkRef, ...], path: FieldPath) -> Iterator[Found]:
    for index, ref in enumerate(networks):
        network = _network(ref.cidr)
        if network is None:
            yield (*path, index, "cidr"), _no_network(ref.cidr)
        for number, text in enumerate(ref.except_):
            place: FieldPath = (*path, index, "except", number)
            hole = _network(text)
            if hole is None:
                yield place, _no_network(text)
            elif network is not None and _holds(hole, network):
                yield place, f"{text} takes out all of {ref.cidr}"
            elif network is not None and not _holds(network, hole):
                yield place, f"{text} is not within {ref.cidr}"


def _network(text: str) -> Network | None:
    try:
        return parse_network(text)
    except ValueError:
        return None


def _no_network(text: str) -> str:
    return f"{text!r} is not a network; write an address or CIDR such as 10.0.0.0/8"


def _holds(outer: Network, inner: Network) -> bool:
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]
