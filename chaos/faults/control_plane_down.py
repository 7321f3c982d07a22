"""Control plane down (F1): the processes of one component, or of all, are killed and stay away.

Proxies keep what they were told last. What breaks is what needs an answer: destinations not in the discovery cache,
certificates to renew, pods that start.
"""

from __future__ import annotations

from chaos.faults.base import CannotInject, Steps
from chaos.requests import Step
from chaos.world import WorldState
from scenarios.model import FaultSpec, Scenario

COMPONENTS = ("identity", "destination", "policy")


class ControlPlaneDown:
    kind = "control-plane-down"
    summary = "Components of the control plane are killed and stay away."

    def describe(self, spec: FaultSpec) -> str:
        return f"{' and '.join(components(spec))} killed and kept down"

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        return [f"control plane: {', '.join(components(spec))} (every proxy depends on it)"]

    def holds(self, spec: FaultSpec) -> set[str]:
        return set(components(spec))

    def infeasible(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        return None

    def warning(self, spec: FaultSpec, scenario: Scenario) -> str | None:
        return None

    def steps(self, spec: FaultSpec, world: WorldState) -> Steps:
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
