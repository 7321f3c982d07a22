"""The registry's resources by the questions that watches ask. Immutable; built anew when the registry changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mesh.api.resources import (
    AnyResource,
    AuthorizationPolicy,
    EndpointSlice,
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
)
from mesh.control.translate.inbound import InboundResources

SERVICE_LABEL = "kubernetes.io/service-name"

Key = tuple[str, str]
"""Namespace and name."""


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
        self._routes: dict[Key, list[HTTPRoute]] = {}
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
            case Pod():
                self.pods[key] = resource
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
                for parent in resource.spec.parent_refs:
                    if is_service_parent(parent) and parent.namespace in (None, meta.namespace):
                        routes = self._routes.setdefault((meta.namespace, parent.name), [])
                        if resource not in routes:
                            routes.append(resource)

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

    def profile(self, service: Key, host: str) -> ServiceProfile | None:
        """The profile named `host` in the service's own namespace.

        Linkerd lets a client's namespace hold a profile of its own that wins; a watch here does not say where its
        client lives, so there is one profile for all.
        """
        return self._profiles.get((service[0], host))

    def routes(self, service: Key, port: int) -> list[HTTPRoute]:
        """HTTPRoutes of the service's namespace that name it as parent, with this port or without any.

        A route in another namespace (Linkerd's consumer route) speaks for the clients there alone and is passed over.
        """
        return [
            route
            for route in self._routes.get(service, [])
            if any(
                is_service_parent(parent) and parent.name == service[1] and parent.port in (None, port)
                for parent in route.spec.parent_refs
            )
        ]


def is_service_parent(parent: ParentRef) -> bool:
    return parent.kind == "Service" and parent.group in ("core", "")
