"""Services that stop working when their clients leave: who gives up what, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from sim_builders import application, bad, fault, parameters_of, rules_of, service, setup_of

from mesh.api.messages import RetrySpec
from scenarios.model import AppService, LoadSpec, ServiceTime
from sim.model.draws import Streams
from sim.model.setup import Setup
from sim.model.system import System
from sim.replication.mesh_figures import between

SECOND = ServiceTime(1.0, 0.0, "constant")


def chain(*services: AppService, timeout: float, rate: float = 20.0, **changes: object) -> Setup:
    load = LoadSpec(rate, {"all": 1.0}, 10**6, timeout)
    return setup_of(application(*services), load=load, inject_seconds=10.0, recover_seconds=5.0, **changes)


def system_of(setup: Setup) -> System:
    return System(setup, parameters_of(setup.load.rate), Streams(1, 0))


def busy(system: System) -> Iterator[tuple[str, int, int]]:
    for name, pods in system.pods.items():
        for pod in pods:
            yield name, pod.busy, pod.queue_length


@pytest.mark.parametrize("cancels", [True, False])
def test_a_client_that_leaves_frees_the_worker_and_those_of_all_whom_it_called(cancels: bool) -> None:
    """Clients wait 0.2 s for a second's work at the end of a chain."""
    names = ("front", "middle", "back")
    front, middle = (service(name, calls=(callee,), cancels=cancels) for name, callee in pairwise(names))
    system = system_of(chain(front, middle, service("back", time=SECOND, cancels=cancels), timeout=0.2))
    system.advance(10.0)
    for name, workers, queued in busy(system):
        assert queued == 0
        assert (workers < 10) is cancels, name  # of 20 a second, those of 0.2 s or of a whole one
    record = system.run()
    assert set(record.status) == {0}
    assert all((workers, queued) == (0, 0) for _, workers, queued in busy(system)) is cancels


def test_one_who_does_not_cancel_finishes_and_what_it_called_is_finished_as_well() -> None:
    """The front gives up; the middle, which does not, waits for the back to the end."""
    front = service("front", calls=("middle",), cancels=True)
    middle, back = service("middle", calls=("back",)), service("back", time=SECOND, cancels=True)
    system = system_of(chain(front, middle, back, timeout=0.2))
    system.advance(10.0)
    workers = {name: count for name, count, _ in busy(system)}
    assert workers["front"] == pytest.approx(4, abs=4)
    assert workers["middle"] == workers["back"] == pytest.approx(20, abs=9)


def test_a_try_that_times_out_at_a_proxy_is_cancelled_and_the_next_one_is_work_of_its_own() -> None:
    """A second's work is tried for 0.1 s, and then, since it was the last retry, for as long as it takes."""
    front, back = service("front", calls=("back",)), service("back", time=SECOND, cancels=True)
    retry = RetrySpec(statuses=((500, 599),), limit=1, timeout_seconds=0.1)
    rules = {front.authority: rules_of(front), back.authority: rules_of(back, retry=retry)}
    system = system_of(chain(front, back, timeout=10.0, rules=rules))
    system.advance(10.0)
    (_, fronts, _), (_, backs, _) = busy(system)
    assert fronts == backs == pytest.approx(20.0 * 1.1, abs=9)
    record = system.run()
    assert set(record.status) == {200}
    assert between(record.reached["back"], 0.0, 10.0) == pytest.approx(2 * 200.0, abs=60)


def test_who_waits_in_the_queue_leaves_it_and_others_move_up() -> None:
    """One worker, 0.1 s each, twice the load that it can do: some are served, in time, and the queue stays short."""
    only = service("only", workers=1, time=ServiceTime(0.1, 0.0, "constant"), cancels=True)
    system = system_of(chain(only, timeout=0.35))
    system.advance(10.0)
    assert max(queued for _, _, queued in busy(system)) <= 12
    record = system.run()
    good = [s for at, s in zip(record.intended_at, record.status, strict=True) if 0 <= at < 10 and s == 200]
    assert 20 < len(good) < 100, "what is cut off in the middle has cost a part of its time"


def test_what_comes_while_an_app_is_frozen_is_forgotten_with_its_client() -> None:
    freeze = fault("app-degrade", at=2.0, duration=5.0, service="only", replicas=1, parameters={"freeze": 1.0})
    frozen = chain(service("only", cancels=True), timeout=0.5, faults=(freeze,))
    system = system_of(frozen)
    system.advance(6.9)
    assert system.backlog <= 20.0 * 0.5 + 8
    record = system.run()
    assert bad(record, 2.1, 6.4) == 1.0
    assert bad(record, 7.1, 14.0) == bad(record, 0.0, 1.4) == 0.0
    kept = system_of(replace(frozen, app=application(service("only"))))
    kept.advance(6.9)
    assert kept.backlog > 60


def test_a_pod_that_is_killed_forgets_whom_it_worked_for() -> None:
    kill = fault("pod-kill", at=3.0, service="back", replicas=1)
    front, back = service("front", calls=("back",), cancels=True), service("back", time=SECOND, cancels=True)
    system = system_of(chain(front, back, timeout=0.5, faults=(kill,)))
    system.run()
    assert all((workers, queued) == (0, 0) for _, workers, queued in busy(system))
