"""Injection of manifests, before any cluster sees them: annotated for the injector, written out, or taken out again.

The pod of a workload is its template (a CronJob's is two levels deep). The same functions decide and build as in the
webhook, so a manifest that was injected by hand is what the webhook would have made of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.control.injector.patch import (
    CONTROL_PLANE_NS,
    CREATED_BY,
    DEFAULT_CONTAINER,
    INJECT,
    PROXY_VERSION,
    TRUST_ROOT_SHA256,
    WORKLOAD_NS,
    Cluster,
    injected,
    verdict,
)
from mesh.control.injector.sidecar import INIT, PROXY, VOLUMES, Manifest

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where the pod of a workload is."""
_OURS = (INJECT, PROXY_VERSION, CREATED_BY, TRUST_ROOT_SHA256)
_SAID = {
    "injection_disable_annotation_present": 'annotated "linkerd.io/inject: disabled"',
    "host_network_enabled": "hostNetwork: true; its traffic cannot be redirected",
    "sidecar_already_exists": "it has a sidecar already",
    "disabled_automount_service_account_token_account": "automountServiceAccountToken: false",
    "injection_annotation_unknown": "linkerd.io/inject is none of enabled, disabled, ingress",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One object, afterwards."""

    object: Any
    kind: str
    """In lower case, as kubectl names it; empty where there is none."""
    name: str
    changed: bool = False
    skipped: str = ""
    """Why it was left alone, where it might have been changed."""
    warnings: tuple[str, ...] = field(default=())


def annotate(object_: Mapping[str, Any], word: str, extra: Mapping[str, str]) -> Outcome:
    """`object_` so that the injector injects its pods (a Namespace: those in it). `word`: enabled or ingress."""
    result, pod = _with_pod(object_)
    target = result if object_.get("kind") == "Namespace" else pod
    if target is None:
        return _outcome(object_, result)
    if pod is not None:
        found = verdict(_annotated(pod, {INJECT: word}) if not _said(pod) else pod, {})
        if found.reason:
            return _outcome(object_, result, skipped=_SAID.get(found.reason, found.reason))
    _merge(target, {INJECT: word, **extra})
    return _outcome(object_, result, changed=True)


def write_in(object_: Mapping[str, Any], word: str, extra: Mapping[str, str], cluster: Cluster) -> Outcome:
    """`object_` with the sidecar in its pod."""
    result, pod = _with_pod(object_)
    if pod is None:
        return _outcome(object_, result)
    if not _said(pod):
        _merge(pod, {INJECT: word})
    _merge(pod, extra)
    found = verdict(pod, {})
    if found.reason:
        return _outcome(object_, dict(object_), skipped=_SAID.get(found.reason, found.reason))
    namespace = (object_.get("metadata") or {}).get("namespace") or "default"
    made = injected(pod, namespace, {}, cluster)
    pod.clear()
    pod.update(made.pod)
    kind, name = _names(object_)
    pod["metadata"]["labels"][f"linkerd.io/proxy-{kind}"] = name[:63]
    return _outcome(object_, result, changed=True, warnings=made.settings.warnings)


def take_out(object_: Mapping[str, Any]) -> Outcome:
    """`object_` without sidecar, and without what asks for one."""
    result, pod = _with_pod(object_)
    before = copy.deepcopy(result)
    for target in (result, pod):
        if target is not None:
            _clean_metadata(target)
    if pod is not None:
        _clean_spec(pod.get("spec") or {})
    return _outcome(object_, result, changed=result != before)


# ---- inside


def _with_pod(object_: Mapping[str, Any]) -> tuple[Manifest, Manifest | None]:
    """A copy, and its pod in it: what has metadata and spec of a pod. None where there is none."""
    result: Manifest = copy.deepcopy(dict(object_))
    path = _TEMPLATES.get(str(object_.get("kind", "")))
    if path is None:
        return result, None
    pod = result
    for step in path:
        found = pod.get(step)
        if not isinstance(found, dict):
            return result, None
        pod = found
    return result, pod if isinstance(pod.get("spec"), dict) else None


def _said(pod: Mapping[str, Any]) -> bool:
    return INJECT in ((pod.get("metadata") or {}).get("annotations") or {})


def _annotated(pod: Mapping[str, Any], annotations: Mapping[str, str]) -> Manifest:
    result = copy.deepcopy(dict(pod))
    _merge(result, annotations)
    return result


def _merge(target: Manifest, annotations: Mapping[str, str]) -> None:
    metadata = target.get("metadata") or {}
    metadata["annotations"] = (metadata.get("annotations") or {}) | dict(annotations)
    target["metadata"] = metadata


def _clean_metadata(target: Manifest) -> None:
    metadata = target.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    injected_by_hand = PROXY_VERSION in annotations
    for name in (*_OURS, *((DEFAULT_CONTAINER,) if injected_by_hand else ())):
        annotations.pop(name, None)
    labels = metadata.get("labels") or {}
    for name in [name for name in labels if name in (CONTROL_PLANE_NS, WORKLOAD_NS) or _is_owner_label(name)]:
        del labels[name]
    for name, left in (("annotations", annotations), ("labels", labels)):
        if name in metadata and not left:
            del metadata[name]


def _is_owner_label(name: str) -> bool:
    return name.startswith("linkerd.io/proxy-")


def _clean_spec(spec: Manifest) -> None:
    for name, ours in (("initContainers", (INIT, PROXY)), ("containers", (PROXY,)), ("volumes", VOLUMES)):
        if not isinstance(spec.get(name), list):
            continue
        spec[name] = [one for one in spec[name] if one.get("name") not in ours]
        if not spec[name] and name != "containers":
            del spec[name]


def _names(object_: Mapping[str, Any]) -> tuple[str, str]:
    metadata = object_.get("metadata") or {}
    return str(object_.get("kind", "")).lower(), str(metadata.get("name") or metadata.get("generateName") or "")


def _outcome(
    object_: Mapping[str, Any],
    result: Manifest,
    *,
    changed: bool = False,
    skipped: str = "",
    warnings: tuple[str, ...] = (),
) -> Outcome:
    kind, name = _names(object_)
    if not kind:
        skipped = 'document missing "kind" field'
    return Outcome(result, kind, name, changed and not skipped, skipped, warnings)
