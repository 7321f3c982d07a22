"""Objects as the API server sends them → the resources that discovery works with.

They are decoded straight into `mesh.api.resources`, so that what the mesh does not read (statuses, managed fields) is
never kept, and a change of it is no change. Three things are different from a user's manifest:

- the API server writes `null` where a manifest leaves a field out: read again without them where the quick way fails;
- annotations that are not the mesh's are dropped: they are the bulk of an object, and some change all the time;
- a pod counts as meshed by what the injector leaves on it, label and annotation both; a finished pod's address may
  already be another's, and a pod on the host's network shares its node's.

What admission would have refused (it may have been down) is refused here: the object keeps its last good state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec
from msgspec.structs import replace

from mesh.api.resources import AnyResource, EndpointSlice, ExternalWorkload, Metadata, Pod, PodStatus, Service
from mesh.control.endpoints import PROXY_VERSION
from mesh.control.registry.lint import problems_of
from mesh.control.registry.manifests import field_text, plain_message
from mesh.kube.store import Unreadable

CONTROL_PLANE_NS = "linkerd.io/control-plane-ns"
"""Label of what belongs to a mesh: its value is the namespace of the control plane."""
OURS = ("linkerd.io/", "gameday.dev/")
FINISHED = ("Succeeded", "Failed")

R = TypeVar("R", bound="AnyResource | ExternalWorkload")


def resource_reader(type_: type[R]) -> Callable[[bytes], R | None]:
    """Reads objects of one kind. The reader raises Unreadable."""
    decoder = msgspec.json.Decoder(type_)

    def read(raw: bytes) -> R | None:
        try:
            found = decoder.decode(raw)
        except msgspec.ValidationError:
            found = _tolerant(raw, type_)
        found = replace(found, metadata=_trimmed(found.metadata))
        if isinstance(found, Pod):
            return cast(R, _pod(found, msgspec.json.decode(raw, type=_Pod)))
        if isinstance(found, EndpointSlice) and not _has_addresses(raw):
            return None
        if not isinstance(found, (ExternalWorkload, Service, EndpointSlice)):
            for problem in problems_of(found):
                if problem.fatal:
                    raise Unreadable(f"{field_text(problem.path)}: {problem.message}")
        return found

    return read


def _tolerant(raw: bytes, type_: type[R]) -> R:
    value = without_nulls(msgspec.json.decode(raw))
    if type_ is Service:
        value.setdefault("spec", {}).setdefault("ports", [])
    if type_ is EndpointSlice:
        value.setdefault("endpoints", [])
        value["ports"] = [port for port in value.get("ports", []) if "port" in port]  # without: all ports
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise Unreadable(plain_message(str(error))) from None


def without_nulls(value: Any) -> Any:
    """JSON without the fields that are `null`."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _trimmed(metadata: Metadata) -> Metadata:
    kept = {name: value for name, value in metadata.annotations.items() if any(part in name for part in OURS)}
    return replace(metadata, annotations=kept)


class _PodSpec(msgspec.Struct, rename="camel"):
    host_network: bool = False


class _PodStatus(msgspec.Struct):
    phase: str = ""


class _Pod(msgspec.Struct):
    """What decides whether a pod's address is its own."""

    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


def _pod(pod: Pod, seen: _Pod) -> Pod:
    if seen.status.phase in FINISHED or seen.spec.host_network:
        pod = replace(pod, status=PodStatus())
    if PROXY_VERSION in pod.metadata.annotations and CONTROL_PLANE_NS not in pod.metadata.labels:
        kept = {name: value for name, value in pod.metadata.annotations.items() if name != PROXY_VERSION}
        pod = replace(pod, metadata=replace(pod.metadata, annotations=kept))
    return pod


class _Slice(msgspec.Struct, rename="camel"):
    address_type: str = "IPv4"


def _has_addresses(raw: bytes) -> bool:
    return msgspec.json.decode(raw, type=_Slice).address_type in ("IPv4", "IPv6")
