"""Network throttling (F7): what some pods send passes a token bucket (`tc qdisc tbf`) in their own network namespace.

A privileged ephemeral container in the pod puts the queueing discipline on eth0, sleeps for the fault's time to live,
and takes it away by itself; a second one takes it away when the fault is reverted. So a throttled pod mends itself even
if runner, reaper and API server are all gone. Ephemeral containers cannot be removed: two stay in the pod's list,
ended.

Only sending is limited; a service's answers, and its own calls, are what becomes slow.
"""

from __future__ import annotations

from chaos.faults.base import CannotInject, Steps, share_of_replicas
from chaos.kube_steps import STRATEGIC_PATCH, patch
from chaos.requests import Step
from chaos.world import PodAddress, WorldState
from scenarios.model import FaultSpec, Scenario

DEFAULT_RATE = "64kbit"
BURST_BYTES, LATENCY = 3_000, "2s"
"""Two frames, so that the rate bites at once; what would wait longer than this is dropped and sent again by TCP."""


class NetworkThrottle:
    kind = "network-throttle"
    summary = "What some replicas send is limited to a rate in their network namespace (Kubernetes only)."

    def describe(self, spec: FaultSpec) -> str:
        return f"{spec.targets['service']} ({spec.targets['replicas']} replicas): sends at most {rate(spec)}/s"

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        return [share_of_replicas(spec, scenario)]

    def holds(self, spec: FaultSpec, world: str) -> set[str]:
        return {f"network of {spec.targets['service']}"}

    def infeasible(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        if world == "kind":
            return None
        return (
            "processes of the embedded world share the loopback interface, and a queue on it would hold up everything;"
            " use --world kind, or app-degrade with a latency on the service"
        )

    def warning(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        return None

    def steps(self, spec: FaultSpec, world: WorldState) -> Steps:
        pods = world.pods_of(str(spec.targets["service"]))[: int(spec.targets["replicas"])]
        if world.cluster is None or not pods:
            raise CannotInject(f"no pod of {spec.targets['service']} is there")
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
