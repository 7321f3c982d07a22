"""What a replication holds does not grow with simulated time, apart from its record: one row for each request."""

from __future__ import annotations

import gc

from sim_builders import application, parameters_of, rules_of, service, setup_of

from mesh.api.messages import RetrySpec
from scenarios.model import LoadSpec, ServiceTime
from sim.model.agenda import Entry
from sim.model.draws import Streams
from sim.model.system import System

RATE = 100.0


def left_over(seconds: float) -> tuple[int, int]:
    """(calls, works, tries and clients that are still held after so long a run, requests of it)."""
    front = service("front", calls=("back",), replicas=2)
    back = service("back", time=ServiceTime(0.01, 0.5), replicas=3, failure_rate=0.1)
    retry = RetrySpec(statuses=((500, 599),), limit=2, timeout_seconds=0.03)
    rules = {front.authority: rules_of(front), back.authority: rules_of(back, retry=retry)}
    setup = setup_of(
        application(front, back, steps=2),
        load=LoadSpec(RATE, {"all": 1.0}, 1000, 2.0),
        rules=rules,
        inject_seconds=seconds,
        recover_seconds=0.0,
    )
    gc.collect()
    before = sum(isinstance(found, Entry) for found in gc.get_objects())
    system = System(setup, parameters_of(RATE), Streams(1, 0))
    system.run()
    alive = sum(isinstance(found, Entry) for found in gc.get_objects()) - before
    return alive, len(system.record.status)


def test_nothing_of_a_request_outlives_it() -> None:
    """Not even until the collector comes: no request leaves a cycle behind, so workers can do with few collections."""
    gc.disable()
    try:
        (short, few), (long, many) = left_over(10.0), left_over(60.0)
    finally:
        gc.enable()
    assert many > 3 * few
    assert abs(long - short) < 50
