"""A retry storm outlives its trigger where λ(1+r) > C, and nowhere else.

Abandoned tries are served all the same. So once the queue is longer than a try's timeout, every request costs 1 + r
services, and if that is more than the capacity C the queue never gets shorter, whatever started it (Bronson et al.,
Metastable Failures in Distributed Systems, HotOS 2021). The trigger here is a freeze of ten seconds.
"""

from __future__ import annotations

import pytest
from sim_builders import application, exponential, fault, parameters_of, played, service, setup_of

from mesh.api.messages import HttpRouteSpec, OutboundPolicy, Profile, RetrySpec, TimeoutSpec
from scenarios.model import LoadSpec
from sim.model.record import Record
from sim.model.setup import Rules, Setup

WORKERS, MEAN = 10, 0.1
CAPACITY = WORKERS / MEAN
TRY_TIMEOUT = 1.0
RECOVERY_SECONDS = 150.0


def shop(rate: float, retries: int, queue: int = 10**6, trigger: float = 10.0, cancels: bool = False) -> Setup:
    front = service("front", calls=("back",), workers=10**6)
    back = service("back", workers=WORKERS, queue=queue, cancels=cancels)
    retry = RetrySpec(statuses=((500, 599),), limit=retries) if retries else None
    route = HttpRouteSpec(name="http", retry=retry, timeouts=TimeoutSpec(response_seconds=TRY_TIMEOUT))
    rules = {}
    for s in (front, back):
        only = (route,) if s is back else (HttpRouteSpec(name="http"),)
        rules[s.authority] = Rules(
            Profile(version=1, published_at=0.0, authority=s.authority, exists=False),
            OutboundPolicy(version=1, published_at=0.0, authority=s.authority, exists=True, routes=only),
        )
    freeze = fault("app-degrade", duration=trigger, service="back", replicas=1, parameters={"freeze": 1.0})
    return setup_of(
        application(front, back),
        load=LoadSpec(rate, {"all": 1.0}, 10**6, 100.0),
        rules=rules,
        faults=(freeze,),
        inject_seconds=trigger,
        recover_seconds=RECOVERY_SECONDS,
    )


def goodput(setup: Setup, seed: int = 1) -> float:
    """Share of requests that were answered well in the last twenty seconds, long after the trigger."""
    parameters = parameters_of(setup.load.rate, times={("back", "GET /"): exponential(MEAN)})
    return _good(played(setup, parameters, seed), setup.end - 20.0, setup.end)


def _good(record: Record, start: float, end: float) -> float:
    late = [s for at, s in zip(record.intended_at, record.status, strict=True) if start <= at < end]
    return sum(1 for status in late if 0 < status < 500) / len(late)


@pytest.mark.parametrize("retries", [1, 2, 3])
def test_below_the_boundary_the_storm_ends(retries: int) -> None:
    assert goodput(shop(0.9 * CAPACITY / (1 + retries), retries)) > 0.99


@pytest.mark.parametrize("retries", [1, 2, 3])
def test_above_the_boundary_the_storm_stays(retries: int) -> None:
    assert goodput(shop(1.1 * CAPACITY / (1 + retries), retries)) < 0.1


@pytest.mark.parametrize("retries", [1, 2, 3])
def test_who_stops_working_for_clients_that_left_does_not_stay_in_a_storm(retries: int) -> None:
    """At the load at which it stays otherwise: work that nobody waits for is not done, so it is no load."""
    assert goodput(shop(1.1 * CAPACITY / (1 + retries), retries, cancels=True)) > 0.99


def test_without_a_trigger_the_same_load_is_served() -> None:
    """Vulnerable, not overloaded: the state above the boundary is the trigger's doing."""
    setup = shop(1.1 * CAPACITY / 3, 2)
    assert goodput(Setup(**{**_fields(setup), "faults": ()})) > 0.99


def test_without_retries_the_queue_drains() -> None:
    assert goodput(shop(0.8 * CAPACITY, 0)) > 0.99


def test_a_queue_shorter_than_the_timeout_has_no_such_region() -> None:
    """Whatever is queued is still wanted when its turn comes: at most C × timeout may wait."""
    queue = int(CAPACITY * TRY_TIMEOUT / 2)
    for retries in (1, 3):
        assert goodput(shop(1.3 * CAPACITY / (1 + retries), retries, queue)) > 0.95


def _fields(setup: Setup) -> dict[str, object]:
    return {name: getattr(setup, name) for name in setup.__dataclass_fields__}
