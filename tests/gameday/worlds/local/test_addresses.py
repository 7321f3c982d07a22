from __future__ import annotations

import multiprocessing
import random
import socket

import pytest

from gameday.errors import BadInput
from gameday.worlds.local import addresses
from gameday.worlds.local.addresses import PORTS_PER_RUN, PortPlan, RangePlan, claim, has_whole_loopback, plan_of

APP_PORTS = (18_080,)
needs_loopback = pytest.mark.skipif(not has_whole_loopback(), reason="127.x.y.z cannot be bound here")


def claim_and_hold(start: multiprocessing.synchronize.Event, results: multiprocessing.Queue[str], done) -> None:
    random.seed(7)  # everybody wants the same ranges in the same order
    start.wait(10.0)
    held = claim(APP_PORTS)
    results.put(held.plan.label)
    done.wait(10.0)
    held.lock.close()


@needs_loopback
def test_claims_at_the_same_moment_get_different_ranges() -> None:
    context = multiprocessing.get_context("fork")
    start, done, results = context.Event(), context.Event(), context.Queue()
    processes = [context.Process(target=claim_and_hold, args=(start, results, done)) for _ in range(8)]
    for process in processes:
        process.start()
    start.set()
    labels = [results.get(timeout=10.0) for _ in processes]
    done.set()
    for process in processes:
        process.join(10.0)
    assert len(set(labels)) == len(processes)


@needs_loopback
def test_a_range_that_is_asked_for_and_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMEDAY_RANGE", "127.213.77")
    first = claim(APP_PORTS)
    try:
        with pytest.raises(BadInput, match=r"GAMEDAY_RANGE=127\.213\.77: another run holds this range; end it"):
            claim(APP_PORTS)
    finally:
        first.lock.close()
    claim(APP_PORTS).lock.close()


@pytest.mark.parametrize("text", ["127.1", "10.0.0", "127.1.300", "127.a.b", "127.1.1.1"])
def test_a_range_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMEDAY_RANGE", text)
    with pytest.raises(BadInput, match="first three numbers"):
        claim(APP_PORTS)


@needs_loopback
def test_a_server_on_all_addresses_is_named_by_its_port() -> None:
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(BadInput, match=f"port {port} is taken on all addresses"):
            claim([port])


@needs_loopback
def test_when_every_range_is_taken_it_says_how_to_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "randint", lambda low, high: 99)
    held = claim(APP_PORTS)
    try:
        with pytest.raises(BadInput, match="gameday recover"):
            claim(APP_PORTS)
    finally:
        held.lock.close()


def test_ports_mode_passes_over_blocks_that_are_held_or_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMEDAY_RANGE", "127.0.0.1")
    first = claim(APP_PORTS)
    second = claim(APP_PORTS)
    try:
        assert first.plan.label != second.plan.label
        assert plan_of(first.plan.label).control("identity") == first.plan.control("identity")
    finally:
        first.lock.close()
    begin = int(first.plan.label.removeprefix("127.0.0.1:").partition("-")[0])
    with socket.create_server(("127.0.0.1", begin + 123)):
        third = claim(APP_PORTS)
    try:
        assert third.plan.label not in (first.plan.label, second.plan.label)
    finally:
        second.lock.close()
        third.lock.close()


@pytest.mark.parametrize("plan", [RangePlan("127.44.7"), PortPlan(20_000)], ids=["range", "ports"])
def test_no_two_things_get_the_same_address(plan: addresses.AddressPlan) -> None:
    found = [address for component in ("identity", "destination", "policy") for address in plan.control(component)]
    for index in range(100):
        pod = plan.pod(index, 8080)
        found += [pod.app, pod.inbound, pod.outbound, pod.proxy_admin, pod.workload_admin]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("plan", [RangePlan("127.44.7"), PortPlan(20_000)], ids=["range", "ports"])
def test_an_app_with_more_pods_than_addresses_is_refused(plan: addresses.AddressPlan) -> None:
    with pytest.raises(BadInput, match="more"):
        plan.pod(PORTS_PER_RUN, 8080)
