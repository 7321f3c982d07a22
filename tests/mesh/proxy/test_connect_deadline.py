"""A connect that is up, and a deadline that passes, in one turn of a stalled loop: one outcome, told once.

Seen in a cluster on two busy cores: the deadline of a connect to the app came due between `connection_made` and the
turn in which the connecting task would have run. It was cancelled, which closed a connection that was in the pool.
"""

from __future__ import annotations

import asyncio
import socket
import time
from random import Random
from typing import Any, cast

import pytest
import uvloop

from mesh import native
from mesh.api.messages import Endpoint
from mesh.behavior.backend import Backend, BackendSettings, Multiplex
from mesh.behavior.outcome import Cause
from mesh.proxy.config import Address
from mesh.proxy.connect_deadline import ConnectDeadline
from mesh.proxy.dial import Dialler, Peer, ServerEnd
from mesh.proxy.driver import BackendDriver

pytestmark = pytest.mark.skipif(
    native.check(), reason="its driver is a subclass with stand-ins, which compiled code refuses"
)
DEADLINE_SECONDS = 0.05
LONG = 2.0
STALLS = [LONG, 1.02]
"""In deadlines: one that a timer's lateness tells of, and one that it hardly tells of."""


class Counter:
    value = 0


class Telemetry:
    """As much of a direction's telemetry as a driver looks at."""

    def __init__(self) -> None:
        self.resent = Counter()
        self.failed: list[Cause] = []
        self.tcp = type("Tcp", (), {name: Counter() for name in ("opened", "closed", "read", "written")})()

    def tcp_to(self, identity: str | None) -> Any:
        return self.tcp

    def connect_failed(self, cause: Cause, address: str) -> None:
        self.failed.append(cause)


class Ticket:
    """A request that only notes what becomes of it."""

    target = object()
    attempts = 1
    sent_at = dispatched_at = 0.0

    def __init__(self) -> None:
        self.writable: list[bool] = []
        self.refusals: list[Cause] = []

    def transmit(self, connection: Any) -> None:
        self.writable.append(not connection.transport.is_closing())

    def refused(self, cause: Cause) -> None:
        self.refusals.append(cause)


class NoCredentials:
    contexts = None


class StalledDriver(BackendDriver):
    """Its loop does not turn for longer than the deadline, right when a connection is up."""

    def established(self, connection: Any, capacity: int = 1) -> None:
        super().established(connection, capacity)
        time.sleep(2 * DEADLINE_SECONDS)


async def stall(after: int, deadlines: float) -> None:
    for _ in range(after):
        await asyncio.sleep(0)
    time.sleep(deadlines * DEADLINE_SECONDS)


async def connect(
    kind: type[BackendDriver], address: str, stall_after: int | None = None, deadlines: float = LONG
) -> tuple[Ticket, Telemetry, Backend[Any, Any]]:
    """`stall_after`: turns of the loop, after which it stalls for so many deadlines."""
    loop = asyncio.get_running_loop()
    telemetry, ticket = Telemetry(), Ticket()
    driver = kind(
        loop,
        cast(Any, telemetry),
        NoCredentials(),
        connect_timeout=DEADLINE_SECONDS,
        bind_ip=None,
        series=lambda endpoint: cast(Any, None),
    )
    backend: Backend[Any, Any] = Backend(
        BackendSettings(multiplex=Multiplex.NEVER), cast(Any, driver), Random(1), time.monotonic()
    )
    driver.attach(backend)
    backend.update(time.monotonic(), [Endpoint(address=address, pod="", namespace="")])
    driver.dispatch(cast(Any, ticket))
    if stall_after is not None:
        await stall(stall_after, deadlines)
    await asyncio.sleep(6 * DEADLINE_SECONDS)
    return ticket, telemetry, backend


@pytest.mark.parametrize("policy", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_was_up_before_its_deadline_stays_up(policy: Any) -> None:
    async def body() -> None:
        server = await asyncio.start_server(lambda reader, writer: reader.read(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ticket, telemetry, backend = await connect(StalledDriver, f"127.0.0.1:{port}")
        assert ticket.writable == [True]
        assert ticket.refusals == []
        assert telemetry.failed == []
        assert telemetry.tcp.closed.value == 0
        (endpoint,) = backend._order
        assert endpoint.connecting == 0
        server.close()

    with asyncio.Runner(loop_factory=policy) as runner:
        runner.run(body())


@pytest.mark.parametrize("deadlines", STALLS)
@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("policy", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_the_loop_sleeps_is_not_the_other_ends_delay(policy: Any, turns: int, deadlines: float) -> None:
    async def body() -> None:
        server = await asyncio.start_server(lambda reader, writer: reader.read(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ticket, telemetry, _ = await connect(BackendDriver, f"127.0.0.1:{port}", stall_after=turns, deadlines=deadlines)
        assert ticket.writable == [True]
        assert (ticket.refusals, telemetry.failed) == ([], [])
        server.close()

    with asyncio.Runner(loop_factory=policy) as runner:
        runner.run(body())


@pytest.mark.parametrize("policy", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_the_loop_was_late_to_send_has_the_time_to_be_answered(policy: Any) -> None:
    async def body() -> None:
        passed: list[bool] = []
        deadline = ConnectDeadline(asyncio.get_running_loop(), DEADLINE_SECONDS, passed.append, True)
        time.sleep(LONG * DEADLINE_SECONDS)
        await asyncio.sleep(0.5 * DEADLINE_SECONDS)  # the answer's way
        deadline.cancel()
        await asyncio.sleep(2 * DEADLINE_SECONDS)
        assert not passed

    with asyncio.Runner(loop_factory=policy) as runner:
        runner.run(body())


class Caller:
    """A TCP relay's: notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def established(self, end: ServerEnd) -> None:
        self.told.append("up")

    def failed(self, end: ServerEnd, cause: Cause, *, handshake: bool) -> None:
        self.told.append(cause)

    def hung_up(self, end: ServerEnd) -> None:
        self.told.append("gone")


@pytest.mark.parametrize("deadlines", STALLS)
@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("policy", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_nor_is_it_where_tcp_is_relayed(policy: Any, turns: int, deadlines: float) -> None:
    async def body() -> None:
        server = await asyncio.start_server(lambda reader, writer: reader.read(), "127.0.0.1", 0)
        telemetry, caller = Telemetry(), Caller()
        dialler = Dialler(asyncio.get_running_loop(), cast(Any, telemetry), connect_timeout=DEADLINE_SECONDS)
        dialler.dial(Peer(Address("127.0.0.1", server.sockets[0].getsockname()[1])), caller)
        await stall(turns, deadlines)
        await asyncio.sleep(4 * DEADLINE_SECONDS)
        assert caller.told == ["up"]
        assert telemetry.failed == []
        server.close()

    with asyncio.Runner(loop_factory=policy) as runner:
        runner.run(body())


@pytest.mark.parametrize("policy", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_relay_gives_up_an_address_that_does_not_answer(policy: Any) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            port = full.getsockname()[1]
            held = [await open_without_waiting(port) for _ in range(4)]
            telemetry, caller = Telemetry(), Caller()
            dialler = Dialler(asyncio.get_running_loop(), cast(Any, telemetry), connect_timeout=DEADLINE_SECONDS)
            dialler.dial(Peer(Address("127.0.0.1", port)), caller)
            await asyncio.sleep(4 * DEADLINE_SECONDS)
            assert caller.told == telemetry.failed == [Cause.CONNECT_TIMEOUT]
            for sock in held:
                sock.close()

    with asyncio.Runner(loop_factory=policy) as runner:
        runner.run(body())


@pytest.mark.parametrize("stall_after", [None, 2])
@pytest.mark.parametrize("policy", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_address_that_does_not_answer_is_given_up(policy: Any, stall_after: int | None) -> None:
    async def body() -> None:
        # A full accept queue drops SYNs: the address is there and silent.
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            port = full.getsockname()[1]
            held = [await open_without_waiting(port) for _ in range(4)]
            ticket, telemetry, backend = await connect(BackendDriver, f"127.0.0.1:{port}", stall_after)
            assert ticket.writable == []
            assert telemetry.failed[0] is Cause.CONNECT_TIMEOUT
            assert ticket.refusals == [Cause.CONNECT_TIMEOUT]
            (endpoint,) = backend._order
            assert endpoint.connecting == 0
            for sock in held:
                sock.close()

    with asyncio.Runner(loop_factory=policy) as runner:
        runner.run(body())


async def open_without_waiting(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", port))
    await asyncio.sleep(0.01)
    return sock
