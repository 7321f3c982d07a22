"""Our custom resources (and those of others that we read) as lightkube classes, for CLI, runner and tests.

    client.list(Server, namespace="shop"); client.apply(ServiceProfile.from_dict(manifest), field_manager="gameday")

Objects are dictionaries with attribute access at the top level (`lightkube.generic_resource`); the control plane itself
reads them as `mesh.api.resources` structs. HTTPRoute exists in two groups, so its name says which.
"""

from __future__ import annotations

from lightkube.generic_resource import GenericNamespacedResource, create_namespaced_resource

from mesh.kube import kinds
from mesh.kube.kinds import Kind

NamespacedClass = type[GenericNamespacedResource]


def resource_class(kind: Kind) -> NamespacedClass:
    """The lightkube class of a namespaced custom resource; the same one for the same kind."""
    return create_namespaced_resource(kind.group, kind.version, kind.name, kind.plural)


ServiceProfile: NamespacedClass = resource_class(kinds.SERVICE_PROFILE)
TrafficSplit: NamespacedClass = resource_class(kinds.TRAFFIC_SPLIT)
ExternalWorkload: NamespacedClass = resource_class(kinds.EXTERNAL_WORKLOAD)
Server: NamespacedClass = resource_class(kinds.SERVER)
ServerAuthorization: NamespacedClass = resource_class(kinds.SERVER_AUTHORIZATION)
AuthorizationPolicy: NamespacedClass = resource_class(kinds.AUTHORIZATION_POLICY)
MeshTLSAuthentication: NamespacedClass = resource_class(kinds.MESH_TLS_AUTHENTICATION)
NetworkAuthentication: NamespacedClass = resource_class(kinds.NETWORK_AUTHENTICATION)
HTTPLocalRateLimitPolicy: NamespacedClass = resource_class(kinds.RATE_LIMIT_POLICY)
EgressNetwork: NamespacedClass = resource_class(kinds.EGRESS_NETWORK)
PolicyHTTPRoute: NamespacedClass = resource_class(kinds.POLICY_HTTP_ROUTE)
GatewayHTTPRoute: NamespacedClass = resource_class(kinds.GATEWAY_HTTP_ROUTE)
GRPCRoute: NamespacedClass = resource_class(kinds.GRPC_ROUTE)

CUSTOM_RESOURCES: tuple[NamespacedClass, ...] = (
    ServiceProfile,
    ExternalWorkload,
    Server,
    ServerAuthorization,
    AuthorizationPolicy,
    MeshTLSAuthentication,
    NetworkAuthentication,
    HTTPLocalRateLimitPolicy,
    EgressNetwork,
    PolicyHTTPRoute,
)
"""Those that an install of the mesh brings."""
