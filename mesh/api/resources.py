"""Kubernetes resources as users write them, as far as this mesh reads them.

The same manifests serve all worlds. Fields of a known kind that the mesh does not read yet are accepted and left alone,
as Kubernetes clients do; unknown *kinds* are for the registry to judge. It is one long list, in the order of the API
groups, without any behaviour.
"""

from __future__ import annotations

from datetime import datetime

import msgspec


class Resource(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base: camelCase on the wire."""


class Metadata(Resource, frozen=True, kw_only=True):
    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: datetime | None = None
    """Set by Kubernetes; among routes that are otherwise equal the older one wins."""


class Namespace(Resource, frozen=True, kw_only=True, tag_field="kind", tag="Namespace"):
    """Carries defaults for the pods in it, in annotations."""

    metadata: Metadata


class ServicePort(Resource, frozen=True, kw_only=True):
    port: int
    name: str = ""
    target_port: int | str | None = None
    app_protocol: str | None = None


class ServiceSpec(Resource, frozen=True, kw_only=True):
    ports: tuple[ServicePort, ...]
    selector: dict[str, str] = {}
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] = msgspec.field(name="clusterIPs", default=())
    """One of each family, `cluster_ip` among them."""


class Service(Resource, frozen=True, kw_only=True, tag_field="kind", tag="Service"):
    metadata: Metadata
    spec: ServiceSpec


class EndpointConditions(Resource, frozen=True, kw_only=True):
    ready: bool = True
    serving: bool = True
    terminating: bool = False


class ObjectReference(Resource, frozen=True, kw_only=True):
    name: str
    kind: str = "Pod"


class SliceEndpoint(Resource, frozen=True, kw_only=True):
    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    target_ref: ObjectReference | None = None


class SlicePort(Resource, frozen=True, kw_only=True):
    port: int
    name: str = ""


class EndpointSlice(Resource, frozen=True, kw_only=True, tag_field="kind", tag="EndpointSlice"):
    """discovery.k8s.io/v1; belongs to the service named by the label `kubernetes.io/service-name`."""

    metadata: Metadata
    endpoints: tuple[SliceEndpoint, ...]
    ports: tuple[SlicePort, ...]


class ContainerPort(Resource, frozen=True, kw_only=True):
    container_port: int
    name: str = ""


class HTTPGetAction(Resource, frozen=True, kw_only=True):
    port: int | str
    path: str = "/"


class Probe(Resource, frozen=True, kw_only=True):
    """One without `httpGet` does not pass the proxy's HTTP policy and says nothing here."""

    http_get: HTTPGetAction | None = None


class Container(Resource, frozen=True, kw_only=True):
    name: str = ""
    ports: tuple[ContainerPort, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None


class PodSpec(Resource, frozen=True, kw_only=True):
    service_account_name: str = "default"
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodIP(Resource, frozen=True, kw_only=True):
    ip: str = ""


class PodStatus(Resource, frozen=True, kw_only=True):
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: tuple[PodIP, ...] = msgspec.field(name="podIPs", default=())
    """One of each family, `pod_ip` among them."""


class Pod(Resource, frozen=True, kw_only=True, tag_field="kind", tag="Pod"):
    """Whose identity a pod carries, where its inbound proxy listens, its named ports, and what the kubelet probes.

    A pod is meshed when it carries the annotation `linkerd.io/proxy-version`, as injected pods do.
    """

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class PathOrMethod(Resource, frozen=True, kw_only=True):
    """A ServiceProfile request condition; `all`, `any` and `not` nest."""

    method: str | None = None
    path_regex: str | None = None
    all: tuple[PathOrMethod, ...] | None = None
    any: tuple[PathOrMethod, ...] | None = None
    not_: PathOrMethod | None = msgspec.field(name="not", default=None)


class StatusRange(Resource, frozen=True, kw_only=True):
    min: int = 100
    max: int = 599


class ResponseCondition(Resource, frozen=True, kw_only=True):
    """`all`, `any` and `not` nest."""

    status: StatusRange | None = None
    all: tuple[ResponseCondition, ...] | None = None
    any: tuple[ResponseCondition, ...] | None = None
    not_: ResponseCondition | None = msgspec.field(name="not", default=None)


class ProfileResponseClass(Resource, frozen=True, kw_only=True):
    condition: ResponseCondition
    is_failure: bool = False


class ServiceProfileRoute(Resource, frozen=True, kw_only=True):
    name: str
    condition: PathOrMethod
    is_retryable: bool = False
    timeout: str | None = None
    response_classes: tuple[ProfileResponseClass, ...] = ()


class RetryBudget(Resource, frozen=True, kw_only=True):
    retry_ratio: float
    min_retries_per_second: int
    ttl: str


class DstOverrideRef(Resource, frozen=True, kw_only=True):
    """`weight` is a Kubernetes quantity: 1, 0.5, 500m."""

    authority: str
    weight: int | float | str


class ServiceProfileSpec(Resource, frozen=True, kw_only=True):
    routes: tuple[ServiceProfileRoute, ...] = ()
    retry_budget: RetryBudget | None = None
    dst_overrides: tuple[DstOverrideRef, ...] = ()
    opaque_ports: tuple[int | str, ...] = ()


class ServiceProfile(Resource, frozen=True, kw_only=True, tag_field="kind", tag="ServiceProfile"):
    """linkerd.io/v1alpha2; its name is the authority it speaks of, without the port."""

    metadata: Metadata
    spec: ServiceProfileSpec


class PathMatch(Resource, frozen=True, kw_only=True):
    type: str = "PathPrefix"
    value: str = "/"


class FieldMatch(Resource, frozen=True, kw_only=True):
    """A header or query parameter."""

    name: str
    value: str
    type: str = "Exact"


class RouteMatch(Resource, frozen=True, kw_only=True):
    path: PathMatch | None = None
    method: str | None = None
    headers: tuple[FieldMatch, ...] = ()
    query_params: tuple[FieldMatch, ...] = ()


class HeaderValue(Resource, frozen=True, kw_only=True):
    name: str
    value: str


class HeaderModifier(Resource, frozen=True, kw_only=True):
    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifier(Resource, frozen=True, kw_only=True):
    type: str
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class RequestRedirect(Resource, frozen=True, kw_only=True):
    scheme: str | None = None
    hostname: str | None = None
    port: int | None = None
    path: PathModifier | None = None
    status_code: int = 302


class URLRewrite(Resource, frozen=True, kw_only=True):
    hostname: str | None = None
    path: PathModifier | None = None


class MirrorTarget(Resource, frozen=True, kw_only=True):
    name: str
    kind: str = "Service"
    group: str = ""
    namespace: str | None = None
    port: int | None = None


class Fraction(Resource, frozen=True, kw_only=True):
    numerator: int
    denominator: int = 100


class RequestMirror(Resource, frozen=True, kw_only=True):
    """`percent` or `fraction` of the requests; all of them where neither is given."""

    backend_ref: MirrorTarget
    percent: int | None = None
    fraction: Fraction | None = None


class FailureInjector(Resource, frozen=True, kw_only=True):
    """In Linkerd only its own controller can send one; here a route may hold it."""

    status: int
    ratio: Fraction | None = None


class RouteFilter(Resource, frozen=True, kw_only=True):
    type: str
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: URLRewrite | None = None
    request_mirror: RequestMirror | None = None
    http_failure_injector: FailureInjector | None = None


class BackendRef(Resource, frozen=True, kw_only=True):
    name: str
    kind: str = "Service"
    group: str = ""
    namespace: str | None = None
    port: int | None = None
    weight: int = 1
    filters: tuple[RouteFilter, ...] = ()


class RouteTimeouts(Resource, frozen=True, kw_only=True):
    request: str | None = None
    backend_request: str | None = None


class RouteRule(Resource, frozen=True, kw_only=True):
    matches: tuple[RouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: RouteTimeouts = RouteTimeouts()


class ParentRef(Resource, frozen=True, kw_only=True):
    name: str
    kind: str = "Service"
    group: str = "core"
    namespace: str | None = None
    port: int | None = None


class HTTPRouteSpec(Resource, frozen=True, kw_only=True):
    parent_refs: tuple[ParentRef, ...]
    hostnames: tuple[str, ...] = ()
    rules: tuple[RouteRule, ...] = (RouteRule(),)


class HTTPRoute(Resource, frozen=True, kw_only=True, tag_field="kind", tag="HTTPRoute"):
    """policy.linkerd.io/v1beta3 or gateway.networking.k8s.io/v1, with a Service (outbound) or a Server (inbound) as
    parent."""

    api_version: str = ""
    metadata: Metadata
    spec: HTTPRouteSpec


class GRPCMethodMatch(Resource, frozen=True, kw_only=True):
    """One without a service, or without a method, matches any."""

    type: str = "Exact"
    service: str | None = None
    method: str | None = None


class GRPCRouteMatch(Resource, frozen=True, kw_only=True):
    method: GRPCMethodMatch | None = None
    headers: tuple[FieldMatch, ...] = ()


class GRPCRouteRule(Resource, frozen=True, kw_only=True):
    matches: tuple[GRPCRouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()


class GRPCRouteSpec(Resource, frozen=True, kw_only=True):
    parent_refs: tuple[ParentRef, ...]
    hostnames: tuple[str, ...] = ()
    rules: tuple[GRPCRouteRule, ...] = (GRPCRouteRule(),)


class GRPCRoute(Resource, frozen=True, kw_only=True, tag_field="kind", tag="GRPCRoute"):
    """gateway.networking.k8s.io/v1, with a Service as parent."""

    metadata: Metadata
    spec: GRPCRouteSpec


class SplitBackend(Resource, frozen=True, kw_only=True):
    """`weight` is a whole number (v1alpha2) or a Kubernetes quantity such as 500m (v1alpha1)."""

    service: str
    weight: int | float | str = 0


class TrafficSplitSpec(Resource, frozen=True, kw_only=True):
    service: str
    backends: tuple[SplitBackend, ...]


class TrafficSplit(Resource, frozen=True, kw_only=True, tag_field="kind", tag="TrafficSplit"):
    """split.smi-spec.io/v1alpha1 and v1alpha2: read as a ServiceProfile's dstOverrides, as linkerd-smi does."""

    metadata: Metadata
    spec: TrafficSplitSpec


class LabelRequirement(Resource, frozen=True, kw_only=True):
    key: str
    operator: str
    """In, NotIn, Exists or DoesNotExist."""
    values: tuple[str, ...] = ()


class LabelSelector(Resource, frozen=True, kw_only=True):
    """Empty selects everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelRequirement, ...] = ()


class ServerSpec(Resource, frozen=True, kw_only=True):
    port: int | str
    """Number, or name of a container's port."""
    pod_selector: LabelSelector | None = None
    external_workload_selector: LabelSelector | None = None
    proxy_protocol: str = "unknown"
    access_policy: str | None = None


class Server(Resource, frozen=True, kw_only=True, tag_field="kind", tag="Server"):
    """policy.linkerd.io/v1beta3 (v1beta1 and v1beta2 read the same): one port of the pods it selects in its namespace.

    A port with a Server is closed but for those whom an authorization, or its `accessPolicy`, lets in.
    """

    metadata: Metadata
    spec: ServerSpec


class NetworkRef(Resource, frozen=True, kw_only=True):
    cidr: str
    except_: tuple[str, ...] = msgspec.field(name="except", default=())


class ServiceAccountRef(Resource, frozen=True, kw_only=True):
    name: str
    namespace: str | None = None


class MeshTLSClient(Resource, frozen=True, kw_only=True):
    unauthenticated_tls: bool = msgspec.field(name="unauthenticatedTLS", default=False)
    identities: tuple[str, ...] = ()
    service_accounts: tuple[ServiceAccountRef, ...] = ()


class AuthorizedClient(Resource, frozen=True, kw_only=True):
    """Without networks: the cluster's."""

    networks: tuple[NetworkRef, ...] = ()
    unauthenticated: bool = False
    mesh_tls: MeshTLSClient | None = msgspec.field(name="meshTLS", default=None)


class ServerSelector(Resource, frozen=True, kw_only=True):
    """By name or by the Servers' labels."""

    name: str | None = None
    selector: LabelSelector | None = None


class ServerAuthorizationSpec(Resource, frozen=True, kw_only=True):
    server: ServerSelector
    client: AuthorizedClient


class ServerAuthorization(Resource, frozen=True, kw_only=True, tag_field="kind", tag="ServerAuthorization"):
    """policy.linkerd.io/v1beta1: lets clients in to Servers of its namespace; the older form of AuthorizationPolicy."""

    metadata: Metadata
    spec: ServerAuthorizationSpec


class TargetRef(Resource, frozen=True, kw_only=True):
    """A resource of another kind; without namespace that of the referring one."""

    kind: str
    name: str
    group: str = ""
    namespace: str | None = None


class AuthorizationPolicySpec(Resource, frozen=True, kw_only=True):
    target_ref: TargetRef
    required_authentication_refs: tuple[TargetRef, ...] = ()


class AuthorizationPolicy(Resource, frozen=True, kw_only=True, tag_field="kind", tag="AuthorizationPolicy"):
    """policy.linkerd.io/v1alpha1: lets clients in that have all required authentications, to a Server, an HTTPRoute or
    every Server of the namespace."""

    metadata: Metadata
    spec: AuthorizationPolicySpec


class MeshTLSAuthenticationSpec(Resource, frozen=True, kw_only=True):
    identities: tuple[str, ...] = ()
    identity_refs: tuple[TargetRef, ...] = ()


class MeshTLSAuthentication(Resource, frozen=True, kw_only=True, tag_field="kind", tag="MeshTLSAuthentication"):
    """policy.linkerd.io/v1alpha1: clients by identity."""

    metadata: Metadata
    spec: MeshTLSAuthenticationSpec


class NetworkAuthenticationSpec(Resource, frozen=True, kw_only=True):
    networks: tuple[NetworkRef, ...]


class NetworkAuthentication(Resource, frozen=True, kw_only=True, tag_field="kind", tag="NetworkAuthentication"):
    """policy.linkerd.io/v1alpha1: clients by address."""

    metadata: Metadata
    spec: NetworkAuthenticationSpec


class EgressNetworkSpec(Resource, frozen=True, kw_only=True):
    """Without networks: all that are not the cluster's."""

    traffic_policy: str
    networks: tuple[NetworkRef, ...] = ()


class EgressNetwork(Resource, frozen=True, kw_only=True, tag_field="kind", tag="EgressNetwork"):
    """policy.linkerd.io/v1alpha1: whether clients may speak to addresses outside the cluster. One in the namespace that
    is the cluster's for this (`linkerd-egress`) speaks for all clients, any other for those of its namespace."""

    metadata: Metadata
    spec: EgressNetworkSpec


class RateLimit(Resource, frozen=True, kw_only=True):
    requests_per_second: int


class RateLimitOverrideRef(Resource, frozen=True, kw_only=True):
    requests_per_second: int
    client_refs: tuple[TargetRef, ...]


class HTTPLocalRateLimitPolicySpec(Resource, frozen=True, kw_only=True):
    target_ref: TargetRef
    total: RateLimit | None = None
    identity: RateLimit | None = None
    overrides: tuple[RateLimitOverrideRef, ...] = ()


class HTTPLocalRateLimitPolicy(Resource, frozen=True, kw_only=True, tag_field="kind", tag="HTTPLocalRateLimitPolicy"):
    """policy.linkerd.io/v1alpha1: how many requests per second each pod behind a Server takes."""

    metadata: Metadata
    spec: HTTPLocalRateLimitPolicySpec


class WorkloadIP(Resource, frozen=True, kw_only=True):
    ip: str


class WorkloadMeshTLS(Resource, frozen=True, kw_only=True):
    """The identity that the workload's proxy shows, and the name under which it is asked for (SNI)."""

    identity: str
    server_name: str = ""


class ExternalWorkloadSpec(Resource, frozen=True, kw_only=True):
    mesh_tls: WorkloadMeshTLS = msgspec.field(name="meshTLS")
    ports: tuple[ServicePort, ...] = ()
    workload_ips: tuple[WorkloadIP, ...] = msgspec.field(name="workloadIPs", default=())


class WorkloadCondition(Resource, frozen=True, kw_only=True):
    type: str
    status: str


class ExternalWorkloadStatus(Resource, frozen=True, kw_only=True):
    conditions: tuple[WorkloadCondition, ...] = ()


class ExternalWorkload(Resource, frozen=True, kw_only=True, tag_field="kind", tag="ExternalWorkload"):
    """workload.linkerd.io/v1beta1: a meshed process outside of the cluster, an endpoint of the Services that select it.

    Known on Kubernetes only; it is ready while its condition `Ready` is `True`.
    """

    metadata: Metadata
    spec: ExternalWorkloadSpec
    status: ExternalWorkloadStatus = ExternalWorkloadStatus()


InboundResource = (
    Server
    | ServerAuthorization
    | AuthorizationPolicy
    | MeshTLSAuthentication
    | NetworkAuthentication
    | HTTPLocalRateLimitPolicy
)
OutboundResource = ServiceProfile | HTTPRoute | GRPCRoute | TrafficSplit | EgressNetwork
AnyResource = Namespace | Service | EndpointSlice | Pod | OutboundResource | InboundResource
