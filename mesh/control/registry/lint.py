"""What is wrong with a resource beyond its shape.

`fatal` problems are those that Kubernetes' admission (CRD schemas, Linkerd's validating webhooks) refuses: such a
resource never reaches a control plane. The others it accepts and Linkerd's controllers then ignore with a log line;
before a run they are errors as well, since a retry annotation that is silently off makes the drill a lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.api.resources import (
    AnyResource,
    AuthorizationPolicy,
    EgressNetwork,
    EndpointSlice,
    GRPCRoute,
    HTTPLocalRateLimitPolicy,
    HTTPRoute,
    MeshTLSAuthentication,
    Metadata,
    Namespace,
    NetworkAuthentication,
    Pod,
    Server,
    ServerAuthorization,
    Service,
    ServiceProfile,
    ServiceSpec,
    TrafficSplit,
)
from mesh.control.names import is_dns_name, is_label
from mesh.control.registry.lint_inbound import inbound_problems, inbound_route_problems
from mesh.control.translate import inbound_policy_message, outbound_policy_message, profile_message
from mesh.control.translate.annotations import (
    ACCRUAL,
    KNOWN,
    ONLY_UNIFIED,
    POLICY_PREFIXES,
    RETRY_GRPC,
    RETRY_HTTP,
    RETRY_LIMIT,
    suggestion,
)
from mesh.control.translate.egress import EGRESS_GROUP, egress_problems
from mesh.control.translate.problems import FieldPath, annotation

_NO_PORTS = ServiceSpec(ports=())
PARENT_KINDS = ("Service", "Server", "EgressNetwork", "Gateway")
"""Of routes; what a Gateway does is not the mesh's."""


@dataclass(frozen=True, slots=True)
class LintProblem:
    path: FieldPath
    message: str
    fatal: bool


def problems_of(resource: AnyResource) -> list[LintProblem]:
    """Every problem of `resource` that shows without looking at other resources."""
    found = list(_metadata(resource.metadata))
    match resource:
        case Service():
            found += _ports([port.port for port in resource.spec.ports], "spec", "ports")
            found += _outbound(resource.metadata, service=resource)
            found += _policy_annotations(resource.metadata)
        case GRPCRoute():
            found += _outbound(None, grpc_route=resource)
            found += _parents(resource)
            found += _policy_annotations(resource.metadata)
        case TrafficSplit():
            found += _split(resource)
        case EgressNetwork():
            found += (LintProblem(path, message, True) for path, message in egress_problems(resource))
            found += _outbound(resource.metadata)
            found += _policy_annotations(resource.metadata)
        case HTTPRoute():
            found += _outbound(None, http_route=resource)
            found += _parents(resource)
            found += (LintProblem(path, message, True) for path, message in inbound_route_problems(resource))
            found += _policy_annotations(resource.metadata)
        case ServiceProfile():
            found += _profile(resource)
        case Pod():
            found += _inbound(resource, None)
        case Namespace():
            found += _inbound(None, resource)
        case EndpointSlice():
            found += _ports([port.port for port in resource.ports], "ports")
        case (
            Server()
            | ServerAuthorization()
            | AuthorizationPolicy()
            | MeshTLSAuthentication()
            | NetworkAuthentication()
            | HTTPLocalRateLimitPolicy()
        ):
            found += (LintProblem(path, message, True) for path, message in inbound_problems(resource))
    return found


def _metadata(metadata: Metadata) -> Iterator[LintProblem]:
    if not is_dns_name(metadata.name):
        yield LintProblem(
            ("metadata", "name"), f"{metadata.name!r} is not a name: lower-case letters, digits, '-' and '.'", True
        )
    if not is_label(metadata.namespace):
        yield LintProblem(("metadata", "namespace"), f"{metadata.namespace!r} is not a namespace name", True)


def _ports(ports: list[int], *path: str) -> Iterator[LintProblem]:
    for index, port in enumerate(ports):
        if not 1 <= port <= 65_535:
            yield LintProblem((*path, index, "port"), f"{port} is not a port (1..65535)", True)


def _profile(profile: ServiceProfile) -> list[LintProblem]:
    found: list[LintProblem] = []
    profile_message("", profile, 1, 0.0, lambda path, message: found.append(LintProblem(path, message, True)))
    if not profile.metadata.name.count(".") >= 2:
        message = f"{profile.metadata.name!r} must be the service's full name, such as cart.shop.svc.cluster.local"
        found.append(LintProblem(("metadata", "name"), message, False))
    return found


def _split(split: TrafficSplit) -> Iterator[LintProblem]:
    found: list[LintProblem] = []
    profile_message(
        "x.y.svc.cluster.local:80",
        None,
        1,
        0.0,
        traffic_split=split,
        complain_split=lambda path, message: found.append(LintProblem(path, message, True)),
    )
    yield from found
    for index, backend in enumerate(split.spec.backends):
        if not is_label(backend.service):
            message = f"{backend.service!r} is not the name of a Service"
            yield LintProblem(("spec", "backends", index, "service"), message, True)
    if not is_label(split.spec.service):
        yield LintProblem(("spec", "service"), f"{split.spec.service!r} is not the name of a Service", True)


def _parents(route: HTTPRoute | GRPCRoute) -> Iterator[LintProblem]:
    for index, parent in enumerate(route.spec.parent_refs):
        path: FieldPath = ("spec", "parentRefs", index)
        if parent.kind == "Service" and parent.group not in ("core", ""):
            yield LintProblem((*path, "group"), f"a Service's group is core, not {parent.group!r}", False)
        elif parent.kind == "EgressNetwork" and parent.group != EGRESS_GROUP:
            yield LintProblem((*path, "group"), f"an EgressNetwork's group is {EGRESS_GROUP}", False)
        elif parent.kind not in PARENT_KINDS:
            near = suggestion(parent.kind, PARENT_KINDS)
            yield LintProblem((*path, "kind"), f"the mesh knows no parent of kind {parent.kind!r}{near}", False)
        if parent.port is not None and not 1 <= parent.port <= 65_535:
            yield LintProblem((*path, "port"), f"{parent.port} is not a port (1..65535)", True)


def _outbound(
    metadata: Metadata | None,
    *,
    service: Service | None = None,
    http_route: HTTPRoute | None = None,
    grpc_route: GRPCRoute | None = None,
) -> list[LintProblem]:
    """Problems of a parent (`metadata`, and the Service where it is one) or of a route."""
    found: list[LintProblem] = []

    def complain(path: FieldPath, message: str) -> None:
        found.append(LintProblem(path, message, fatal=path[0] == "spec"))

    outbound_policy_message(
        ":0",
        service or Service(metadata=metadata or Metadata(name="parent"), spec=_NO_PORTS),
        [http_route] if http_route is not None else [],
        1,
        0.0,
        complain,
        lambda _, path, message: complain(path, message),
        grpc_routes=[grpc_route] if grpc_route is not None else [],
    )
    return found


def _inbound(pod: Pod | None, namespace: Namespace | None) -> list[LintProblem]:
    found: list[LintProblem] = []
    inbound_policy_message(
        pod, namespace, 1, 0.0, lambda path, message: found.append(LintProblem(path, message, False))
    )
    return found


def _policy_annotations(metadata: Metadata) -> Iterator[LintProblem]:
    """Misspelt names, which Linkerd cannot notice, and values that do not mean what they seem to."""
    for name in metadata.annotations:
        if name.startswith(POLICY_PREFIXES) and name not in KNOWN:
            yield LintProblem(annotation(name), "no such annotation" + suggestion(name, KNOWN), False)
    retried = next((name for name in (RETRY_HTTP, RETRY_GRPC) if name in metadata.annotations), None)
    if metadata.annotations.get(RETRY_LIMIT) == "0" and retried is not None:
        message = f"Linkerd reads a limit of 0 as 1; to switch retries off, take {retried} out"
        yield LintProblem(annotation(RETRY_LIMIT), message, False)
    if metadata.annotations.get(ACCRUAL) != "unified":
        for name in sorted(ONLY_UNIFIED & metadata.annotations.keys()):
            yield LintProblem(annotation(name), f"says nothing without {ACCRUAL}: unified", False)
