"""The plan of a run: who will be hit, when it ends by itself, and what this world cannot do. Starts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from chaos.faults.catalogue import FAULTS
from mesh.api.durations import format_duration
from scenarios.model import FaultSpec, Scenario


@dataclass(frozen=True, slots=True)
class PlannedFault:
    spec: FaultSpec
    description: str
    hits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is printed before a run, and stored with it."""

    scenario: Scenario
    world: str
    faults: tuple[PlannedFault, ...]
    problems: tuple[str, ...]
    """Reasons why the run cannot be started."""
    warnings: tuple[str, ...]

    def faults_line(self) -> str:
        return "; ".join(f"{fault.spec.name}: {fault.description}" for fault in self.faults)

    def text(self) -> str:
        """For people."""
        scenario = self.scenario
        phases = scenario.phases
        variant = f", variant {scenario.variant}" if scenario.variant else ""
        lines = [
            f"{scenario.title} ({scenario.name}{variant}, world {self.world})",
            f"  load     {scenario.load.rate:g} arrivals/s, open loop",
            "  phases   "
            + ", ".join(
                f"{name} {format_duration(getattr(phases, name))}"
                for name in ("warmup", "baseline", "inject", "recover")
            ),
        ]
        for fault in self.faults:
            spec = fault.spec
            lines.append(
                f"  fault    {spec.name}: {fault.description}; from {format_duration(spec.at)} for"
                f" {format_duration(spec.duration)}, reverted at the latest {format_duration(spec.ttl)} after injection"
            )
            lines += [f"  hits     {hit}" for hit in fault.hits]
        for rule in scenario.abort:
            for_how_long = format_duration(rule.for_seconds)
            lines.append(f"  abort    when {rule.slo} burns at {rule.burn_rate:g}x or more for {for_how_long}")
        lines += [f"  warning  {warning}" for warning in self.warnings]
        lines += [f"  cannot   {problem}" for problem in self.problems]
        return "\n".join(lines)


def plan(scenario: Scenario, world: str) -> Plan:
    """The plan of `scenario` in `world`."""
    planned, problems, warnings = [], [], []
    for spec in scenario.faults:
        fault = FAULTS.get(spec.kind)
        if fault is None:
            problems.append(f"{spec.name}: no fault of kind {spec.kind}; known: {', '.join(sorted(FAULTS))}")
            continue
        planned.append(PlannedFault(spec, fault.describe(spec), tuple(fault.hits(spec, scenario))))
        reason = fault.infeasible(spec, scenario, world)
        if reason is not None:
            problems.append(f"{spec.name}: {reason}")
        warning = fault.warning(spec, scenario, world)
        if warning is not None:
            warnings.append(f"{spec.name}: {warning}")
    problems += _overlaps(planned, world)
    if world == "local":
        problems += _cut_off(scenario)
    return Plan(scenario, world, tuple(planned), tuple(problems), tuple(warnings))


def _cut_off(scenario: Scenario) -> list[str]:
    """Services that call others and have no proxy to call through."""
    return [
        f"{service.name}: it is not meshed and calls others, to whom the embedded world has no way but a proxy's;"
        " mesh it, or use --world kind"
        for service in scenario.app.services
        if not service.meshed and any(route.calls for route in service.routes)
    ]


def _overlaps(planned: list[PlannedFault], world: str) -> list[str]:
    """Faults that hold the same thing at the same time: the end of the first would quietly end the second too."""
    found = []
    for one, other in combinations(planned, 2):
        shared = sorted(FAULTS[one.spec.kind].holds(one.spec, world) & FAULTS[other.spec.kind].holds(other.spec, world))
        first, second = sorted((one.spec, other.spec), key=lambda spec: spec.at)
        if shared and second.at < first.at + first.duration:
            what, when = ", ".join(shared), format_duration(second.at)
            found.append(
                f"{first.name} and {second.name} both hold {what} at {when}, and the end of one would undo the other;"
                " make them one fault, or let one begin after the other's end"
            )
    return found
