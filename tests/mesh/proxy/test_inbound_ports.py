"""Which port a connection is for, how long ports are remembered, and who waits for a policy. Time is a number."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from mesh.api.messages import InboundPolicy
from mesh.behavior.authz import default_inbound_policy
from mesh.proxy.config import Address, Config
from mesh.proxy.inbound import ports as module
from mesh.proxy.inbound.ports import POLICY_SECONDS, Port, Ports
from mesh.proxy.metrics import Registry
from mesh.proxy.telemetry import DirectionTelemetry

POD = "10.0.0.7"
LISTEN = Address("0.0.0.0", 4143)


class Timer:
    def __init__(self, due: float, run: Callable[[], None]) -> None:
        self.due = due
        self.run = run

    def cancel(self) -> None:
        self.run = lambda: None


class Loop:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> Timer:
        timer = Timer(self.now + delay, lambda: callback(*arguments))
        self.timers.append(timer)
        return timer

    def turn(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted((timer for timer in self.timers if timer.due <= end), key=lambda timer: timer.due):
            self.timers.remove(due[0])
            self.now = due[0].due
            due[0].run()
        self.now = end


class Watched:
    """A control plane that answers when told to."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.apply: dict[int, Callable[[Any], None]] = {}
        self.cancelled = 0

    def watch(self, port: int, apply: Callable[[Any], None]) -> Any:
        self.asked.append(port)
        self.apply[port] = apply
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def answer(self, port: int, policy: str = "deny") -> InboundPolicy:
        message = default_inbound_policy(policy)
        self.apply[port](message)
        return message


class World:
    def __init__(self, **settings: Any) -> None:
        self.loop = Loop()
        self.control = Watched()
        given = {"inbound_ips": frozenset({POD}), **settings}
        config = Config(LISTEN, Address("127.0.0.1", 4140), Address("0.0.0.0", 4191), **given)
        telemetry = DirectionTelemetry(Registry(), "inbound", True)
        loop: Any = self.loop
        self.ports = Ports(config, loop, Random(1), telemetry)
        self.ports.start(self.control.watch)

    def at(self, port: int, host: str = POD) -> Port | None:
        return self.ports.at(Address(host, port))

    def found(self, port: int) -> Port:
        found = self.at(port)
        assert found is not None
        return found


def test_each_port_has_a_policy_of_its_own_and_the_app_is_dialled_where_its_client_dialled_it() -> None:
    world = World()
    one, two = world.found(8080), world.found(9090)
    assert one is world.at(8080)
    assert one is not two
    assert one.address == Address(POD, 8080)
    assert world.control.asked == [8080, 9090]
    world.control.answer(9090, "all-authenticated")
    assert (one.policy.message.server_name, two.policy.message.server_name) == (
        "all-unauthenticated",
        "all-authenticated",
    )


def test_declared_ports_are_watched_before_anybody_comes_and_never_forgotten() -> None:
    world = World(inbound_ports=frozenset({8080, 8081}))
    assert world.control.asked == [8080, 8081]
    world.loop.turn(10_000.0)
    assert len(world.ports) == 2
    assert world.control.cancelled == 0


def test_what_was_meant_for_another_host_or_for_us_is_not_served() -> None:
    world = World()
    assert world.at(8080, "10.0.0.8") is None
    assert world.ports.at(None) is None
    assert world.ports.named(8080, "10.0.0.8") is None
    assert world.control.asked == []


def test_a_header_names_a_port_of_the_address_that_was_dialled() -> None:
    world = World()
    assert world.ports.named(6379, POD) is world.at(6379)


def test_the_first_connection_waits_for_the_policy_and_the_next_ones_do_not() -> None:
    world = World()
    went: list[str] = []
    world.found(8080).when_known(lambda: went.append("first"))
    world.found(8080).when_known(lambda: went.append("second"))
    assert went == []
    world.control.answer(8080)
    assert went == ["first", "second"]
    world.found(8080).when_known(lambda: went.append("third"))
    assert went[-1] == "third"
    world.loop.turn(POLICY_SECONDS)
    assert len(went) == 3


def test_nobody_waits_for_longer_than_a_second_for_a_control_plane_that_is_away() -> None:
    world = World()
    went: list[float] = []
    world.found(8080).when_known(lambda: went.append(world.loop.now))
    world.loop.turn(10.0)
    assert went == [POLICY_SECONDS]
    world.found(8080).when_known(lambda: went.append(world.loop.now))
    assert went == [POLICY_SECONDS, 10.0]


def test_a_port_that_nobody_uses_is_forgotten_and_one_in_use_is_not() -> None:
    world = World(inbound_discovery_idle=90.0)
    used, idle = world.found(1001), world.found(1002)
    used.used()
    world.loop.turn(200.0)
    assert world.at(1001) is used
    assert world.at(1002) is not idle
    assert world.control.cancelled == 1
    used.unused()
    world.loop.turn(200.0)
    assert world.at(1001) is not used


def test_a_port_scan_costs_a_bounded_number_of_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PORTS", 4)
    world = World(inbound_ports=frozenset({80}))
    busy = world.found(1)
    busy.used()
    for port in range(2, 50):
        world.loop.turn(0.01)
        assert world.at(port) is not None
    assert len(world.ports) == 5
    assert world.at(1) is busy
    for port in range(100, 103):
        world.found(port).used()
    assert world.at(200) is None  # all are in use
    assert world.at(80) is not None


def test_in_a_world_without_redirection_there_is_one_port_whoever_asks() -> None:
    app = Address("127.0.0.1", 8080)
    world = World(app=app, inbound_ips=frozenset())
    assert world.ports.at(None) is world.ports.app
    assert world.ports.named(8080, "127.0.0.1") is world.ports.app
    assert world.ports.named(9090, "127.0.0.1") is None
    went: list[int] = []
    world.found(1).when_known(lambda: went.append(1))
    assert went == [1]  # as it always was there: by the default policy until another is known


def test_ports_that_are_opaque_by_default_are_so_until_the_policy_says_what_they_speak() -> None:
    world = World()
    redis = world.found(6379)
    assert redis.protocol == "opaque"
    message = default_inbound_policy("all-unauthenticated")
    world.control.apply[6379](msgspec.structs.replace(message, protocol="http1"))
    assert redis.protocol == "http1"


def test_ports_that_require_an_identity_do_so_before_any_policy_is_known() -> None:
    world = World(require_identity_ports=frozenset({8080}))
    assert world.found(8080).policy.message.server_name == "all-authenticated"
    assert world.found(8081).policy.message.server_name == "all-unauthenticated"
