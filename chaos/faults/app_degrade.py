"""An app that slows, fails or freezes: the trigger of a retry storm (F4).

Injected in the app itself, below the mesh's retry layer; a fault put in at the client's proxy would never be retried.
"""

from __future__ import annotations

import msgspec

from chaos.faults.base import CannotInject, Steps, share_of_replicas
from chaos.kube_steps import through_pod
from chaos.requests import Step
from chaos.world import WorldState
from scenarios.model import FaultSpec, Scenario


class AppDegrade:
    kind = "app-degrade"
    summary = "Replicas of a service answer late, fail a share of their requests, or freeze."

    def describe(self, spec: FaultSpec) -> str:
        parameters = spec.parameters
        parts = []
        if parameters.get("errorRate"):
            parts.append(f"{float(parameters['errorRate']):.0%} of requests fail")
        if parameters.get("latencySeconds"):
            parts.append(f"+{float(parameters['latencySeconds']) * 1000:.0f} ms")
        if parameters.get("freeze"):
            parts.append("frozen")
        where = f" on {parameters['route']}" if parameters.get("route") else ""
        return (
            f"{spec.targets['service']} ({spec.targets['replicas']} replicas){where}: {', '.join(parts) or 'nothing'}"
        )

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        return [share_of_replicas(spec, scenario)]

    def holds(self, spec: FaultSpec, world: str) -> set[str]:
        return {f"app {spec.targets['service']}"}

    def infeasible(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        service = scenario.app.service(str(spec.targets["service"]))
        if service.command is None:
            return None
        return (
            f"{service.name} is a program of its own (`command`) and takes no faults from inside; use pod-kill on it,"
            " or app-degrade on a workload that it calls"
        )

    def warning(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        return None

    def steps(self, spec: FaultSpec, world: WorldState) -> Steps:
        pods = world.pods_of(str(spec.targets["service"]))[: int(spec.targets["replicas"])]
        takers = [pod for pod in pods if pod.workload_admin is not None]
        if not takers:
            raise CannotInject(f"no pod of {spec.targets['service']} takes faults")
        body = {
            "errorRate": float(spec.parameters.get("errorRate", 0.0)),
            "status": int(float(spec.parameters.get("status", 503))),
            "latencySeconds": float(spec.parameters.get("latencySeconds", 0.0)),
            "freeze": bool(spec.parameters.get("freeze", False)),
            "route": spec.parameters.get("route"),
        }
        if world.cluster is not None:
            # Kubernetes gives a pod that comes back another name, so whoever is asked to mend it may be gone
            # (WorldGone).
            ports = [(pod.namespace, f"{pod.kubernetes_name}:{_port(pod.workload_admin)}") for pod in takers]
            return Steps(
                tuple(through_pod(world, "PUT", namespace, port, "/faults", body) for namespace, port in ports),
                tuple(through_pod(world, "DELETE", namespace, port, "/faults") for namespace, port in ports),
            )
        urls = [f"http://{pod.workload_admin}/faults" for pod in takers]
        text = msgspec.json.encode(body).decode()
        return Steps(
            tuple(Step("PUT", url, text) for url in urls),
            tuple(Step("DELETE", url) for url in urls),
        )


def _port(address: str | None) -> str:
    assert address is not None
    return address.rpartition(":")[2]
