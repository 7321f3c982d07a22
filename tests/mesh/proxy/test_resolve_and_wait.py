"""The control plane's name as addresses, and waiting for a proxy: what they do when things are not there."""

from __future__ import annotations

import asyncio
import socket
from random import Random

import msgspec
import pytest
import uvloop
from proxy_world import ControlPlane

from mesh.api.messages import CertifyRequest, CertifyResponse
from mesh.proxy.config import Address, ControlService, InvalidConfig, load_config
from mesh.proxy.control import ControlClient, ControlError
from mesh.proxy.csr import make_key_and_csr
from mesh.proxy.metrics import Registry
from mesh.proxy.resolve import Resolver
from mesh.proxy.wait import wait
from mesh.proxy.wire.contexts import anchored_context


class Dns:
    """Answers as told; an OSError is raised."""

    def __init__(self, answer: list[str] | OSError) -> None:
        self.answer = answer
        self.asked = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def look_up(self, host: str, port: int) -> list[str]:
        self.asked += 1
        await self.go_on.wait()
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


def test_one_lookup_serves_all_who_connect_at_once_and_again_for_a_while() -> None:
    async def scenario() -> None:
        dns = Dns(["10.0.0.1", "10.0.0.2"])
        resolver = Resolver("identity.linkerd.svc.", 8080, Random(1), dns.look_up)
        dns.go_on.clear()
        asking = [asyncio.create_task(resolver.addresses()) for _ in range(40)]
        await asyncio.sleep(0)
        dns.go_on.set()
        answers = await asyncio.gather(*asking)
        assert dns.asked == 1
        assert {tuple(sorted(answer)) for answer in answers} == {("10.0.0.1", "10.0.0.2")}
        assert {answer[0] for answer in answers} == {"10.0.0.1", "10.0.0.2"}  # each has an order of its own
        await resolver.addresses()
        assert dns.asked == 1

    asyncio.run(scenario())


def test_after_a_failure_the_name_is_looked_up_anew_and_old_addresses_serve_while_dns_is_down() -> None:
    async def scenario() -> None:
        dns = Dns(["10.0.0.1"])
        resolver = Resolver("identity.linkerd.svc.", 8080, Random(1), dns.look_up)
        await resolver.addresses()
        dns.answer = ["10.0.0.9"]
        resolver.failed()
        assert await resolver.addresses() == ["10.0.0.9"]
        dns.answer = OSError("no such name")
        resolver.failed()
        assert await resolver.addresses() == ["10.0.0.9"]

    asyncio.run(scenario())


def test_a_name_that_was_never_found_is_an_error_and_an_address_needs_no_lookup() -> None:
    async def scenario() -> None:
        dns = Dns(OSError("no such name"))
        with pytest.raises(OSError, match="no such name"):
            await Resolver("nowhere.", 1, Random(1), dns.look_up).addresses()
        for literal in ("10.0.0.1", "fd00::1"):
            assert await Resolver(literal, 1, Random(1), dns.look_up).addresses() == [literal]
        assert dns.asked == 1

    asyncio.run(scenario())


def test_a_replica_that_is_gone_costs_one_try() -> None:
    async def scenario() -> None:
        control = ControlPlane()
        await control.start()
        client = client_of(control, Dns(["127.0.0.77", "127.0.0.1"]))  # nobody listens at the first
        for _ in range(4):
            await certify(client)
        await control.stop()

    uvloop.run(scenario())


class Replaced(Dns):
    """A Service's one address: its connections go to a pod that is silent, and to the next pod from the second lookup
    on, those excepted that were begun."""

    def __init__(self, next_pod: ControlPlane) -> None:
        super().__init__(["127.0.0.1"])
        self._next_pod = next_pod
        # A full accept queue drops SYNs, as does a node that has forgotten the pod.
        self._silent = socket.create_server(("127.0.0.1", next_pod.address.port), backlog=0)
        self._held = [socket.socket() for _ in range(4)]
        for held in self._held:
            held.setblocking(False)
            held.connect_ex(("127.0.0.1", next_pod.address.port))

    async def look_up(self, host: str, port: int) -> list[str]:
        found = await super().look_up(host, port)
        if self.asked == 2:
            self.close()
            await self._next_pod.start()
        return found

    def close(self) -> None:
        for held in (*self._held, self._silent):
            held.close()


def test_a_connection_that_nobody_answers_is_made_anew_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen in a rollout of the control plane: what was asked for as a pod died was not known within three seconds,
    for kube-proxy stays by the pod to which it gave the first SYN."""
    monkeypatch.setattr("mesh.proxy.control.TRY_SECONDS", 0.05)

    async def scenario() -> None:
        control = ControlPlane()
        dns = Replaced(control)
        await certify(client_of(control, dns), patience=0.9)  # the kernel repeats a SYN after one second
        assert dns.asked == 2
        await control.stop()

    uvloop.run(scenario())


def test_one_that_is_never_answered_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.proxy.control.TRY_SECONDS", 0.02)
    monkeypatch.setattr("mesh.proxy.control.CONNECT_TIMEOUT_SECONDS", 0.2)

    async def scenario() -> None:
        control = ControlPlane()
        silent = Replaced(control)
        dns = Dns(["127.0.0.1"])
        with pytest.raises(ControlError, match="no answer in time"):
            await certify(client_of(control, dns))
        assert dns.asked > 2
        silent.close()

    uvloop.run(scenario())


def test_one_that_is_refused_is_left_to_the_backoff_of_who_asked() -> None:
    async def scenario() -> None:
        dns = Dns(["127.0.0.1"])
        with pytest.raises(ControlError, match="refused"):
            await certify(client_of(ControlPlane(), dns))
        assert dns.asked == 1

    uvloop.run(scenario())


def client_of(control: ControlPlane, dns: Dns) -> ControlClient:
    service = ControlService(Address("localhost", control.address.port), control.service.name)
    client = ControlClient(service, lambda: anchored_context(control.anchor.certificate_pem), Registry(), Random(1))
    client._resolver = Resolver("localhost", service.address.port, Random(3), dns.look_up)
    return client


async def certify(client: ControlClient, patience: float = 5.0) -> None:
    _, csr = make_key_and_csr("cart.shop")
    request = msgspec.json.encode(CertifyRequest(identity="cart.shop", token="t", csr=csr))
    answer = await client.post("/v1/certify", request, patience)
    assert msgspec.json.decode(answer, type=CertifyResponse).leaf


def test_names_of_control_services_are_read_and_mistyped_addresses_are_not_taken_for_names() -> None:
    prefix = "LINKERD2_PROXY_DESTINATION_SVC_"
    config = load_config({f"{prefix}ADDR": "linkerd-dst.linkerd.svc.cluster.local.:8086", f"{prefix}NAME": "n"})
    assert config.destination is not None
    assert config.destination.address == Address("linkerd-dst.linkerd.svc.cluster.local.", 8086)
    assert str(config.destination) == "linkerd-dst.linkerd.svc.cluster.local:8086"
    for wrong in ("10.0.0.300:8086", "linkerd-dst", "linkerd dst:80", "dst:0", "-dst:80"):
        with pytest.raises(InvalidConfig, match="DESTINATION_SVC_ADDR"):
            load_config({f"{prefix}ADDR": wrong, f"{prefix}NAME": "n"})


def test_waiting_ends_when_it_is_ready_or_when_the_time_is_over() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    answers = iter([False, False, True])
    assert wait(lambda: next(answers), 5.0, clock=lambda: now[0], sleep=sleep)
    assert now[0] == pytest.approx(0.2)
    assert not wait(lambda: False, 5.0, clock=lambda: now[0], sleep=sleep)
    assert now[0] == pytest.approx(5.2, abs=0.11)
