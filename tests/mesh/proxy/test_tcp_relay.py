"""The relay: half-close, back-pressure, resets, bytes that came early, silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from proxy_world import until
from tcp_world import Inbound, TcpWorld, echo, metric, reset_by, run_tcp

from mesh.proxy.metrics import Registry
from mesh.proxy.tcp import HOLD_BYTES, End, Relays, join, terminate
from mesh.proxy.telemetry import DirectionTelemetry


class Wire:
    """An in-memory transport; writes down what it is asked."""

    def __init__(self) -> None:
        self.written = b""
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, name: str) -> None:
        return None

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.calls.append(name)


class Watched(End):
    """Counts how often it is over."""

    overs = 0

    def over(self) -> None:
        self.overs += 1


def ends() -> tuple[Watched, Any, Watched, Any]:
    """(client's end, its wire, server's end, its wire), connected and not yet joined."""
    telemetry = DirectionTelemetry(Registry(), "inbound", True)
    client, server = Watched(telemetry.tcp("src", "true")), Watched(telemetry.tcp("dst", "true"))
    to_client: Any = Wire()
    to_server: Any = Wire()
    client.connection_made(to_client)
    server.connection_made(to_server)
    return client, to_client, server, to_server


def test_bytes_that_came_before_the_join_arrive_first_and_in_order() -> None:
    client, to_client, server, to_server = ends()
    client.data_received(b"one ")
    client.data_received(b"two ")
    server.data_received(b"banner")
    join(client, server)
    client.data_received(b"three")
    assert to_server.written == b"one two three"
    assert to_client.written == b"banner"
    assert (client.received, server.received) == (13, 6)
    assert client.series.read.value == server.series.written.value == 13


def test_an_end_of_stream_before_the_join_is_handed_on_after_the_bytes() -> None:
    client, to_client, server, to_server = ends()
    client.data_received(b"request")
    assert client.eof_received()
    join(client, server)
    assert (to_server.written, to_server.calls) == (b"request", ["write_eof"])
    server.data_received(b"answer")
    assert to_client.written == b"answer"
    server.eof_received()
    assert to_client.calls[-1] == to_server.calls[-1] == "close"


def test_both_ends_of_stream_before_the_join_close_both() -> None:
    client, to_client, server, to_server = ends()
    client.eof_received()
    server.data_received(b"bye")
    server.eof_received()
    join(client, server)
    assert to_client.written == b"bye"
    assert to_client.calls[-1] == to_server.calls[-1] == "close"


def test_an_end_that_waits_stops_reading_beyond_its_limit_and_goes_on_when_joined() -> None:
    client, to_client, server, to_server = ends()
    client.data_received(b"x" * HOLD_BYTES)
    assert to_client.calls == []
    client.data_received(b"y")
    assert to_client.calls == ["pause_reading"]
    join(client, server)
    assert to_client.calls == ["pause_reading", "resume_reading"]
    assert len(to_server.written) == HOLD_BYTES + 1


def test_a_full_write_buffer_stops_reading_at_the_other_end_only() -> None:
    client, to_client, server, to_server = ends()
    join(client, server)
    server.pause_writing()
    assert (to_client.calls, to_server.calls) == (["pause_reading"], [])
    server.resume_writing()
    assert to_client.calls == ["pause_reading", "resume_reading"]
    client.eof_received()
    server.pause_writing()
    server.resume_writing()
    assert to_client.calls == ["pause_reading", "resume_reading"]  # reading again after the end would find it twice


def test_a_buffer_that_filled_before_the_join_still_stops_the_other_end() -> None:
    client, to_client, server, _ = ends()
    server.pause_writing()
    join(client, server)
    assert to_client.calls == ["pause_reading"]


def test_a_lost_connection_resets_the_other_and_both_are_over_once() -> None:
    client, _, server, to_server = ends()
    join(client, server)
    client.connection_lost(ConnectionResetError(104, "reset"))
    assert to_server.calls == ["abort"]
    assert client.overs == server.overs == 0
    server.connection_lost(None)
    assert client.overs == server.overs == 1
    assert isinstance(client.error, ConnectionResetError)


def test_joining_an_end_that_was_lost_resets_the_other() -> None:
    client, _, server, to_server = ends()
    client.connection_lost(None)
    join(client, server)
    assert client.overs == 1
    assert to_server.calls == ["abort"]


def test_terminating_resets_both_ends() -> None:
    client, to_client, server, to_server = ends()
    join(client, server)
    terminate(client)
    assert to_client.calls == to_server.calls == ["abort"]


class Clock:
    """As much of a loop as the idle sweep needs."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: tuple[float, Callable[..., None], tuple[Any, ...]] | None = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> None:
        self._due = (self.now + delay, callback, arguments)

    def advance(self, to: float) -> None:
        while self._due is not None and self._due[0] <= to:
            (self.now, callback, arguments), self._due = self._due, None
            callback(*arguments)
        self.now = to


def test_a_relay_that_moves_nothing_for_the_idle_time_is_closed_and_a_busy_one_is_not() -> None:
    clock: Any = Clock()
    relays = Relays(clock, idle_seconds=10.0)
    silent, to_silent, other, _ = ends()
    join(silent, other)
    busy, to_busy, answering, _ = ends()
    join(busy, answering)
    relays.add(silent)
    relays.add(busy)
    for second in range(1, 20):
        clock.advance(float(second))
        answering.data_received(b".")
        if second == 9:
            assert to_silent.calls == []
        if second == 11:
            assert to_silent.calls == ["close"]
    assert to_silent.calls[:2] == ["close", "abort"]  # its peer took nothing more, not even the end
    assert to_busy.calls == []
    assert relays.idled == 1


# ---- over real sockets, through the inbound stack


async def relay_to(world: TcpWorld, behave: Any) -> tuple[Inbound, Any]:
    inbound = world.inbound(await world.serve(behave))
    return inbound, await world.listen(inbound.plain)


def test_a_client_that_ends_its_half_still_gets_the_answer() -> None:
    async def scenario(world: TcpWorld) -> None:
        async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got = await reader.read(-1)
            writer.write(b"%d bytes" % len(got))
            writer.close()

        inbound, address = await relay_to(world, answer_at_the_end)
        reader, writer = await world.connect(address)
        writer.write(b"x" * 300_000)
        writer.write_eof()
        assert await reader.read(-1) == b"300000 bytes"
        await until(lambda: not inbound.side.relays.open)
        assert metric(inbound.registry, "tcp_read_bytes_total", peer="src") == 300_000
        assert metric(inbound.registry, "tcp_open_total") == metric(inbound.registry, "tcp_close_total") == 2

    run_tcp(scenario)


def test_a_server_that_ends_its_half_still_gets_what_the_client_sends() -> None:
    async def scenario(world: TcpWorld) -> None:
        got: list[bytes] = []

        async def speak_first_then_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"that is all")
            writer.write_eof()
            got.append(await reader.read(-1))
            writer.close()

        inbound, address = await relay_to(world, speak_first_then_listen)
        reader, writer = await world.connect(address)
        assert await reader.read(-1) == b"that is all"
        writer.write(b"x" * 300_000)
        writer.write_eof()
        await until(lambda: got == [b"x" * 300_000])
        await until(lambda: not inbound.side.relays.open)

    run_tcp(scenario)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_arrives_as_a_reset(who: str) -> None:
    async def scenario(world: TcpWorld) -> None:
        seen: list[BaseException | None] = []
        accepted: list[asyncio.StreamWriter] = []

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(writer)
            try:
                await reader.read(-1)
                seen.append(None)
            except ConnectionResetError as error:
                seen.append(error)

        inbound, address = await relay_to(world, wait)
        reader, writer = await world.connect(address)
        writer.write(b"half a message")
        await until(lambda: bool(accepted))
        if who == "client":
            reset_by(writer)
            await until(lambda: bool(seen))
            assert isinstance(seen[0], ConnectionResetError)
        else:
            reset_by(accepted[0])
            with pytest.raises(ConnectionResetError):
                await reader.read(-1)
        await until(lambda: not inbound.side.relays.open)
        assert metric(inbound.registry, "tcp_close_total", errno="ECONNRESET") == 1

    run_tcp(scenario)


def test_a_slow_reader_costs_one_buffer_whatever_is_sent_to_it() -> None:
    async def scenario(world: TcpWorld) -> None:
        release = asyncio.Event()
        size = 40_000_000
        got: list[int] = []

        async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await release.wait()
            total = 0
            while data := await reader.read(1 << 20):
                total += len(data)
            got.append(total)
            writer.close()

        inbound, address = await relay_to(world, read_late)
        _, writer = await world.connect(address)
        writer.transport.set_write_buffer_limits(1 << 26)
        writer.write(b"x" * size)
        writer.write_eof()
        await until(lambda: bool(inbound.side.relays.open))
        (end,) = inbound.side.relays.open
        moved = -1
        while moved != end.received:  # until the kernel's buffers on both sides are full
            moved = end.received
            await asyncio.sleep(0.1)
        assert moved < size
        assert end.other is not None
        held: Any = end.other.transport
        assert held.get_write_buffer_size() <= 512 * 1024
        release.set()
        await until(lambda: got == [size])

    run_tcp(scenario)


def test_an_app_that_is_down_resets_its_client() -> None:
    async def scenario(world: TcpWorld) -> None:
        inbound, address = await relay_to(world, echo)
        world._servers[0].close()
        await world._servers[0].wait_closed()
        reader, _ = await world.connect(address)
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        assert metric(inbound.registry, "inbound_tcp_errors_total") == 1

    run_tcp(scenario)
