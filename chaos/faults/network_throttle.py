"""Network throttling (F7): what some pods send passes a token bucket.

On Kubernetes it is `tc qdisc tbf` in the pod's own network namespace. A privileged ephemeral container in the pod puts
the queueing discipline on eth0, sleeps for the fault's time to live, and takes it away by itself; a second one takes it
away when the fault is reverted. So a throttled pod mends itself even if runner, reaper and API server are all gone.
Ephemeral containers cannot be removed: two stay in the pod's list, ended.

In the embedded world a relay before the pod's inbound proxy holds back what the pod answers, handshakes included, by
the same rule (`scenarios.throttle`, `gameday.worlds.local.wire`). It dies with its pod; a pod that comes back is not
throttled any more, as on Kubernetes.

Only sending is limited; a service's answers, and on Kubernetes its own calls, are what becomes slow.
"""

from __future__ import annotations

import msgspec

from chaos.faults.base import CannotInject, Steps, share_of_replicas
from chaos.kube_steps import STRATEGIC_PATCH, patch
from chaos.requests import Step
from chaos.world import PodAddress, WorldState
from scenarios.model import FaultSpec, Scenario
from scenarios.throttle import BURST_BYTES, DEFAULT_RATE

LATENCY = "2s"
"""What would wait longer than this is dropped, and sent again by TCP."""


class NetworkThrottle:
    kind = "network-throttle"
    summary = "What some replicas send is limited to a rate."

    def describe(self, spec: FaultSpec) -> str:
        return f"{spec.targets['service']} ({spec.targets['replicas']} replicas): sends at most {rate(spec)}/s"

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        return [share_of_replicas(spec, scenario)]

    def holds(self, spec: FaultSpec, world: str) -> set[str]:
        return {f"network of {spec.targets['service']}"}

    def infeasible(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        if world == "kind" or scenario.app.service(str(spec.targets["service"])).meshed:
            return None
        return (
            f"{spec.targets['service']} is not meshed, and the embedded world throttles before a pod's proxy; use"
            " --world kind, or app-degrade with a latency on the service"
        )

    def warning(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        service = scenario.app.service(str(spec.targets["service"]))
        if world != "kind" and any(route.calls for route in service.routes):
            return f"what {service.name} answers is throttled; what it calls is throttled on Kubernetes only"
        return None

    def steps(self, spec: FaultSpec, world: WorldState) -> Steps:
        pods = world.pods_of(str(spec.targets["service"]))[: int(spec.targets["replicas"])]
        wires = [pod.wire_admin for pod in pods if pod.wire_admin is not None]
        if not pods or (world.cluster is None and not wires):
            raise CannotInject(f"no pod of {spec.targets['service']} can be throttled")
        if world.cluster is None:
            body = msgspec.json.encode({"rate": rate(spec)}).decode()
            urls = [f"http://{wire}/throttle" for wire in wires]
            return Steps(tuple(Step("PUT", url, body) for url in urls), tuple(Step("DELETE", url) for url in urls))
        shape = f"tc qdisc replace dev eth0 root tbf rate {rate(spec)} burst {BURST_BYTES} latency {LATENCY}"
        put_in = f"{shape} && sleep {spec.ttl:.0f}; tc qdisc del dev eth0 root tbf 2>/dev/null; true"
        take_out = "tc qdisc del dev eth0 root 2>/dev/null; true"
        return Steps(
            tuple(_run_in(world, pod, f"throttle-{spec.name}", put_in) for pod in pods),
            tuple(_run_in(world, pod, f"unthrottle-{spec.name}", take_out) for pod in pods),
        )


def rate(spec: FaultSpec) -> str:
    """As tc writes it: 64kbit."""
    return str(spec.parameters.get("rate", DEFAULT_RATE))


def _run_in(world: WorldState, pod: PodAddress, name: str, script: str) -> Step:
    """An ephemeral container; the same name again changes nothing."""
    assert world.cluster is not None
    container = {
        "name": name,
        "image": world.cluster.agent_image,
        "command": ["sh", "-c", script],
        "securityContext": {
            "runAsUser": 0,
            "runAsNonRoot": False,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        },
    }
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.kubernetes_name}/ephemeralcontainers"
    return patch(world, path, {"spec": {"ephemeralContainers": [container]}}, STRATEGIC_PATCH)
