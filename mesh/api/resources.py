"""Kubernetes resources as users write them, as far as this mesh reads them.

The same manifests serve all worlds. Fields of a known kind that the mesh does not read yet are accepted and left alone,
as Kubernetes clients do; unknown *kinds* are for the registry to judge.
"""

from __future__ import annotations

import msgspec


class Resource(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base: camelCase on the wire."""


class Metadata(Resource, frozen=True, kw_only=True):
    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


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


class PodSpec(Resource, frozen=True, kw_only=True):
    service_account_name: str = "default"


class PodStatus(Resource, frozen=True, kw_only=True):
    pod_ip: str = msgspec.field(name="podIP", default="")


class Pod(Resource, frozen=True, kw_only=True, tag_field="kind", tag="Pod"):
    """What discovery needs of a pod: whose identity it carries and where its inbound proxy listens.

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
    status: StatusRange = StatusRange()


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


class ServiceProfileSpec(Resource, frozen=True, kw_only=True):
    routes: tuple[ServiceProfileRoute, ...] = ()
    retry_budget: RetryBudget | None = None


class ServiceProfile(Resource, frozen=True, kw_only=True, tag_field="kind", tag="ServiceProfile"):
    """linkerd.io/v1alpha2; its name is the authority it speaks of, without the port."""

    metadata: Metadata
    spec: ServiceProfileSpec


class PathMatch(Resource, frozen=True, kw_only=True):
    type: str = "PathPrefix"
    value: str = "/"


class RouteMatch(Resource, frozen=True, kw_only=True):
    path: PathMatch | None = None
    method: str | None = None


class RouteTimeouts(Resource, frozen=True, kw_only=True):
    request: str | None = None
    backend_request: str | None = None


class RouteRule(Resource, frozen=True, kw_only=True):
    matches: tuple[RouteMatch, ...] = ()
    timeouts: RouteTimeouts = RouteTimeouts()


class ParentRef(Resource, frozen=True, kw_only=True):
    name: str
    kind: str = "Service"
    group: str = "core"
    namespace: str | None = None
    port: int | None = None


class HTTPRouteSpec(Resource, frozen=True, kw_only=True):
    parent_refs: tuple[ParentRef, ...]
    rules: tuple[RouteRule, ...] = (RouteRule(),)


class HTTPRoute(Resource, frozen=True, kw_only=True, tag_field="kind", tag="HTTPRoute"):
    """policy.linkerd.io/v1beta3 or gateway.networking.k8s.io/v1, with a Service as parent."""

    metadata: Metadata
    spec: HTTPRouteSpec


AnyResource = Namespace | Service | EndpointSlice | Pod | ServiceProfile | HTTPRoute
