"""Pod kill: app and proxy of some replicas die at once (SIGKILL) and are restarted as a kubelet would.

There is nothing to undo: the supervisor restarts the pod by itself. The rollback only makes sure of it. On Kubernetes
the pods are deleted without grace, and their ReplicaSet makes others.
"""

from __future__ import annotations

from chaos.faults.base import CannotInject, Steps, share_of_replicas
from chaos.kube_steps import delete_pod
from chaos.requests import Step
from chaos.world import WorldState
from scenarios.model import FaultSpec, Scenario


class PodKill:
    kind = "pod-kill"
    summary = "App and proxy of some replicas are killed; they are restarted."

    def describe(self, spec: FaultSpec) -> str:
        return f"{spec.targets['replicas']} pods of {spec.targets['service']} killed"

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        return [share_of_replicas(spec, scenario)]

    def holds(self, spec: FaultSpec, world: str) -> set[str]:
        return set()

    def infeasible(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        return None

    def warning(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        return None

    def steps(self, spec: FaultSpec, world: WorldState) -> Steps:
        pods = world.pods_of(str(spec.targets["service"]))[: int(spec.targets["replicas"])]
        if not pods:
            raise CannotInject(f"no pod of {spec.targets['service']} is there")
        if world.cluster is not None:
            return Steps(tuple(delete_pod(world, pod.namespace, pod.kubernetes_name) for pod in pods), ())
        return Steps(
            tuple(Step("POST", world.supervisor_url(f"/pods/{pod.name}/kill")) for pod in pods),
            tuple(
                Step("POST", world.supervisor_url(f"/processes/{process}/up"))
                for pod in pods
                for process in pod.processes
            ),
        )
