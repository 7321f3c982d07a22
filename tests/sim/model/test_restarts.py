"""Pods that are killed and start again: what is lost, who waits, and what it costs the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim_builders import EXACT, application, bad, fault, parameters_of, played, service, setup_of

from scenarios.model import LoadSpec, ServiceTime
from sim.model.control import COMPONENTS
from sim.model.draws import Streams
from sim.model.parameters import CpuCosts
from sim.model.record import Record
from sim.model.system import System
from sim.replication.quantities import forgotten, quantities

LOAD_OF_40 = LoadSpec(40.0, {"all": 1.0}, 10**6, 10.0)
SLOW = ServiceTime(0.5, 0.0, "constant")
STARTS = replace(EXACT, pod_restart=0.5, app_work=0.15, proxy_work=0.25)
ONE_CORE = CpuCosts(cores=1.0, proxy_inbound=0.001, proxy_outbound=0.001, app_serve=0.001)


def test_processes_that_start_take_cpu_from_all_others() -> None:
    """One core, a restart that costs 0.4 s of it; the front end is not touched otherwise."""
    other = application(service("front"), service("other", replicas=1))
    setup = setup_of(other, faults=(fault("pod-kill", at=5.0, service="other", replicas=1),), load=LOAD_OF_40)
    parameters = replace(parameters_of(40.0), cpu=ONE_CORE)
    slowed, spared = (
        slowest(played(setup, replace(parameters, delays=delays)), 5.4, 6.0) for delays in (STARTS, EXACT)
    )
    assert slowed > 1.3 * spared


@pytest.mark.parametrize(("cores", "pods", "work"), [(1.0, 1, 0.4), (1.0, 2, 0.8), (1.0, 4, 1.6), (2.0, 1, 0.25)])
def test_pods_that_start_at_once_are_ready_when_the_shared_core_has_done_the_work_of_all(
    cores: float, pods: int, work: float
) -> None:
    """Nothing else asks for the core. On two of them, one pod's app and proxy do not share."""
    setup = setup_of(
        application(service("front"), service("other", replicas=pods)),
        faults=(fault("pod-kill", at=5.0, service="other", replicas=pods),),
    )
    idle = replace(parameters_of(1e-6), cpu=replace(ONE_CORE, cores=cores), delays=STARTS)
    system = System(setup, idle, Streams(1, 0))
    system.advance(5.5 + work - 0.01)
    assert not any(pod.alive for pod in system.pods["other"])
    system.advance(5.5 + work + 0.02)
    assert all(pod.alive for pod in system.pods["other"])


@pytest.mark.parametrize(("starts", "work"), [({"other/app": 0.6, "other/proxy": 0.9}, 1.5), ({"front/app": 9.0}, 0.4)])
def test_a_pod_takes_the_work_that_its_own_processes_were_seen_to_take(starts: dict[str, float], work: float) -> None:
    """On one core; another service's processes say nothing of it."""
    setup = setup_of(
        application(service("front"), service("other")),
        faults=(fault("pod-kill", at=5.0, service="other", replicas=1),),
    )
    system = System(setup, replace(parameters_of(1e-6), cpu=ONE_CORE, delays=STARTS, starts=starts), Streams(1, 0))
    system.advance(5.5 + work - 0.01)
    assert not system.pods["other"][0].alive
    system.advance(5.5 + work + 0.02)
    assert system.pods["other"][0].alive


def test_the_control_plane_is_back_when_the_shared_core_has_done_the_work_of_its_components() -> None:
    """All three at once, each with what it was seen to take."""
    outage = fault("control-plane-down", at=5.0, duration=5.0, component="all")
    setup = setup_of(application(service("front"), service("other")), faults=(outage,))
    starts = {"control/identity": 0.3, "control/destination": 0.4, "control/policy": 0.5}
    system = System(setup, replace(parameters_of(1e-6), cpu=ONE_CORE, delays=STARTS, starts=starts), Streams(1, 0))
    system.advance(10.0 + 1.2 - 0.01)
    assert not system.control.is_up("identity")
    system.advance(10.0 + 1.2 + 0.02)
    assert all(system.control.is_up(name) for name in COMPONENTS)


def test_a_pod_that_starts_waits_for_what_the_core_does_besides() -> None:
    """With the core half in use, for about twice as long."""
    setup = setup_of(
        application(service("front"), service("other")),
        faults=(fault("pod-kill", at=5.0, service="other", replicas=1),),
        load=LoadSpec(100.0, {"all": 1.0}, 10**6, 10.0),
    )
    costs = replace(ONE_CORE, proxy_inbound=0.002, app_serve=0.003)
    system = System(setup, replace(parameters_of(100.0), cpu=costs, delays=STARTS), Streams(1, 0))
    system.advance(5.5 + 1.4 * 0.4)
    assert not system.pods["other"][0].alive
    system.advance(5.5 + 3.0 * 0.4)
    assert system.pods["other"][0].alive


def test_a_proxy_that_outlives_its_app_answers_502_until_it_is_dead_as_well() -> None:
    """What was under way in the app, and what comes within the second after its death; the other pod has the rest."""
    back = service("back", time=SLOW, replicas=2)
    kill = fault("pod-kill", at=5.0, service="back", replicas=1)
    setup = setup_of(application(service("front", calls=("back",)), back), faults=(kill,), load=LOAD_OF_40)
    parameters = replace(parameters_of(40.0), delays=replace(EXACT, proxy_outlives=1.0, endpoint_update=3.0))
    system = System(setup, parameters, Streams(1, 0))
    system.advance(5.01)
    assert system.pods["back"][0].alive
    system.advance(6.01)
    assert not system.pods["back"][0].alive
    record = system.run()
    assert bad(record, 0.0, 4.4) == 0.0
    assert bad(record, 4.55, 4.99) == pytest.approx(0.5, abs=0.25)
    assert bad(record, 5.05, 5.9) > 0.2  # type: ignore[operator]
    assert bad(record, 6.05, 19.0) == 0.0
    broken = [(s, la) for s, la in zip(record.status, record.latency, strict=True) if s != 200]
    assert {status for status, _ in broken} == {502}
    assert all(pod.alive and pod.serves for pod in system.pods["back"])


def slowest(record: Record, start: float, end: float) -> float:
    found = zip(record.intended_at, record.latency, strict=True)
    return max(latency for at, latency in found if latency is not None and start <= at < end)


def test_a_killed_pod_takes_all_requests_on_its_shared_connection_with_it() -> None:
    """Half of those that came within the half second before, for so long each takes."""
    app = application(service("front", calls=("back",)), service("back", time=SLOW, replicas=2))
    kill = fault("pod-kill", at=5.0, service="back", replicas=1)
    record = played(setup_of(app, faults=(kill,)), parameters_of(40.0))
    assert bad(record, 0.0, 4.4) == 0.0
    assert bad(record, 4.55, 4.99) == pytest.approx(0.5, abs=0.2)
    assert bad(record, 5.1, 20.0) == 0.0
    broken = [(s, la) for s, la in zip(record.status, record.latency, strict=True) if s != 200]
    assert {status for status, _ in broken} == {502}
    assert all(latency is not None and latency < 0.6 for _, latency in broken), "at once"


def test_what_a_killed_pod_had_counted_since_the_last_scrape_is_lost() -> None:
    """Two pods, one of which dies half a second after a scrape: a quarter of a second's requests were never seen."""
    back = service("back", replicas=2)
    kill = fault("pod-kill", at=5.5, service="back", replicas=1)
    setup = setup_of(application(service("front", calls=("back",)), back), faults=(kill,), load=LOAD_OF_40)
    record = played(setup)
    assert forgotten(record, "back", 0.0, 20.0) == pytest.approx(40.0 * 0.5 / 2, abs=4.0)
    assert forgotten(record, "back", -0.51, 19.49) < 1.0  # killed just after a scrape
    assert forgotten(record, "back", 6.0, 20.0) == forgotten(record, "front", 0.0, 20.0) == 0.0
    seen = quantities(record, setup)["attempts_per_request", "back", "inject"]
    record.killed.clear()
    assert seen < quantities(record, setup)["attempts_per_request", "back", "inject"]


def test_a_killed_pod_is_routed_around_and_comes_back() -> None:
    app = application(service("front", calls=("back",)), service("back", replicas=2))
    kill = fault("pod-kill", at=5.0, service="back", replicas=1)
    system = System(setup_of(app, faults=(kill,)), parameters_of(40.0), Streams(1, 0))
    record = system.run()
    assert bad(record, 0.0, 20.0) is not None
    assert bad(record, 0.0, 20.0) < 0.02  # type: ignore[operator]
    assert all(pod.alive for pod in system.pods["back"])
