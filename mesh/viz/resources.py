"""What a user may ask about: `deploy/web`, `sts`, `ns/shop`, `svc/pay`, by the names that Linkerd's users type."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.viz.pods import Pod

KINDS: dict[str, tuple[str, ...]] = {
    "Namespace": ("namespace", "namespaces", "ns"),
    "Deployment": ("deployment", "deployments", "deploy"),
    "StatefulSet": ("statefulset", "statefulsets", "sts"),
    "DaemonSet": ("daemonset", "daemonsets", "ds"),
    "ReplicaSet": ("replicaset", "replicasets", "rs"),
    "Job": ("job", "jobs"),
    "CronJob": ("cronjob", "cronjobs", "cj"),
    "Pod": ("pod", "pods", "po"),
    "Service": ("service", "services", "svc"),
    "Authority": ("authority", "authorities", "au"),
    "Workload": ("workload", "workloads", "all"),
}
"""`Workload` is ours: each pod under its workload, of whatever kind."""
_BY_ALIAS = {alias: kind for kind, aliases in KINDS.items() for alias in aliases}
PREFIXES = {kind: aliases[-1] if kind not in ("Job", "Workload") else aliases[0] for kind, aliases in KINDS.items()}
"""How a kind is written before a name."""


class UnknownResource(ValueError):
    """Not the name of something that can be looked at; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind, in one namespace or in all (empty), with one name or any (empty)."""

    kind: str
    name: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        return f"{PREFIXES[self.kind]}/{self.name}" if self.name else PREFIXES[self.kind]

    @property
    def of_pods(self) -> bool:
        """Whether pods belong to it; services and authorities are what clients call."""
        return self.kind not in ("Service", "Authority")

    def holds(self, pod: Pod) -> bool:
        """Whether a pod belongs to it."""
        if self.kind == "Namespace":
            return not self.name or pod.namespace == self.name
        if self.namespace and pod.namespace != self.namespace:
            return False
        if self.kind == "Pod":
            return not self.name or pod.name == self.name
        if self.kind == "Workload":
            return not self.name or pod.owner == self.name
        return pod.kind == self.kind and (not self.name or pod.owner == self.name)

    def group(self, pod: Pod) -> tuple[str, str, str]:
        """Namespace, kind and name of the row in which a pod is counted."""
        if self.kind == "Namespace":
            return "", "Namespace", pod.namespace
        if self.kind == "Pod":
            return pod.namespace, "Pod", pod.name
        return pod.namespace, pod.kind, pod.owner


def parse_resource(text: str, namespace: str = "") -> Resource:
    """The resource in `deploy/web`, `deploy web` or `deploy`.

    Raises:
        UnknownResource: no such kind, or more than a kind and a name.
    """
    alias, _, name = text.strip().replace(" ", "/", 1).partition("/")
    kind = _BY_ALIAS.get(alias.lower())
    if kind is None:
        known = ", ".join(PREFIXES[k] for k in KINDS)
        raise UnknownResource(f"{alias!r} is no kind of resource; known: {known}")
    if "/" in name or " " in name:
        raise UnknownResource(f"{text!r}: write KIND or KIND/NAME, such as deploy/web")
    return Resource(kind, name, "" if kind == "Namespace" else namespace)
