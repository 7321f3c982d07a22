"""Every request of a few scenarios as the twin plays them, as a program: `python twin_traces.py` prints JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any, Literal

from sim_builders import application, fault, parameters_of, rules_of, service, setup_of

import sim.model.agenda
from mesh.api.messages import FailureAccrualSpec, ProfileRoute, RetryBudgetSpec, RetrySpec
from mesh.behavior import exchange
from scenarios.catalogue import names
from scenarios.load import load_scenario
from scenarios.model import LoadSpec, ServiceTime
from sim.calibration.cold import TYPICAL_OVERHEAD
from sim.model.distributions import LogNormal
from sim.model.draws import Streams
from sim.model.parameters import CpuCosts, Parameters
from sim.model.record import Record
from sim.model.setup import Setup, read_setup
from sim.model.system import System

COMPILED = not str(sim.model.agenda.__file__).endswith(".py")
"""Whether the twin that this process plays is machine code."""

WORK: tuple[Literal["wait", "cpu", "shared"], ...] = ("wait", "cpu", "shared")
"""Of the three services of the crowded scenario, when they share one core."""


def traces() -> dict[str, Any]:
    """By scenario: route, intended send, latency and status of every request, and the counters."""
    found: dict[str, Any] = {}
    for name in names():
        setup = read_setup(load_scenario(name))
        parameters = Parameters(
            times={}, overhead=TYPICAL_OVERHEAD, client_overhead=LogNormal(0.0005, 0.3), rate=setup.load.rate
        )
        found[name] = _trace(System(setup, parameters, Streams(1, 0)).run())
    setup = _crowded()
    parameters = parameters_of(setup.load.rate, overhead=LogNormal(0.001, 0.4))
    found["crowded"] = _trace(System(setup, parameters, Streams(2, 0)).run())
    costs = CpuCosts(1.0, 0.2, 0.001, 0.001, 0.0005, 0.0005, 0.001)
    shared = tuple(replace(s, work=work) for s, work in zip(setup.app.services, WORK, strict=True))
    setup = replace(setup, app=replace(setup.app, services=shared))
    found["contended"] = _trace(System(setup, replace(parameters, cpu=costs), Streams(3, 0)).run())
    return found


def _crowded() -> Setup:
    """What the catalogue's scenarios leave out: a breaker, a budget, un-meshed pods, tries that time out, dead pods."""
    front = service("front", calls=("middle", "back"), replicas=2)
    middle = service("middle", time=ServiceTime(0.02, 0.6), replicas=3, failure_rate=0.3, meshed=False)
    back = service("back", time=ServiceTime(0.03, 0.8), replicas=2, workers=3, queue=5, failure_rate=0.1)
    profile = {
        "routes": (ProfileRoute(name="all", is_retryable=True),),
        "retry_budget": RetryBudgetSpec(retry_ratio=0.2, min_retries_per_second=1),
    }
    retry = RetrySpec(statuses=((500, 599),), limit=2, timeout_seconds=0.08)
    setup = setup_of(
        application(front, middle, back, steps=2),
        load=LoadSpec(60.0, {"all": 1.0}, 40, 0.5),
        faults=(
            fault("pod-kill", at=5.0, service="back", replicas=1),
            replace(fault("app-degrade", at=8.0, duration=4.0, service="middle", replicas=2), name="slow"),
        ),
        rules={
            front.authority: rules_of(front),
            middle.authority: rules_of(middle, profile=profile),
            back.authority: rules_of(back, retry=retry, failure_accrual=FailureAccrualSpec(max_failures=4)),
        },
    )
    setup.faults[1].parameters.update({"latencySeconds": 0.1, "errorRate": 0.2})
    return setup


def _trace(record: Record) -> dict[str, Any]:
    def by_second(counts: dict[str, dict[int, int]]) -> dict[str, dict[str, int]]:
        return {name: {str(second): n for second, n in seconds.items()} for name, seconds in counts.items()}

    return {
        "route": record.route,
        "intended_at": record.intended_at,
        "latency": record.latency,
        "status": record.status,
        "reached": by_second(record.reached),
        "meant": by_second(record.meant),
        "mesh": by_second({"failed": record.failed, "retried": record.retried, "refused": record.refused}),
        "handshake_failures": record.handshake_failures,
        "events": record.events,
    }


if __name__ == "__main__":
    decisions = str(exchange.__file__).endswith(".py")
    json.dump({"interpreted": decisions and not COMPILED, "traces": traces()}, sys.stdout)
