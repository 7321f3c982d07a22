"""A pod as viz sees it: where its proxy's ports are, who it is, and which workload it belongs to.

From Kubernetes' object without asking for owners: a ReplicaSet that a Deployment made is named after it and the pod's
`pod-template-hash`, so the Deployment's name is known from the pod alone. (A CronJob's Job is named after it and the
minute; that is taken as it is written, eight digits or more.)

The same struct is what `--pods FILE` lists, so that viz also works where there is no Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

PROXY_CONTAINER = "linkerd-proxy"
ADMIN_PORT, TAP_PORT = 4191, 4190
FINISHED = ("Succeeded", "Failed")
_CRON = re.compile(r"^(?P<name>.+)-\d{8,}$")


class Pod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """One running pod."""

    namespace: str
    name: str
    kind: str = "Pod"
    """Of its workload: Deployment, StatefulSet, DaemonSet, Job, CronJob, ReplicaSet, or Pod for itself."""
    workload: str = ""
    """Its name; empty for a pod of its own."""
    ip: str = ""
    admin: str = ""
    """`host:port` of its proxy's admin server; empty: the pod is not meshed."""
    tap: str = ""
    """`host:port` where its proxy can be tapped; empty: it cannot."""
    identity: str = ""
    """TLS name of its proxy."""
    service_account: str = ""
    addresses: tuple[str, ...] = ()
    """`host:port` that belong to it, where many pods share an address (local worlds)."""

    @property
    def meshed(self) -> bool:
        return bool(self.admin)

    @property
    def owner(self) -> str:
        return self.workload or self.name


def pod_from_object(manifest: Mapping[str, Any], trust_domain: str, controller_namespace: str) -> Pod | None:
    """The pod in a Kubernetes object; None: it is over, or has no address yet."""
    metadata, spec, status = (manifest.get(part) or {} for part in ("metadata", "spec", "status"))
    ip = status.get("podIP") or ""
    if status.get("phase") in FINISHED or not ip:
        return None
    namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
    account = spec.get("serviceAccountName") or "default"
    kind, workload = owner_of(metadata)
    environment = _proxy_environment(spec)
    admin = tap = identity = ""
    if environment is not None:
        admin = _at(ip, environment.get("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", ""), ADMIN_PORT)
        identity = environment.get("LINKERD2_PROXY_IDENTITY_LOCAL_NAME", "")
        if not identity or "$(" in identity:
            identity = f"{account}.{namespace}.serviceaccount.identity.{controller_namespace}.{trust_domain}"
        if environment.get("LINKERD2_PROXY_TAP_SVC_NAME"):
            tap = _at(ip, environment.get("LINKERD2_PROXY_CONTROL_LISTEN_ADDR", ""), TAP_PORT)
    return Pod(
        namespace=namespace,
        name=name,
        kind=kind,
        workload=workload,
        ip=ip,
        admin=admin,
        tap=tap,
        identity=identity,
        service_account=account,
    )


def owner_of(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and name of the workload behind a pod's metadata; (Pod, "") where it has none."""
    owners: Sequence[Mapping[str, Any]] = metadata.get("ownerReferences") or ()
    owner = next((entry for entry in owners if entry.get("controller")), owners[0] if owners else None)
    if owner is None:
        return "Pod", ""
    kind, name = str(owner.get("kind", "")), str(owner.get("name", ""))
    if kind == "ReplicaSet":
        suffix = "-" + str((metadata.get("labels") or {}).get("pod-template-hash", "\0"))
        return ("Deployment", name.removesuffix(suffix)) if name.endswith(suffix) else (kind, name)
    if kind == "Job" and (match := _CRON.match(name)):
        return "CronJob", match["name"]
    if kind == "Node":  # a static pod is its own workload
        return "Pod", ""
    return kind, name


def _proxy_environment(spec: Mapping[str, Any]) -> dict[str, str] | None:
    """The proxy container's variables that are literal; None without a proxy. Native sidecars are init containers."""
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        if container.get("name") == PROXY_CONTAINER:
            return {entry["name"]: entry.get("value") or "" for entry in container.get("env") or () if "name" in entry}
    return None


def _at(ip: str, listen: str, default: int) -> str:
    port = listen.rpartition(":")[2]
    host = f"[{ip}]" if ":" in ip else ip
    return f"{host}:{port if port.isdecimal() else default}"
