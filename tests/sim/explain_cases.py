"""Systems whose answer is known on paper, for the tests of searches and causes."""

from __future__ import annotations

from sim_builders import application, fault, scenario_of, service, setup_of

from scenarios.model import LoadSpec, Scenario, ServiceTime, SloSpec
from sim.calibration.calibrate import calibrate
from sim.calibration.cold import cold_observation
from sim.forecast.predict import make_task
from sim.knobs.configuration import Configuration, read_configuration
from sim.replication.replicate import Task

FAR = 1e12
"""A deadline that never comes."""


def metastable() -> Scenario:
    """λ = 20/s at a service of C = 50/s whose callers give a try 0.3 s and repeat it up to three times. Four seconds in
    which it is slow fill its queue; afterwards tries that time out are done all the same, and keep it full as long as
    λ(1+r) > C: for r = 3 and 2, and not for 1."""
    back = service("back", time=ServiceTime(0.1, 0.3, "lognormal"), workers=5, queue=60)
    front = service("front", calls=("back",))
    slow = fault("app-degrade", duration=4.0, service="back", replicas=1, parameters={"latencySeconds": 2.0})
    setup = setup_of(
        application(front, back),
        load=LoadSpec(20.0, {"all": 1.0}, 10_000, 4.0),
        faults=(slow,),
        slos=(SloSpec("front-success", "front", "GET", "/", 0.5),),
        inject_seconds=4.0,
        recover_seconds=31.0,
    )
    annotations = {
        "retry.linkerd.io/http": "5xx",
        "retry.linkerd.io/limit": "3",
        "retry.linkerd.io/timeout": "300ms",
        "timeout.linkerd.io/response": "300ms",
    }
    return scenario_of(setup, back=annotations)


def hopeless() -> Scenario:
    """Every request fails, whatever is done about it."""
    back = service("back", workers=4, queue=8)
    broken = fault("app-degrade", duration=4.0, service="back", replicas=1, parameters={"errorRate": 1.0})
    setup = setup_of(
        application(service("front", calls=("back",)), back),
        load=LoadSpec(6.0, {"all": 1.0}, 10_000, 3.0),
        faults=(broken,),
        slos=(SloSpec("front-success", "front", "GET", "/", 0.95),),
        inject_seconds=4.0,
        recover_seconds=1.0,
    )
    return scenario_of(setup)


def asked(scenario: Scenario) -> tuple[Configuration, Task]:
    seen = cold_observation(scenario, 1)
    configuration = read_configuration(scenario)
    return configuration, make_task(configuration.setup(), calibrate(seen, scenario), seen, 1, seen.ended_at + 15.0)
