"""The relay that throttles a pod's answers: one queue, the rate of a token bucket, nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from gameday.worlds.local.wire import MOST_WAITING, Passage, Wire, address
from scenarios.throttle import BURST_BYTES, HEADER_BYTES, SEGMENT_BYTES, on_the_wire


class Loop:
    """A loop's clock, by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, function: Callable[[], None]) -> Timer:
        entry = (at, function)
        self.timers.append(entry)
        return Timer(self.timers, entry)

    def run(self, until: float) -> None:
        while due := [timer for timer in self.timers if timer[0] <= until]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = first[0]
            first[1]()
        self.now = until


class Timer:
    def __init__(self, timers: list[Any], entry: Any) -> None:
        self._timers, self._entry = timers, entry

    def cancel(self) -> None:
        if self._entry in self._timers:
            self._timers.remove(self._entry)


class Sink:
    """A passage that only notes what came out, and when."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.got: list[tuple[float, bytes]] = []

    def out(self, data: bytes) -> None:
        self.got.append((self._loop.now, data))


def made() -> tuple[Loop, Wire, Sink]:
    loop = Loop()
    return loop, Wire(cast(asyncio.AbstractEventLoop, loop)), Sink(loop)


def send(wire: Wire, sink: Sink, data: bytes) -> None:
    wire.send(cast(Passage, sink), data)


def test_without_a_throttle_everything_is_sent_at_once() -> None:
    loop, wire, sink = made()
    send(wire, sink, b"x" * 100_000)
    assert sink.got == [(0.0, b"x" * 100_000)]
    assert loop.timers == []


def test_what_exceeds_the_burst_comes_at_the_rate_and_in_order() -> None:
    loop, wire, sink = made()
    wire.throttle("80kbit")
    text = bytes(range(256)) * 100
    send(wire, sink, text)
    loop.run(60.0)
    assert b"".join(data for _, data in sink.got) == text
    size = len(text) + HEADER_BYTES * -(-len(text) // SEGMENT_BYTES)
    assert sink.got[-1][0] == pytest.approx((size - BURST_BYTES) / 10_000.0, rel=0.02)


def test_connections_share_one_queue() -> None:
    loop, wire, first = made()
    second = Sink(loop)
    wire.throttle("8kbit")
    send(wire, first, b"a" * 4 * SEGMENT_BYTES)
    send(wire, second, b"b")
    loop.run(60.0)
    assert second.got[0][0] > first.got[-1][0]


def test_the_end_frees_what_waits_and_a_second_order_changes_nothing() -> None:
    loop, wire, sink = made()
    wire.throttle("8kbit")
    send(wire, sink, b"x" * 20_000)
    wire.throttle("8kbit")
    loop.run(2.0)
    before = sum(len(data) for _, data in sink.got)
    assert before < BURST_BYTES + 2_000 + SEGMENT_BYTES
    wire.free()
    wire.free()
    assert sum(len(data) for _, data in sink.got) == 20_000
    assert loop.timers == []
    send(wire, sink, b"y")
    assert sink.got[-1] == (2.0, b"y")


def test_small_answers_that_wait_share_headers() -> None:
    assert on_the_wire(100, False) == 100 + HEADER_BYTES
    assert on_the_wire(100, True) == pytest.approx(100 * (1 + HEADER_BYTES / SEGMENT_BYTES))


def test_an_answer_after_a_late_timer_has_headers_of_its_own_and_its_place() -> None:
    """At 1,000 bytes a second: the queue is out on the wire's clock, and the loop has not looked yet."""
    loop, wire, sink = made()
    wire.throttle("8kbit")
    send(wire, sink, b"a" * (BURST_BYTES - 3 * HEADER_BYTES))
    send(wire, sink, b"b" * 100)
    due = max(at for at, _ in loop.timers)
    loop.now = late = due + 0.003
    send(wire, sink, b"c" * 100)
    assert b"c" not in {data[:1] for _, data in sink.got}
    loop.run(10.0)
    got = [(at, data[:1]) for at, data in sink.got if data[:1] != b"a"]
    assert [data for _, data in got] == [b"b", b"c"]
    assert got[1][0] == pytest.approx(due + (100 + HEADER_BYTES) / 1_000.0)
    assert got[1][0] > late


@pytest.mark.parametrize("rate", ["", "64", "fastbit", "64gbit"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    _, wire, _ = made()
    with pytest.raises((KeyError, ValueError)):
        wire.throttle(rate)


def test_real_connections_pass_and_a_slow_reader_holds_its_server_up() -> None:
    """Through sockets: bytes both ways, a server that ends first loses nothing, and one that writes without end is not
    read further than a buffer."""
    asyncio.run(_through_sockets())


async def _through_sockets() -> None:
    loop = asyncio.get_running_loop()
    wire = Wire(loop)
    written = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        question = await reader.readline()
        if question == b"all\n":
            writer.write(b"z" * 50_000)
            await writer.drain()
        else:
            while not writer.is_closing():
                writer.write(b"z" * 65_536)
                written += 65_536
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    to = server.sockets[0].getsockname()
    relay = await loop.create_server(lambda: Passage(wire, to), "127.0.0.1", 0)
    where = relay.sockets[0].getsockname()
    try:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"all\n")
        assert len(await asyncio.wait_for(reader.read(), 10.0)) == 50_000
        writer.close()

        wire.throttle("8kbit")
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"for ever\n")
        steady, seen = 0, -1
        while steady < 3:
            await asyncio.sleep(0.05)
            steady, seen = (steady + 1, seen) if written == seen else (0, written)
        passages = wire._waiting
        assert sum(len(data) for _, _, data in passages) < MOST_WAITING + 300_000
        writer.close()
    finally:
        wire.free()
        relay.close()
        server.close()


def test_addresses_are_split_at_the_last_colon() -> None:
    assert address("127.3.4.5:4143") == ("127.3.4.5", 4143)
