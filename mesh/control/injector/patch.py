"""A pod as it was asked for → the pod as it should be, or why it is left alone; and the JSON Patch between the two.

    verdict      hostNetwork, a sidecar already, disabled, not enabled, no automounted token: left alone
    injected     the pod with labels, annotations, init container, proxy, volumes
    difference   JSON Patch; lists are replaced whole, since the API server hands us the object that it patches

Everything here is plain data in, plain data out: the webhook and `gameday mesh inject --manual` share it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.api.values import Values
from mesh.control.injector.settings import OPAQUE_PORTS, Settings, settings_of
from mesh.control.injector.sidecar import INIT, PROXY, Manifest, init_container, proxy_container, volumes
from mesh.control.names import CONTROL_PLANE_NAMESPACE
from mesh.control.webhook.review import Patch, pointer

INJECT = "linkerd.io/inject"
ENABLED = ("enabled", "ingress")
CONTROL_PLANE_NS = "linkerd.io/control-plane-ns"
WORKLOAD_NS = "linkerd.io/workload-ns"
PROXY_VERSION = "linkerd.io/proxy-version"
CREATED_BY = "linkerd.io/created-by"
TRUST_ROOT_SHA256 = "linkerd.io/trust-root-sha256"
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
TEMPLATE_HASH = "pod-template-hash"
_FOREIGN_SIDECARS = ("istio-proxy", "gloo", "contour")


@dataclass(frozen=True, slots=True)
class Cluster:
    """What injection needs to know, beside the pod."""

    values: Values
    trust_anchors: str = ""
    """PEM as in the ConfigMap; its digest tells `check` which pods were injected before a rotation."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a pod is injected."""

    reason: str
    """Empty: it is. Else in Linkerd's words: host_network_enabled, sidecar_already_exists, …"""
    at: str = ""
    """Who said so: `workload`, `namespace`, or nobody."""
    ingress: bool = False


@dataclass(frozen=True, slots=True)
class Injected:
    pod: Manifest
    settings: Settings


def annotations_of(object_: Mapping[str, Any]) -> dict[str, str]:
    return dict((object_.get("metadata") or {}).get("annotations") or {})


def verdict(pod: Mapping[str, Any], namespace_annotations: Mapping[str, str]) -> Verdict:
    """Whether `pod` gets a sidecar."""
    own = annotations_of(pod).get(INJECT)
    word, at = (own, "workload") if own is not None else (namespace_annotations.get(INJECT), "namespace")
    spec = pod.get("spec") or {}
    if word is None:
        return Verdict("injection_enable_annotation_absent")
    if word == "disabled":
        return Verdict("injection_disable_annotation_present", at)
    if word not in ENABLED:
        return Verdict("injection_annotation_unknown", at)
    if spec.get("hostNetwork"):
        return Verdict("host_network_enabled", at)
    names = {container.get("name") for container in _all_containers(spec)}
    if names & {PROXY, INIT, *_FOREIGN_SIDECARS}:
        return Verdict("sidecar_already_exists", at)
    if spec.get("automountServiceAccountToken") is False:
        return Verdict("disabled_automount_service_account_token_account", at)
    return Verdict("", at, word == "ingress")


def injected(pod: Mapping[str, Any], namespace: str, of_namespace: Mapping[str, str], cluster: Cluster) -> Injected:
    """`pod` with its sidecar. `of_namespace`: the namespace's annotations. The verdict on it must have been yes."""
    result: Manifest = copy.deepcopy(dict(pod))
    metadata: Manifest = result.setdefault("metadata", {})
    spec: Manifest = result.setdefault("spec", {})
    own = annotations_of(pod)
    settings = settings_of(cluster.values, of_namespace, own)
    word = own.get(INJECT, of_namespace.get(INJECT, "enabled"))
    containers: list[Manifest] = list(spec.get("containers") or [])
    inits: list[Manifest] = list(spec.get("initContainers") or [])
    ports = declared_ports(spec) if not settings.inbound_ports else _numbers(settings.inbound_ports)
    opaque = _resolved(settings.opaque_ports, spec)
    proxy = proxy_container(settings, cluster.values, ports, opaque, ingress=word == "ingress")
    init = init_container(settings)
    if settings.native:
        # First of all, so that the pod's own init containers are meshed as well.
        inits = [init, proxy, *inits]
    else:
        inits = [*inits, init]
        # First where others wait for its postStart; else last, where `kubectl logs` does not find it by default.
        containers = [proxy, *containers] if settings.awaits else [*containers, proxy]
    spec["containers"], spec["initContainers"] = containers, inits
    spec["volumes"] = [*(spec.get("volumes") or []), *volumes()]
    annotations = {
        INJECT: word,
        PROXY_VERSION: settings.version,
        CREATED_BY: f"gameday/mesh {cluster.values.image.version}",
    }
    if cluster.trust_anchors:
        annotations[TRUST_ROOT_SHA256] = hashlib.sha256(cluster.trust_anchors.encode()).hexdigest()
    if OPAQUE_PORTS in of_namespace and OPAQUE_PORTS not in own:
        annotations[OPAQUE_PORTS] = of_namespace[OPAQUE_PORTS]
    if not settings.native and DEFAULT_CONTAINER not in own and pod.get("spec", {}).get("containers"):
        annotations[DEFAULT_CONTAINER] = pod["spec"]["containers"][0]["name"]
    metadata["annotations"] = own | annotations
    labels = {CONTROL_PLANE_NS: CONTROL_PLANE_NAMESPACE, WORKLOAD_NS: namespace}
    owner = owner_of(pod)
    if owner is not None:
        labels[f"linkerd.io/proxy-{owner[0].lower()}"] = owner[1]
    metadata["labels"] = (metadata.get("labels") or {}) | {name: text[:63] for name, text in labels.items()}
    return Injected(result, settings)


def opaque_service(service: Mapping[str, Any], of_namespace: Mapping[str, str]) -> Patch:
    """Gives a Service its namespace's opaque ports, where it says nothing of them itself."""
    ports = of_namespace.get(OPAQUE_PORTS)
    own = annotations_of(service)
    if ports is None or OPAQUE_PORTS in own:
        return []
    changed = copy.deepcopy(dict(service))
    changed.setdefault("metadata", {})["annotations"] = own | {OPAQUE_PORTS: ports}
    return difference(service, changed)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Patch:
    """JSON Patch from `before` to `after`, which lacks nothing that `before` has at metadata, spec and their fields."""
    patch: Patch = []
    for part in ("metadata", "spec"):
        old, new = before.get(part), after.get(part)
        if old == new:
            continue
        if old is None:
            patch.append({"op": "add", "path": pointer(part), "value": new})
            continue
        assert new is not None
        for name, value in new.items():
            known = old.get(name)
            if known == value:
                continue
            if part == "metadata" and known:
                patch += [
                    {"op": "add", "path": pointer(part, name, key), "value": text}
                    for key, text in value.items()
                    if known.get(key) != text
                ]
            else:
                patch.append({"op": "add", "path": pointer(part, name), "value": value})
    return patch


def owner_of(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Kind and name of the workload that the pod belongs to: a ReplicaSet's Deployment, told by the template hash that
    a Deployment writes on its pods and into the ReplicaSet's name (so that no look-up is needed)."""
    metadata = pod.get("metadata") or {}
    owner = next((one for one in metadata.get("ownerReferences") or [] if one.get("controller")), None)
    if owner is None:
        return None
    kind, name = str(owner.get("kind", "")), str(owner.get("name", ""))
    suffix = f"-{(metadata.get('labels') or {}).get(TEMPLATE_HASH, '')}"
    if kind == "ReplicaSet" and len(suffix) > 1 and name.endswith(suffix):
        return "Deployment", name.removesuffix(suffix)
    return kind, name


def declared_ports(spec: Mapping[str, Any]) -> list[int]:
    """TCP ports of the pod's own containers, native sidecars among them, in order."""
    containers = [
        *(spec.get("containers") or []),
        *(one for one in spec.get("initContainers") or [] if one.get("restartPolicy") == "Always"),
    ]
    found = {
        int(port["containerPort"])
        for container in containers
        for port in container.get("ports") or []
        if port.get("protocol", "TCP") == "TCP" and "containerPort" in port
    }
    return sorted(found)


def _all_containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]


def _numbers(ports: str) -> list[int]:
    """The ports of a list that are single ones: a range has no end of policies to watch."""
    return sorted({int(part) for part in ports.split(",") if part.isdecimal()})


def _resolved(ports: str, spec: Mapping[str, Any]) -> str:
    """Names of container ports as numbers; names that no container has are left out."""
    named = {
        port["name"]: str(port["containerPort"])
        for container in _all_containers(spec)
        for port in container.get("ports") or []
        if "name" in port and "containerPort" in port
    }
    found = [part if part.replace("-", "").isdecimal() else named.get(part, "") for part in ports.split(",") if part]
    return ",".join(filter(None, found))
