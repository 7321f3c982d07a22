"""A resource as the API server is about to store it → what is wrong with it, field by field.

The rules are the linters' (`registry/lint.py`), so that admission, a scenario's check before a run and the running
control plane refuse the same things with the same words. What a linter calls fatal refuses the resource. The rest (a
misspelt annotation, which Linkerd ignores without a word) is admitted with a warning that kubectl shows.

Gateway API routes are shared with others: one that names no parent of the mesh is none of our business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from mesh.api import resources as api
from mesh.api.resources import AnyResource, ExternalWorkload, Server
from mesh.control.registry.lint import problems_of
from mesh.control.registry.manifests import field_text, shape_problem
from mesh.control.registry.reading import without_nulls

GATEWAY_GROUP = "gateway.networking.k8s.io"
MESH_PARENTS = ("Service", "Server", "EgressNetwork")

_TYPES: dict[tuple[str, str], type[Any]] = {
    ("linkerd.io", "ServiceProfile"): api.ServiceProfile,
    ("policy.linkerd.io", "Server"): api.Server,
    ("policy.linkerd.io", "ServerAuthorization"): api.ServerAuthorization,
    ("policy.linkerd.io", "AuthorizationPolicy"): api.AuthorizationPolicy,
    ("policy.linkerd.io", "MeshTLSAuthentication"): api.MeshTLSAuthentication,
    ("policy.linkerd.io", "NetworkAuthentication"): api.NetworkAuthentication,
    ("policy.linkerd.io", "HTTPLocalRateLimitPolicy"): api.HTTPLocalRateLimitPolicy,
    ("policy.linkerd.io", "EgressNetwork"): api.EgressNetwork,
    ("policy.linkerd.io", "HTTPRoute"): api.HTTPRoute,
    (GATEWAY_GROUP, "HTTPRoute"): api.HTTPRoute,
    (GATEWAY_GROUP, "GRPCRoute"): api.GRPCRoute,
    ("workload.linkerd.io", "ExternalWorkload"): api.ExternalWorkload,
}
"""What is looked at, by group and kind; all else is admitted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Lines of `field: reason`."""

    errors: tuple[str, ...] = ()
    """Any of them refuses the resource."""
    warnings: tuple[str, ...] = ()


class Admission:
    """Judges resources; with `servers` also against those that are stored already."""

    def __init__(self, servers: Callable[[], Iterable[Server]] = tuple) -> None:
        self._servers = servers

    def review(self, value: dict[str, Any]) -> Verdict:
        """`value`: the object of an AdmissionReview."""
        group = str(value.get("apiVersion", "")).rpartition("/")[0]
        type_ = _TYPES.get((group, str(value.get("kind", ""))))
        if type_ is None:
            return Verdict()
        cleaned = _named(without_nulls(value))
        if group == GATEWAY_GROUP and not _concerns_the_mesh(cleaned):
            return Verdict()
        try:
            resource = msgspec.convert(cleaned, type_)
        except msgspec.ValidationError as error:
            path, message = shape_problem(error, cleaned)
            return Verdict(errors=(_line(path, message),))
        return self._judge(resource)

    def validate(self, value: dict[str, Any]) -> list[str]:
        """The errors of `review`; none: the resource is admitted."""
        return list(self.review(value).errors)

    def _judge(self, resource: AnyResource | ExternalWorkload) -> Verdict:
        if isinstance(resource, ExternalWorkload):
            return Verdict(errors=tuple(_workload(resource)))
        errors: list[str] = []
        warnings: list[str] = []
        for problem in problems_of(resource):
            (errors if problem.fatal else warnings).append(_line(problem.path, problem.message))
        if isinstance(resource, Server):
            errors.extend(self._twin(resource))
        return Verdict(tuple(errors), tuple(warnings))

    def _twin(self, server: Server) -> Iterable[str]:
        """Linkerd refuses a second Server of the same pods and port: which one holds would be chance."""
        for other in self._servers():
            same_place = other.metadata.namespace == server.metadata.namespace
            if not same_place or other.metadata.name == server.metadata.name:
                continue
            if (other.spec.pod_selector, other.spec.port) == (server.spec.pod_selector, server.spec.port):
                yield f"spec: Server {other.metadata.name} already has this port of these pods; change that one"


def validate(value: dict[str, Any]) -> list[str]:
    """What is wrong with a resource by itself, as lines of `field: reason`; empty: nothing."""
    return Admission().validate(value)


def _named(value: Any) -> Any:
    """A resource that is being created may have a prefix in place of its name."""
    meta = value.get("metadata")
    if isinstance(meta, dict) and "name" not in meta and isinstance(meta.get("generateName"), str):
        return {**value, "metadata": {**meta, "name": f"{meta['generateName']}x"}}
    return value


def _concerns_the_mesh(value: Any) -> bool:
    spec = value.get("spec")
    parents = spec.get("parentRefs") if isinstance(spec, dict) else None
    refs = [ref for ref in parents if isinstance(ref, dict)] if isinstance(parents, list) else []
    return any(ref.get("kind", "Gateway") in MESH_PARENTS for ref in refs)


def _workload(workload: ExternalWorkload) -> Iterable[str]:
    if not workload.spec.mesh_tls.identity:
        yield "spec.meshTLS.identity: must not be empty"
    for index, port in enumerate(workload.spec.ports):
        if not 1 <= port.port <= 65_535:
            yield f"spec.ports[{index}].port: {port.port} is not a port (1..65535)"


def _line(path: tuple[str | int, ...], message: str) -> str:
    field = field_text(path)
    return f"{field}: {message}" if field else message
