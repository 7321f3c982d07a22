"""The registry's resources by the questions that watches ask. Immutable; built anew when the registry changed."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.api.resources import AnyResource, EndpointSlice, HTTPRoute, Namespace, ParentRef, Pod, Service, ServiceProfile

SERVICE_LABEL = "kubernetes.io/service-name"

Key = tuple[str, str]
"""Namespace and name."""


class Index:
    """Lookups over one state of the registry."""

    def __init__(self, resources: Iterable[AnyResource] = ()) -> None:
        self.services: dict[Key, Service] = {}
        self.pods: dict[Key, Pod] = {}
        self.namespaces: dict[str, Namespace] = {}
        self._slices: dict[Key, list[EndpointSlice]] = {}
        self._profiles: dict[tuple[str, str], ServiceProfile] = {}
        self._routes: dict[Key, list[HTTPRoute]] = {}
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
            case HTTPRoute():
                for parent in resource.spec.parent_refs:
                    if is_service_parent(parent) and parent.namespace in (None, meta.namespace):
                        routes = self._routes.setdefault((meta.namespace, parent.name), [])
                        if resource not in routes:
                            routes.append(resource)

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
