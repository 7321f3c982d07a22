"""Proxy OOM (F2): the proxies of a service get a memory limit that they cannot live in, and the kernel kills them.

The limit is real: the Deployment's pod template gets `config.linkerd.io/proxy-memory-limit`, the injector puts it on
the sidecar of the pods that replace the old ones, and cgroups do the rest (OOMKilled, CrashLoopBackOff). All replicas
are replaced at once, as with `strategy: Recreate`; a rolling update would wait for the first new pod for ever, and
nobody would notice anything. Undone by taking the annotation away, which replaces the pods again.

Rejected: resizing the running sidecar (`pods/resize`): kubelet refuses a limit below what is in use.
"""

from __future__ import annotations

from chaos.faults.base import CannotInject, Steps
from chaos.kube_steps import patch_deployment
from chaos.world import WorldState
from scenarios.model import FaultSpec, Scenario

ANNOTATION = "config.linkerd.io/proxy-memory-limit"
REQUEST_ANNOTATION = "config.linkerd.io/proxy-memory-request"
DEFAULT_LIMIT = "24Mi"


class ProxyOom:
    kind = "proxy-oom"
    summary = "The proxies of a service get a memory limit too small to live in (Kubernetes only)."

    def describe(self, spec: FaultSpec) -> str:
        return f"{spec.targets['service']}: proxies limited to {limit(spec)} of memory"

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        service = scenario.app.service(str(spec.targets["service"]))
        return [f"{service.name}: all {service.replicas} replicas (100 %), replaced at once and again at the end"]

    def holds(self, spec: FaultSpec, world: str) -> set[str]:
        return {f"pods of {spec.targets['service']}"}

    def infeasible(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        service = scenario.app.service(str(spec.targets["service"]))
        if not service.meshed:
            return f"{service.name} is not meshed and has no proxy; use pod-kill"
        if world == "kind":
            return None
        return (
            "processes of the embedded world have no memory limit of their own (that takes cgroups and privileges);"
            " use --world kind, or pod-kill, which is what an OOM looks like from outside"
        )

    def warning(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        return None

    def steps(self, spec: FaultSpec, world: WorldState) -> Steps:
        service = str(spec.targets["service"])
        pods = world.pods_of(service)
        if world.cluster is None or not pods:
            raise CannotInject(f"no pod of {service} is there")
        namespace = pods[0].namespace

        def annotated(value: str | None, strategy: dict[str, object]) -> dict[str, object]:
            template = {"metadata": {"annotations": {ANNOTATION: value, REQUEST_ANNOTATION: value}}}
            return {"spec": {"strategy": strategy, "template": template}}

        # A strategic merge keeps rollingUpdate's fields unless told to drop them, and `Recreate` may not have them.
        recreate: dict[str, object] = {"$retainKeys": ["type"], "type": "Recreate"}
        return Steps(
            (patch_deployment(world, namespace, service, annotated(limit(spec), recreate)),),
            (patch_deployment(world, namespace, service, annotated(None, recreate)),),
        )


def limit(spec: FaultSpec) -> str:
    """A Kubernetes quantity."""
    return str(spec.parameters.get("memoryLimit", DEFAULT_LIMIT))
