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
    EndpointSlice,
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
)
from mesh.control.names import is_dns_name, is_label
from mesh.control.registry.lint_inbound import inbound_problems, inbound_route_problems
from mesh.control.translate import inbound_policy_message, outbound_policy_message, profile_message
from mesh.control.translate.annotations import KNOWN, POLICY_PREFIXES, RETRY_HTTP, RETRY_LIMIT, suggestion
from mesh.control.translate.problems import FieldPath, annotation

_NO_PORTS = ServiceSpec(ports=())


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
            found += _outbound(resource, None)
            found += _policy_annotations(resource.metadata)
        case HTTPRoute():
            found += _outbound(None, resource)
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


def _parents(route: HTTPRoute) -> Iterator[LintProblem]:
    for index, parent in enumerate(route.spec.parent_refs):
        path: FieldPath = ("spec", "parentRefs", index)
        if parent.kind == "Service" and parent.namespace not in (None, route.metadata.namespace):
            message = "a route in another namespace than its Service (a consumer route) is not supported"
            yield LintProblem((*path, "namespace"), message, False)
        elif parent.kind == "Service" and parent.group not in ("core", ""):
            yield LintProblem((*path, "group"), f"a Service's group is core, not {parent.group!r}", False)


def _outbound(service: Service | None, route: HTTPRoute | None) -> list[LintProblem]:
    found: list[LintProblem] = []

    def complain(path: FieldPath, message: str) -> None:
        found.append(LintProblem(path, message, fatal=path[0] == "spec"))

    subject = service
    if subject is None and route is not None:
        subject = Service(metadata=Metadata(name=route.metadata.name), spec=_NO_PORTS)
    routes = [route] if route is not None else []
    outbound_policy_message("", subject, routes, 1, 0.0, complain, lambda _, path, message: complain(path, message))
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
    if metadata.annotations.get(RETRY_LIMIT) == "0" and RETRY_HTTP in metadata.annotations:
        message = f"Linkerd reads a limit of 0 as 1; to switch retries off, take {RETRY_HTTP} out"
        yield LintProblem(annotation(RETRY_LIMIT), message, False)
