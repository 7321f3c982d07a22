"""The kinds of objects that the mesh reads or writes, and where the API server has them.

Plain data, so that the control plane's informers need neither lightkube's classes nor their models (15 MB of memory
in each component). `resources.py` makes lightkube classes for the same table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind at one version of its API."""

    group: str
    """Empty for the core group."""
    version: str
    name: str
    """As in a manifest's `kind`."""
    plural: str
    """As in the URL."""
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As in a manifest's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of all objects, of those in a namespace, of one, or of one's subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if namespace is not None and self.namespaced:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACE = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
SERVICE = Kind("", "v1", "Service", "services")
POD = Kind("", "v1", "Pod", "pods")
SECRET = Kind("", "v1", "Secret", "secrets")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
EVENT = Kind("", "v1", "Event", "events")
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
TOKEN_REVIEW = Kind("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", namespaced=False)

SERVICE_PROFILE = Kind("linkerd.io", "v1alpha2", "ServiceProfile", "serviceprofiles")
TRAFFIC_SPLIT = Kind("split.smi-spec.io", "v1alpha2", "TrafficSplit", "trafficsplits")
EXTERNAL_WORKLOAD = Kind("workload.linkerd.io", "v1beta1", "ExternalWorkload", "externalworkloads")

POLICY_GROUP = "policy.linkerd.io"
SERVER = Kind(POLICY_GROUP, "v1beta3", "Server", "servers")
SERVER_AUTHORIZATION = Kind(POLICY_GROUP, "v1beta1", "ServerAuthorization", "serverauthorizations")
AUTHORIZATION_POLICY = Kind(POLICY_GROUP, "v1alpha1", "AuthorizationPolicy", "authorizationpolicies")
MESH_TLS_AUTHENTICATION = Kind(POLICY_GROUP, "v1alpha1", "MeshTLSAuthentication", "meshtlsauthentications")
NETWORK_AUTHENTICATION = Kind(POLICY_GROUP, "v1alpha1", "NetworkAuthentication", "networkauthentications")
RATE_LIMIT_POLICY = Kind(POLICY_GROUP, "v1alpha1", "HTTPLocalRateLimitPolicy", "httplocalratelimitpolicies")
EGRESS_NETWORK = Kind(POLICY_GROUP, "v1alpha1", "EgressNetwork", "egressnetworks")
POLICY_HTTP_ROUTE = Kind(POLICY_GROUP, "v1beta3", "HTTPRoute", "httproutes")

GATEWAY_GROUP = "gateway.networking.k8s.io"
GATEWAY_HTTP_ROUTE = Kind(GATEWAY_GROUP, "v1", "HTTPRoute", "httproutes")
GRPC_ROUTE = Kind(GATEWAY_GROUP, "v1", "GRPCRoute", "grpcroutes")

CORE_KINDS = (NAMESPACE, SERVICE, POD, ENDPOINT_SLICE)
"""What discovery reads and every cluster has."""
MESH_KINDS = (
    SERVICE_PROFILE,
    EXTERNAL_WORKLOAD,
    SERVER,
    SERVER_AUTHORIZATION,
    AUTHORIZATION_POLICY,
    MESH_TLS_AUTHENTICATION,
    NETWORK_AUTHENTICATION,
    RATE_LIMIT_POLICY,
    EGRESS_NETWORK,
    POLICY_HTTP_ROUTE,
)
"""Custom resources that an install of the mesh brings."""
FOREIGN_KINDS = (GATEWAY_HTTP_ROUTE, GRPC_ROUTE, TRAFFIC_SPLIT)
"""Custom resources that others bring, if at all."""
