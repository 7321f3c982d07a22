"""The registry's resources by the questions that watches ask. Immutable; built anew when the registry changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mesh.api.resources import (
    AnyResource,
    AuthorizationPolicy,
    EgressNetwork,
    EndpointSlice,
    GRPCRoute,
    HTTPLocalRateLimitPolicy,
    HTTPRoute,
    MeshTLSAuthentication,
    Namespace,
    NetworkAuthentication,
    ParentRef,
    Pod,
    Server,
    ServerAuthorization,
    Service,
    ServiceProfile,
    TrafficSplit,
)
from mesh.control.translate.egress import EGRESS_GROUP
from mesh.control.translate.inbound import InboundResources

SERVICE_LABEL = "kubernetes.io/service-name"

Key = tuple[str, str]
"""Namespace and name."""
Parent = tuple[str, str, str]
"""Kind, namespace and name."""


@dataclass(slots=True)
class _Inbound:
    """The resources of one namespace that refer to its Servers."""

    servers: list[Server] = field(default_factory=list)
    server_authorizations: list[ServerAuthorization] = field(default_factory=list)
    authorization_policies: list[AuthorizationPolicy] = field(default_factory=list)
    rate_limits: list[HTTPLocalRateLimitPolicy] = field(default_factory=list)
    routes: list[HTTPRoute] = field(default_factory=list)


class Index:
    """Lookups over one state of the registry."""

    def __init__(self, resources: Iterable[AnyResource] = ()) -> None:
        self.services: dict[Key, Service] = {}
        self.pods: dict[Key, Pod] = {}
        self.namespaces: dict[str, Namespace] = {}
        self._slices: dict[Key, list[EndpointSlice]] = {}
        self._profiles: dict[tuple[str, str], ServiceProfile] = {}
        self._routes: dict[Parent, list[HTTPRoute | GRPCRoute]] = {}
        self._splits: dict[Key, TrafficSplit] = {}
        self._services_by_ip: dict[str, Service] = {}
        self._pods_by_ip: dict[str, Pod] = {}
        self.egress_networks: list[EgressNetwork] = []
        self._inbound: dict[str, _Inbound] = {}
        self._mesh_tls: dict[Key, MeshTLSAuthentication] = {}
        self._networks: dict[Key, NetworkAuthentication] = {}
        for resource in resources:
            self._add(resource)

    def _add(self, resource: AnyResource) -> None:
        meta = resource.metadata
        key = (meta.namespace, meta.name)
        match resource:
            case Service():
                self.services[key] = resource
                if resource.spec.cluster_ip not in ("", "None"):
                    self._services_by_ip[resource.spec.cluster_ip] = resource
            case Pod():
                self.pods[key] = resource
                if resource.status.pod_ip:
                    self._pods_by_ip[resource.status.pod_ip] = resource
            case Namespace():
                self.namespaces[meta.name] = resource
            case EndpointSlice():
                service = meta.labels.get(SERVICE_LABEL)
                if service is not None:
                    self._slices.setdefault((meta.namespace, service), []).append(resource)
            case ServiceProfile():
                self._profiles[meta.namespace, meta.name] = resource
            case Server():
                self._of(meta.namespace).servers.append(resource)
            case ServerAuthorization():
                self._of(meta.namespace).server_authorizations.append(resource)
            case AuthorizationPolicy():
                self._of(meta.namespace).authorization_policies.append(resource)
            case HTTPLocalRateLimitPolicy():
                self._of(meta.namespace).rate_limits.append(resource)
            case MeshTLSAuthentication():
                self._mesh_tls[key] = resource
            case NetworkAuthentication():
                self._networks[key] = resource
            case HTTPRoute():
                if any(p.kind == "Server" and p.namespace in (None, meta.namespace) for p in resource.spec.parent_refs):
                    self._of(meta.namespace).routes.append(resource)
                self._attach(resource)
            case GRPCRoute():
                self._attach(resource)
            case TrafficSplit():
                split = self._splits.setdefault((meta.namespace, resource.spec.service), resource)
                if meta.name < split.metadata.name:
                    self._splits[meta.namespace, resource.spec.service] = resource
            case EgressNetwork():
                self.egress_networks.append(resource)

    def _attach(self, route: HTTPRoute | GRPCRoute) -> None:
        for parent in route.spec.parent_refs:
            kind = parent_kind(parent)
            if kind is not None:
                key = (kind, parent.namespace or route.metadata.namespace, parent.name)
                routes = self._routes.setdefault(key, [])
                if route not in routes:
                    routes.append(route)

    def _of(self, namespace: str) -> _Inbound:
        return self._inbound.setdefault(namespace, _Inbound())

    def inbound(self, namespace: str) -> InboundResources:
        """What may say who calls the pods of a namespace."""
        own = self._inbound.get(namespace) or _Inbound()
        return InboundResources(
            servers=own.servers,
            server_authorizations=own.server_authorizations,
            authorization_policies=own.authorization_policies,
            rate_limits=own.rate_limits,
            routes=own.routes,
            mesh_tls=self._mesh_tls,
            networks=self._networks,
        )

    def slices(self, service: Key) -> list[EndpointSlice]:
        return self._slices.get(service, [])

    def profile(self, service: Key, host: str, client_namespace: str = "") -> ServiceProfile | None:
        """The profile named `host` in the client's namespace, else in the service's own."""
        own = self._profiles.get((service[0], host))
        return self._profiles.get((client_namespace, host), own) if client_namespace else own

    def split(self, service: Key) -> TrafficSplit | None:
        """The TrafficSplit of a service, the first by name where there are several."""
        return self._splits.get(service)

    def service_at(self, ip: str) -> Service | None:
        """The service with this cluster ip."""
        return self._services_by_ip.get(ip)

    def pod_at(self, ip: str) -> Pod | None:
        return self._pods_by_ip.get(ip)

    def http_routes(self, parent: Key, port: int, client_namespace: str = "", kind: str = "Service") -> list[HTTPRoute]:
        """HTTPRoutes that name `parent`, with this port or without any.

        Those of the parent's own namespace speak for all clients (producer routes), any other for the clients of the
        namespace that it is in (consumer routes); where a client has both, precedence decides among them as among any.
        """
        found = self._attached((kind, *parent), port, client_namespace)
        return [route for route in found if isinstance(route, HTTPRoute)]

    def grpc_routes(self, parent: Key, port: int, client_namespace: str = "", kind: str = "Service") -> list[GRPCRoute]:
        """As `http_routes`."""
        found = self._attached((kind, *parent), port, client_namespace)
        return [route for route in found if isinstance(route, GRPCRoute)]

    def _attached(self, parent: Parent, port: int, client_namespace: str) -> list[HTTPRoute | GRPCRoute]:
        kind, namespace, name = parent
        return [
            route
            for route in self._routes.get(parent, ())
            if route.metadata.namespace in (namespace, client_namespace)
            and any(
                parent_kind(ref) == kind
                and ref.name == name
                and (ref.namespace or route.metadata.namespace) == namespace
                and ref.port in (None, port)
                for ref in route.spec.parent_refs
            )
        ]


def parent_kind(parent: ParentRef) -> str | None:
    """`Service` or `EgressNetwork`; None for a parent that says nothing of outbound requests."""
    if parent.kind == "Service" and parent.group in ("core", ""):
        return "Service"
    if parent.kind == "EgressNetwork" and parent.group == EGRESS_GROUP:
        return "EgressNetwork"
    return None
