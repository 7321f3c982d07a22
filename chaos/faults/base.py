"""What a fault is: whom it hits, how it is applied and undone, and where that can be done at all.

One file a fault, one line in `chaos.faults.catalogue`. Steps are idempotent requests as plain data; a fault holds
nothing open and returns at once, so that chaostoolkit, which cannot interrupt an action, is never stuck in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from chaos.requests import Step
from chaos.world import WorldState
from scenarios.model import FaultSpec, Scenario


class CannotInject(Exception):
    """The world as it is now has nothing that this fault could hit."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How to apply and how to undo."""

    inject: tuple[Step, ...]
    revert: tuple[Step, ...]


class Fault(Protocol):
    """One kind of fault."""

    kind: str
    summary: str
    """One sentence for `plan` and the docs."""

    def describe(self, spec: FaultSpec) -> str:
        """What is done to whom: `payment (2 replicas): 50 % errors, +300 ms`."""

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        """The blast radius, one line each."""

    def holds(self, spec: FaultSpec, world: str) -> set[str]:
        """What is in this fault's state until it is undone, and can be in no other fault's: processes, apps."""

    def infeasible(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        """Why this world cannot do it, with the nearest alternative; None where it can."""

    def warning(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        """What a careful person would say about it beforehand; None: nothing."""

    def steps(self, spec: FaultSpec, world: WorldState) -> Steps:
        """For the world as it is now: the supervisor's API, or with `world.cluster` the Kubernetes API.

        Raises:
            CannotInject
        """


def share_of_replicas(spec: FaultSpec, scenario: Scenario) -> str:
    """`payment: 2 of 2 replicas (100 %)`."""
    service = scenario.app.service(str(spec.targets["service"]))
    replicas = int(spec.targets.get("replicas", service.replicas))
    return f"{service.name}: {replicas} of {service.replicas} replicas ({replicas / service.replicas:.0%})"
