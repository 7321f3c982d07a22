"""Telemetry loss (F5): metrics of some processes are not scraped any more; the processes themselves are as before.

The scraper is told (by the supervisor's world.json, or by the agent in the cluster) to let their scrapes fail. Each is
still due and counts as failed, so the loss shows in M10, and series have gaps where the report would read them. A
rule in the pod's network would block kubelet's probes as well, which is another fault.
"""

from __future__ import annotations

import msgspec

from chaos.faults.base import Steps
from chaos.requests import Step
from chaos.world import WorldState
from scenarios.model import FaultSpec, Scenario


class TelemetryLoss:
    kind = "telemetry-loss"
    summary = "Metrics of a service, of the control plane or of everything cannot be scraped."

    def describe(self, spec: FaultSpec) -> str:
        return f"scrapes of {_whose(spec)} fail"

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        return [f"metrics of {_whose(spec)}; requests are not touched"]

    def holds(self, spec: FaultSpec, world: str) -> set[str]:
        return set()

    def infeasible(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        return None

    def warning(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        return "expectations on scraped counters (attempts_per_request, handshake_failures) miss what was lost"

    def steps(self, spec: FaultSpec, world: WorldState) -> Steps:
        path = f"/telemetry/{spec.name}"
        url = world.kube_url(f"{world.cluster.agent}{path}") if world.cluster else world.supervisor_url(path)
        body = msgspec.json.encode([str(spec.targets["service"])]).decode()
        return Steps((Step("PUT", url, body),), (Step("DELETE", url),))


def _whose(spec: FaultSpec) -> str:
    service = spec.targets["service"]
    return {"all": "everything", "control": "the control plane"}.get(str(service), str(service))
