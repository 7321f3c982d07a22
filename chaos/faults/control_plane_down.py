"""Control plane down (F1): the processes of one component, or of all, are killed and stay away.

Proxies keep what they were told last. What breaks is what needs an answer: destinations not in the discovery cache,
certificates to renew, pods that start.

On Kubernetes the component's Deployment is scaled to zero, and its pods are deleted without grace; scaled back, it
comes back as a new pod. Destination and policy are two containers of one Deployment there, so they go and come
together.
"""

from __future__ import annotations

from chaos.faults.base import CannotInject, Steps
from chaos.kube_steps import delete_pods, scale
from chaos.requests import Step
from chaos.world import WorldState
from scenarios.model import FaultSpec, Scenario

COMPONENTS = ("identity", "destination", "policy")
SHARED = ("destination", "policy")
"""Containers of one Deployment on Kubernetes."""


class ControlPlaneDown:
    kind = "control-plane-down"
    summary = "Components of the control plane are killed and stay away."

    def describe(self, spec: FaultSpec) -> str:
        return f"{' and '.join(components(spec))} killed and kept down"

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        return [f"control plane: {', '.join(components(spec))} (every proxy depends on it)"]

    def holds(self, spec: FaultSpec, world: str) -> set[str]:
        return set(reached(spec, world))

    def infeasible(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        return None

    def warning(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        more = [component for component in reached(spec, world) if component not in components(spec)]
        if not more:
            return None
        return f"{' and '.join(SHARED)} share a Deployment on Kubernetes: {' and '.join(more)} is away as well"

    def steps(self, spec: FaultSpec, world: WorldState) -> Steps:
        if world.cluster is not None:
            return _on_kubernetes(spec, world)
        inject, revert = [], []
        for component in components(spec):
            address = world.control.get(component)
            if address is None:
                raise CannotInject(f"the world has no control-plane component {component}")
            inject.append(Step("POST", world.supervisor_url(f"/processes/{address.process}/down"), '{"signal":"KILL"}'))
            revert.append(Step("POST", world.supervisor_url(f"/processes/{address.process}/up")))
        return Steps(tuple(inject), tuple(revert))


def components(spec: FaultSpec) -> tuple[str, ...]:
    component = str(spec.targets.get("component", "all"))
    return COMPONENTS if component == "all" else (component,)


def reached(spec: FaultSpec, world: str) -> tuple[str, ...]:
    """The components that are really away, in the order of `COMPONENTS`."""
    named = components(spec)
    if world != "kind" or not set(named) & set(SHARED):
        return named
    return tuple(component for component in COMPONENTS if component in {*named, *SHARED})


def _on_kubernetes(spec: FaultSpec, world: WorldState) -> Steps:
    assert world.cluster is not None
    namespace = world.cluster.mesh_namespace
    deployments: dict[str, tuple[str, int]] = {}
    for component in components(spec):
        address = world.control.get(component)
        if address is None or address.deployment is None:
            raise CannotInject(f"the mesh has no Deployment of {component}")
        deployments[address.deployment] = (address.selector, address.replicas)
    return Steps(
        tuple(scale(world, namespace, name, 0) for name in deployments)
        + tuple(delete_pods(world, namespace, selector) for selector, _ in deployments.values()),
        tuple(scale(world, namespace, name, replicas) for name, (_, replicas) in deployments.items()),
    )
