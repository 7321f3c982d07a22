"""Kubernetes' objects → facts: which fields say what. Pure: JSON in, values out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mesh.commands.check.facts import Component, Node, Pod, Service
from mesh.commands.check.reader import Json, seconds

PROXY = "linkerd-proxy"
PROXY_VERSION = "linkerd.io/proxy-version"
MAX_MESSAGE = 120
TRUST_ROOT = "linkerd.io/trust-root-sha256"


def node_of(node: Json, lease: Json | None) -> Node:
    """A kubelet renews its node's lease every 10 s with its own clock, and the API server notes with its own when it
    did (to the second): the two together are a clock comparison that needs nothing installed."""
    name = node["metadata"]["name"]
    spec = node.get("spec") or {}
    networks = tuple(spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else []))
    if lease is None:
        return Node(name=name, networks=networks)
    renewed = (lease.get("spec") or {}).get("renewTime")
    written = [entry["time"] for entry in lease["metadata"].get("managedFields") or [] if entry.get("time")]
    if not renewed or not written:
        return Node(name=name, networks=networks)
    return Node(name=name, networks=networks, ahead_seconds=seconds(renewed) - max(map(seconds, written)) - 0.5)


def component_of(deployment: Json) -> Component:
    status = deployment.get("status") or {}
    messages = [
        str(condition.get("message", ""))
        for condition in status.get("conditions") or []
        if condition.get("type") in ("Progressing", "ReplicaFailure")
        and (condition.get("type") == "ReplicaFailure") == (condition.get("status") == "True")
    ]
    return Component(
        name=deployment["metadata"]["name"],
        wanted=(deployment.get("spec") or {}).get("replicas", 1),
        ready=status.get("readyReplicas") or 0,
        message="; ".join(messages),
    )


def pod_of(pod: Json, image: str = "") -> Pod:
    """`image`: repository of the mesh's image, to tell which version the pod runs."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    sidecars = {c["name"] for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"}
    statuses = list(status.get("containerStatuses") or [])
    statuses += [found for found in status.get("initContainerStatuses") or [] if found["name"] in sidecars]
    named = [c["name"] for c in spec.get("containers") or []] + sorted(sidecars)
    ready = {found["name"]: bool(found.get("ready")) for found in statuses}
    annotations = metadata.get("annotations") or {}
    unschedulable = _unschedulable(status)
    return Pod(
        name=metadata["name"],
        namespace=metadata["namespace"],
        phase="Terminating" if metadata.get("deletionTimestamp") else status.get("phase", "Unknown"),
        containers={name: ready.get(name, False) for name in named},
        trouble=unschedulable or "; ".join(_troubles(status)),
        unschedulable=bool(unschedulable),
        proxy_version=annotations.get(PROXY_VERSION, ""),
        trust_root_sha256=annotations.get(TRUST_ROOT, ""),
        labels=metadata.get("labels") or {},
        annotations=annotations,
        ports={
            port["name"]: port["containerPort"]
            for container in spec.get("containers") or []
            for port in container.get("ports") or []
            if port.get("name")
        },
        image_version=_image_version(spec, image),
        ip="" if spec.get("hostNetwork") else status.get("podIP", ""),
        bypassing=_bypassing(spec, sidecars),
    )


def _bypassing(spec: Json, sidecars: set[str]) -> tuple[str, ...]:
    """A user id that only the image knows is not seen here."""
    of_pod = (spec.get("securityContext") or {}).get("runAsUser")
    running = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    users = {c["name"]: (c.get("securityContext") or {}).get("runAsUser", of_pod) for c in running}
    own = users.pop(PROXY, None)
    apps = {c["name"] for c in spec.get("containers") or []} | sidecars
    return tuple(name for name, user in users.items() if own is not None and user == own and name in apps)


def service_of(service: Json) -> Service:
    metadata, spec = service["metadata"], service.get("spec") or {}
    ip = spec.get("clusterIP") or ""
    return Service(
        name=metadata["name"],
        namespace=metadata["namespace"],
        selector=spec.get("selector") or {},
        ports={port["port"]: port.get("targetPort", port["port"]) for port in spec.get("ports") or []},
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        ip="" if ip == "None" else ip,
    )


def _unschedulable(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"Unschedulable: {condition.get('message', '')}"
    return ""


def _troubles(status: Mapping[str, Any]) -> Iterator[str]:
    """What a container waits for, or why it last ended."""
    both = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in both:
        state = container.get("state") or {}
        waiting, last = state.get("waiting"), (container.get("lastState") or {}).get("terminated")
        if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
            text = f"container {container['name']}: {waiting.get('reason')}"
            if last:
                text += f" (last exit code {last.get('exitCode')}, {last.get('reason', '')})"
            elif waiting.get("message"):
                text += f": {_short(waiting['message'])}"
            yield text
        ended = state.get("terminated")
        if ended and ended.get("exitCode"):
            yield f"container {container['name']}: ended with exit code {ended['exitCode']} ({ended.get('reason', '')})"


def _short(text: str) -> str:
    """The beginning of what a container runtime has to say: it repeats itself."""
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"


def _image_version(spec: Mapping[str, Any], image: str) -> str:
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        repository, _, tag = str(container.get("image", "")).rpartition(":")
        if image and repository.endswith(image):
            return tag
    return ""
