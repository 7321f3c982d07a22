"""Pod, Server and what refers to them → `InboundPolicy`: who may call one port of a workload.

    port of the pod ─► Server that selects it?  no ─► default policy: pod's annotation, namespace's, the cluster's
                              │ yes
                              ▼
    ServerAuthorization, AuthorizationPolicy for it or its namespace, then its accessPolicy   authorizations
    HTTPRoutes with it as parent, AuthorizationPolicies for those                             routes
    HTTPLocalRateLimitPolicy for it                                                           rate limit

Semantics are those of Linkerd's policy controller. A Server closes its port: without any authorization, and without an
accessPolicy, nobody gets in. An AuthorizationPolicy asks for all its authentications at once; one whose reference does
not exist grants nothing. The kubelet's HTTP probes are authorized for anyone, unless HTTPRoutes are attached to the
Server, which then speak for all its paths.

Authorizations stand in the order ServerAuthorization, AuthorizationPolicy, default, each by name, so that `audit` marks
only what would have been denied. Where several Servers select a port, the first by name has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TypeVar

from mesh.api.messages import (
    ANY_NETWORK,
    AuthorizationSpec,
    InboundPolicy,
    InboundRoute,
    NetworkSpec,
    RateLimitSpec,
)
from mesh.api.resources import (
    AnyResource,
    AuthorizationPolicy,
    Container,
    HTTPLocalRateLimitPolicy,
    HTTPRoute,
    MeshTLSAuthentication,
    Namespace,
    NetworkAuthentication,
    Pod,
    RouteMatch,
    Server,
    ServerAuthorization,
)
from mesh.behavior.authz import DEFAULT_POLICIES, default_authorizations
from mesh.control.names import identity_name
from mesh.control.translate.annotations import suggestion
from mesh.control.translate.authorizations import (
    GROUP,
    Cluster,
    Unusable,
    is_kind,
    mesh_tls_identities,
    network_specs,
    once,
    rate_limit,
    selects,
    server_authorization,
)
from mesh.control.translate.inbound_routes import inbound_route, specificity
from mesh.control.translate.problems import Complain, FieldPath, annotation, ignore_problems

DEFAULT_INBOUND_POLICY = "config.linkerd.io/default-inbound-policy"
OPAQUE_PORTS = "config.linkerd.io/opaque-ports"
REQUIRE_IDENTITY_PORTS = "config.linkerd.io/proxy-require-identity-inbound-ports"
DEFAULT_OPAQUE_PORTS = "25,587,3306,4444,5432,6379,9300,11211"
POLICIES = DEFAULT_POLICIES
SERVER_GROUPS = (GROUP, "core")
"""A parent's group; where it is left out the resource reads `core`, and its CRD would have filled in Linkerd's own."""
PROTOCOLS = {
    "unknown": "detect",
    "HTTP/1": "http1",
    "HTTP/2": "http2",
    "gRPC": "grpc",
    "opaque": "opaque",
    "TLS": "tls",
}

R = TypeVar("R", ServerAuthorization, AuthorizationPolicy, HTTPLocalRateLimitPolicy, HTTPRoute)

ComplainOf = Callable[[AnyResource, FieldPath, str], None]
"""As `Complain`, of a named resource."""


Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class InboundResources:
    """What may concern the pods of one namespace; authentications are of any namespace."""

    servers: Iterable[Server] = ()
    server_authorizations: Iterable[ServerAuthorization] = ()
    authorization_policies: Iterable[AuthorizationPolicy] = ()
    rate_limits: Iterable[HTTPLocalRateLimitPolicy] = ()
    routes: Iterable[HTTPRoute] = ()
    mesh_tls: Mapping[Key, MeshTLSAuthentication] = field(default_factory=dict)
    networks: Mapping[Key, NetworkAuthentication] = field(default_factory=dict)


def ignore_resource_problems(resource: AnyResource, path: FieldPath, message: str) -> None:
    """A `ComplainOf` for callers whose resources were already checked."""


def inbound_policy_message(
    pod: Pod | None,
    namespace: Namespace | None,
    version: int,
    published_at: float,
    complain: Complain = ignore_problems,
    *,
    port: int = 0,
    resources: InboundResources | None = None,
    cluster: Cluster | None = None,
    complain_of: ComplainOf = ignore_resource_problems,
) -> InboundPolicy:
    """The whole policy of one port of `pod`.

    A pod that the registry does not know gets the default: its proxy asks before its Pod object may have arrived.
    """
    cluster = cluster or Cluster()
    resources = resources or InboundResources()
    probes = _probe_routes(pod, port)
    server = _server(pod, port, resources.servers, complain_of) if pod is not None else None
    if server is None:
        name = _default_policy(pod, namespace, cluster, complain)
        if port in port_set(_annotation(pod, namespace, REQUIRE_IDENTITY_PORTS)):
            name = name.replace("-unauthenticated", "-authenticated")
        opaque = _annotation(pod, namespace, OPAQUE_PORTS)
        return InboundPolicy(
            version=version,
            published_at=published_at,
            server_name=name,
            protocol="opaque" if port in port_set(DEFAULT_OPAQUE_PORTS if opaque is None else opaque) else "detect",
            detect_timeout_seconds=cluster.detect_timeout,
            authorizations=default_authorizations(name, cluster.networks),
            routes=probes,
        )
    sources = _Sources(server, resources, cluster, complain_of)
    return InboundPolicy(
        version=version,
        published_at=published_at,
        server_group=GROUP,
        server_kind="server",
        server_name=server.metadata.name,
        protocol=PROTOCOLS.get(server.spec.proxy_protocol, "detect"),  # type: ignore[arg-type]
        detect_timeout_seconds=cluster.detect_timeout,
        authorizations=tuple(sources.authorizations()),
        routes=tuple(sources.routes()) or probes,
        rate_limit=sources.rate_limit(),
    )


# ---- the pod


def _annotation(pod: Pod | None, namespace: Namespace | None, name: str) -> str | None:
    for resource in (pod, namespace):
        if resource is not None and name in resource.metadata.annotations:
            return resource.metadata.annotations[name]
    return None


def _default_policy(pod: Pod | None, namespace: Namespace | None, cluster: Cluster, complain: Complain) -> str:
    for resource in (pod, namespace):
        value = resource.metadata.annotations.get(DEFAULT_INBOUND_POLICY) if resource is not None else None
        if value is None:
            continue
        if value in POLICIES:
            return value
        complain(
            annotation(DEFAULT_INBOUND_POLICY),
            f"{value!r} is not one of {', '.join(POLICIES)}" + suggestion(value, POLICIES),
        )
    return cluster.default_policy


@lru_cache(maxsize=256)
def port_set(text: str | None) -> frozenset[int]:
    """Ports and ranges (`4000-4100`) of an annotation; what is neither is passed over, as in Linkerd."""
    ports: set[int] = set()
    for part in (text or "").split(","):
        low, dash, high = part.strip().partition("-")
        if low.isdecimal() and (high.isdecimal() if dash else True):
            ports.update(range(int(low), min(int(high or low), 65_535) + 1))
    return frozenset(ports)


def _containers(pod: Pod) -> tuple[Container, ...]:
    return pod.spec.init_containers + pod.spec.containers


def _numbers(pod: Pod, port: int | str) -> set[int]:
    """What a port's number or name stands for; each container may have the name."""
    if isinstance(port, int):
        return {port}
    return {p.container_port for container in _containers(pod) for p in container.ports if p.name == port}


def _probe_routes(pod: Pod | None, port: int) -> tuple[InboundRoute, ...]:
    """Routes that let the kubelet probe, and the one for everything else; none where nothing is probed on the port."""
    if pod is None:
        return ()
    paths: set[str] = set()
    for container in _containers(pod):
        for probe in (container.liveness_probe, container.readiness_probe, container.startup_probe):
            if probe is not None and probe.http_get is not None and port in _numbers(pod, probe.http_get.port):
                path = probe.http_get.path.partition("?")[0]
                paths.add(path if path.startswith("/") else f"/{path}")
    if not paths:
        return ()
    anyone = AuthorizationSpec(kind="default", group="", name="probe", client="unauthenticated")
    probes = (
        InboundRoute(name="probe", method="GET", path_exact=path, authorizations=(anyone,)) for path in sorted(paths)
    )
    return (*probes, InboundRoute(name="default"))


def _server(pod: Pod, port: int, servers: Iterable[Server], complain_of: ComplainOf) -> Server | None:
    found: Server | None = None
    for server in sorted(servers, key=lambda s: s.metadata.name):
        spec = server.spec
        if spec.pod_selector is None or not selects(spec.pod_selector, pod.metadata.labels):
            continue
        if port not in _numbers(pod, spec.port):
            continue
        if found is not None:
            complain_of(
                server,
                ("spec", "port"),
                f"port {port} of pod {pod.metadata.name} already has Server {found.metadata.name}; select other pods",
            )
            continue
        found = server
    return found


# ---- the Server


@dataclass(frozen=True, slots=True)
class _Sources:
    """What refers to one Server."""

    server: Server
    resources: InboundResources
    cluster: Cluster
    complain_of: ComplainOf

    def authorizations(self) -> Iterable[AuthorizationSpec]:
        name = self.server.metadata.name
        for authorization in _by_name(self.resources.server_authorizations):
            wanted = authorization.spec.server
            chosen = wanted.name == name if wanted.name is not None else False
            if wanted.name is None and wanted.selector is not None:
                chosen = selects(wanted.selector, self.server.metadata.labels)
            if chosen:
                yield from self._granted(authorization, partial(server_authorization, authorization, self.cluster))
        for policy in _by_name(self.resources.authorization_policies):
            target = policy.spec.target_ref
            if is_kind(target, "Namespace", "") or (is_kind(target, "Server", GROUP) and target.name == name):
                yield from self._granted(policy, partial(self._policy, policy))
        if self.server.spec.access_policy is not None:
            yield from default_authorizations(self.server.spec.access_policy, self.cluster.networks)

    def routes(self) -> list[InboundRoute]:
        converted: list[tuple[tuple[object, ...], InboundRoute]] = []
        for route in _by_name(self.resources.routes):
            if not any(is_server_parent(p.kind, p.group, p.name, self.server) for p in route.spec.parent_refs):
                continue
            try:
                converted += self._route(route)
            except Unusable as error:
                self.complain_of(route, error.path, str(error))
        converted.sort(key=lambda entry: entry[0])
        return [route for _, route in converted]

    def rate_limit(self) -> RateLimitSpec | None:
        found: HTTPLocalRateLimitPolicy | None = None
        for policy in _by_name(self.resources.rate_limits):
            target = policy.spec.target_ref
            if not is_kind(target, "Server", GROUP) or target.name != self.server.metadata.name:
                continue
            if found is not None:
                name = found.metadata.name
                self.complain_of(policy, ("spec", "targetRef", "name"), f"the Server already has rate limit {name}")
                continue
            found = policy
        return rate_limit(found, self.cluster) if found is not None else None

    def _granted(
        self, resource: ServerAuthorization | AuthorizationPolicy, make: Callable[[], AuthorizationSpec]
    ) -> Iterable[AuthorizationSpec]:
        try:
            yield make()
        except Unusable as error:
            self.complain_of(resource, error.path, str(error))

    def _policy(self, policy: AuthorizationPolicy) -> AuthorizationSpec:
        """Raises Unusable: a reference leads nowhere."""
        identities: tuple[str, ...] | None = None
        networks: tuple[NetworkSpec, ...] = ANY_NETWORK
        for index, ref in enumerate(policy.spec.required_authentication_refs):
            path: FieldPath = ("spec", "requiredAuthenticationRefs", index)
            key = (ref.namespace or policy.metadata.namespace, ref.name)
            if is_kind(ref, "MeshTLSAuthentication", GROUP):
                found = self.resources.mesh_tls.get(key)
                if found is None:
                    near = suggestion(ref.name, [name for ns, name in self.resources.mesh_tls if ns == key[0]])
                    raise Unusable((*path, "name"), f"no MeshTLSAuthentication {'/'.join(key)}{near}")
                identities = once(identities, mesh_tls_identities(found, self.cluster), path)
            elif is_kind(ref, "ServiceAccount", ""):
                name = identity_name(ref.name, key[0], self.cluster.trust_domain)
                identities = once(identities, (name,), path)
            elif is_kind(ref, "NetworkAuthentication", GROUP):
                network = self.resources.networks.get(key)
                if network is None:
                    near = suggestion(ref.name, [name for ns, name in self.resources.networks if ns == key[0]])
                    raise Unusable((*path, "name"), f"no NetworkAuthentication {'/'.join(key)}{near}")
                networks = network_specs(network.spec.networks, ("spec", "networks"))
            else:
                raise Unusable((*path, "kind"), f"{ref.kind!r} is no kind of authentication")
        return AuthorizationSpec(
            kind="authorizationpolicy",
            name=policy.metadata.name,
            networks=networks,
            client="unauthenticated" if identities is None else "identities",
            identities=identities or (),
        )

    def _route(self, route: HTTPRoute) -> Iterable[tuple[tuple[object, ...], InboundRoute]]:
        """The route's matches, each with its sort key. Raises Unusable: the whole route is left out."""
        group = route.api_version.partition("/")[0] or GROUP
        own: list[AuthorizationSpec] = []
        for policy in _by_name(self.resources.authorization_policies):
            target = policy.spec.target_ref
            if is_kind(target, "HTTPRoute", group) and target.name == route.metadata.name:
                own += self._granted(policy, partial(self._policy, policy))
        converted: list[tuple[tuple[object, ...], InboundRoute]] = []
        for rule_index, rule in enumerate(route.spec.rules):
            for match_index, match in enumerate(rule.matches or (RouteMatch(),)):
                place: FieldPath = ("spec", "rules", rule_index, "matches", match_index)
                for host in route.spec.hostnames or ("",):
                    made = inbound_route(route, group, host, match, tuple(own), place)
                    order = (*specificity(host, match), route.metadata.name, rule_index, match_index)
                    converted.append((order, made))
        return converted


def _by_name(resources: Iterable[R]) -> list[R]:
    return sorted(resources, key=lambda resource: resource.metadata.name)


def is_server_parent(kind: str, group: str, name: str, server: Server) -> bool:
    return kind == "Server" and group in SERVER_GROUPS and name == server.metadata.name
