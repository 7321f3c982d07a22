"""Tap: filters, moments, bounds; and the listener over real TLS: one identity and no other."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
import uvloop
from observed import Anchored, Side, asked

from mesh.behavior.outcome import Cause
from mesh.proxy import tap, tap_server
from mesh.proxy.metrics import Registry
from mesh.proxy.tap import Session, Tap
from mesh.proxy.tap_filter import InvalidTap, parse_tap
from mesh.proxy.tap_server import TapServer

TAPPER = "tap.linkerd-viz.serviceaccount.identity.linkerd.cluster.local"


def opened(wanted: dict[str, Any], *directions: str) -> tuple[list[Side], Tap, Session, Registry]:
    sides = [Side(direction) for direction in directions or ("inbound", "outbound")]
    registry = Registry()
    taps = Tap(sides, registry, Random(3))
    session = taps.open(parse_tap(json.dumps(wanted).encode()))
    assert session is not None
    return sides, taps, session, registry


def events(session: Session) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in session.events]
    session.events.clear()
    return found


def kinds(session: Session) -> list[str]:
    return [event["event"] for event in events(session)]


ALL = ["requestInit", "responseInit", "responseEnd"]


def test_a_request_is_told_in_three_events() -> None:
    (side,), _, session, _ = opened({}, "outbound")
    side.serve(asked(status=200, grpc_status=0))
    begun, answered, ended = events(session)
    assert (begun["event"], begun["method"], begun["path"]) == ("requestInit", "GET", "/orders?id=1")
    assert (begun["proxyDirection"], begun["authority"], begun["tls"]) == (
        "outbound",
        "pay.shop.svc.cluster.local",
        True,
    )
    assert begun["source"] == {"ip": "10.0.0.7", "port": 40000, "identity": "cart.shop.local"}
    assert begun["destination"]["pod"] == "pay-0"
    assert "headers" not in begun
    assert (answered["event"], answered["httpStatus"]) == ("responseInit", 200)
    assert (ended["event"], ended["requestBytes"], ended["responseBytes"]) == ("responseEnd", 3, 5)
    assert ended["grpcStatus"] == 0
    assert 0 <= answered["sinceRequestInitUs"] <= ended["sinceRequestInitUs"]
    assert begun["id"] == answered["id"] == ended["id"]


def test_headers_are_shown_on_request_and_credentials_never() -> None:
    (side,), _, session, _ = opened({"headers": True}, "inbound")
    side.serve(asked(headers=[(b"accept", b"*/*"), (b"authorization", b"Bearer x"), (b"cookie", b"a=b")]))
    assert events(session)[0]["headers"] == [["accept", "*/*"]]


def test_a_request_that_nobody_answered_ends_with_its_cause() -> None:
    (side,), _, session, _ = opened({}, "outbound")
    side.serve(asked(status=0, cause=Cause.CONNECT, endpoint=None))
    begun, ended = events(session)
    assert (begun["event"], ended["event"], ended["error"]) == ("requestInit", "responseEnd", "connect")
    assert "sinceResponseInitUs" not in ended
    assert begun["destination"] == {"ip": "10.0.0.9", "port": 8080, "authority": "pay.shop.svc.cluster.local:80"}


@pytest.mark.parametrize(
    ("match", "hit"),
    [
        ({}, True),
        ({"direction": "inbound"}, True),
        ({"direction": "outbound"}, False),
        ({"method": "get"}, True),
        ({"method": "POST"}, False),
        ({"pathPrefix": "/orders"}, True),
        ({"pathPrefix": "/carts"}, False),
        ({"path": "/orders?id=1"}, True),
        ({"authority": "PAY.shop.svc.cluster.local"}, True),
        ({"authority": "pay.shop.svc.cluster.local:80"}, True),
        ({"authority": "pay.shop.svc.cluster.local:81"}, False),
        ({"authority": "pay.shop.svc.cluster"}, False),
        ({"authority": "cart"}, False),
        ({"route": "checkout"}, True),
        ({"status": 200}, True),
        ({"status": 2}, True),
        ({"status": 5}, False),
        ({"grpcStatus": 14}, False),
        ({"source": {"ip": "10.0.0.0/8"}}, True),
        ({"source": {"ip": "10.0.0.7", "port": 40000, "identity": "cart.shop.local"}}, True),
        ({"source": {"ip": "10.1.0.0/16"}}, False),
        ({"source": {"port": 1}}, False),
        ({"source": {"identity": "other"}}, False),
        ({"destination": {"labels": {"pod": "pay-0", "namespace": "shop"}}}, True),
        ({"destination": {"labels": {"pod": "pay-1"}}}, False),
        ({"destination": {"ip": "10.0.0.20", "port": 4143}}, True),
        ({"not": {"method": "GET"}}, False),
        ({"not": {"status": 5}}, True),
        ({"any": [{"method": "POST"}, {"pathPrefix": "/orders"}]}, True),
        ({"any": [{"method": "POST"}, {"status": 5}]}, False),
        ({"all": [{"method": "GET"}, {"status": 2}]}, True),
        ({"all": [{"method": "GET"}, {"status": 5}]}, False),
        ({"method": "GET", "status": 404}, False),
    ],
)
def test_a_filter_lets_through_what_it_says(match: dict[str, Any], hit: bool) -> None:
    (side,), _, session, _ = opened({"match": match}, "inbound")
    side.serve(asked())
    assert kinds(session) == (ALL if hit else [])


def test_what_is_known_at_once_is_told_at_once_and_the_rest_when_it_is_known() -> None:
    (side,), _, session, _ = opened({"match": {"method": "GET"}}, "inbound")
    request = asked()
    side.begin(request)
    assert kinds(session) == ["requestInit"]
    (side,), _, session, _ = opened({"match": {"status": 200}}, "inbound")
    side.begin(request)
    assert kinds(session) == []
    side.finish(request)
    assert kinds(session) == ALL


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"match": {"colour": "red"}}',
        b'{"match": {"direction": "up"}}',
        b'{"match": {"source": {"ip": "nowhere"}}}',
        b'{"match": {"any": [{"not": {"destination": {"ip": "x"}}}]}}',
        b'{"sampleRate": 0}',
        b'{"sampleRate": 1.5}',
        b'{"limit": -1}',
        b'{"maxRps": -1}',
    ],
)
def test_a_request_for_a_tap_that_makes_no_sense_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidTap):
        parse_tap(body)


def test_the_limit_counts_requests_and_the_last_one_is_told_to_its_end() -> None:
    (side,), _, session, _ = opened({"limit": 2}, "inbound")
    first, second, third = (asked(f"/{index}") for index in range(3))
    for request in (first, second, third):
        side.begin(request)
    side.finish(first)
    assert not session.over
    side.finish(second)
    assert session.over
    side.finish(third)
    assert {event["id"] for event in events(session)} == {0, 1}


def test_sampling_takes_its_share() -> None:
    (side,), _, session, _ = opened({"sampleRate": 0.25}, "inbound")
    for _ in range(400):
        side.begin(asked())
    assert 60 < len(session.events) < 140


def test_the_rate_limit_admits_so_many_requests_a_second() -> None:
    clock = [100.0]
    session = Session(parse_tap(b'{"maxRps": 2}'), Random(1), lambda: clock[0])
    for _ in range(5):
        session.began(asked())
    assert len(session.events) == 2
    clock[0] += 1.0
    for _ in range(5):
        session.began(asked())
    assert len(session.events) == 4


def test_a_reader_that_lags_loses_events_which_are_counted() -> None:
    (side,), _, session, registry = opened({}, "inbound")
    for _ in range(tap.QUEUE_EVENTS):
        side.serve(asked())
    assert len(session.events) == tap.QUEUE_EVENTS
    assert f"tap_events_dropped_total {2 * tap.QUEUE_EVENTS}\n" in registry.render().decode()


def test_nobody_is_called_while_nobody_taps() -> None:
    sides, taps, session, _ = opened({})
    second = taps.open(parse_tap(b"{}"))
    assert second is not None
    assert [side.observers for side in sides] == [(taps,), (taps,)]
    taps.close(session)
    assert [side.observers for side in sides] == [(taps,), (taps,)]
    under_way = asked()
    sides[0].begin(under_way)
    taps.close(second)
    assert [side.observers for side in sides] == [(), ()]
    third = taps.open(parse_tap(b"{}"))
    assert third is not None
    sides[0].finish(under_way)  # its beginning was another session's
    assert kinds(third) == []


def test_there_are_only_so_many_sessions() -> None:
    _, taps, session, _ = opened({})
    assert all(taps.open(parse_tap(b"{}")) for _ in range(tap.MAX_SESSIONS - 1))
    assert taps.open(parse_tap(b"{}")) is None
    taps.close(session)
    assert taps.open(parse_tap(b"{}")) is not None


# ---- the listener

MESH = Anchored()


class Listening:
    """A tap server, and clients of it."""

    def __init__(self) -> None:
        self.side = Side("inbound")
        self.taps = Tap([self.side], Registry(), Random(1))
        self.context = MESH.contexts("pay.shop.local").server
        self.server = TapServer(self.taps, TAPPER, lambda: self.context)
        self.port = 0

    async def connect(self, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname="pay.shop.local")

    async def ask(
        self, request: bytes, context: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        reader, writer = await self.connect(context if context is not None else MESH.client(TAPPER))
        writer.write(request)
        return reader, writer, await reader.readuntil(b"\r\n\r\n")


def post(body: bytes) -> bytes:
    return b"POST /v1/tap HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def listening(work: Callable[[Listening], Awaitable[None]]) -> None:
    async def run() -> None:
        world = Listening()
        world.port = world.server.start("127.0.0.1", 0)
        try:
            async with asyncio.timeout(20):
                await work(world)
        finally:
            await world.server.stop()

    uvloop.run(run())  # what the proxy runs on


async def until(done: Callable[[], bool]) -> None:
    while not done():
        await asyncio.sleep(0.002)


def test_the_named_identity_taps_and_the_stream_ends_with_its_limit() -> None:
    async def work(world: Listening) -> None:
        reader, _, head = await world.ask(post(b'{"limit": 1, "match": {"pathPrefix": "/orders"}}'))
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        world.side.serve(asked("/carts"))
        request = asked("/orders")
        world.side.begin(request)
        size = int(await reader.readuntil(b"\r\n"), 16)
        assert json.loads(await reader.readexactly(size))["event"] == "requestInit"
        world.side.finish(request)
        rest = await reader.read()
        assert rest.endswith(b"0\r\n\r\n")
        assert rest.count(b'"event"') == 2
        await until(lambda: world.side.observers == ())

    listening(work)


def test_another_identity_is_forbidden() -> None:
    async def work(world: Listening) -> None:
        _, _, head = await world.ask(post(b"{}"), MESH.client("cart.shop.local"))
        assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert world.side.observers == ()

    listening(work)


def test_a_client_without_a_certificate_or_with_a_foreign_one_is_told_nothing() -> None:
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.load_verify_locations(cadata=MESH.anchor.certificate_pem)
    foreign = Anchored().client(TAPPER)
    foreign.load_verify_locations(cadata=MESH.anchor.certificate_pem)

    async def work(world: Listening) -> None:
        for context in (anonymous, foreign):
            with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
                await world.ask(post(b"{}"), context)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(post(b"{}"))
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b""
        assert b"HTTP" not in answer

    listening(work)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v1/tap HTTP/1.1\r\nhost: a\r\n\r\n", 405),
        (b"POST /v2/tap HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", 404),
        (post(b'{"limit": "many"}'), 400),
        (b"nonsense\r\n\r\n", 400),
        (b"POST /v1/tap HTTP/1.1\r\ncontent-length: 9999999\r\n\r\n", 413),
        (b"POST /v1/tap HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 411),
        (b"GET / HTTP/1.1\r\na: " + b"x" * 40_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_for_a_tap_has_its_status(request_bytes: bytes, status: int) -> None:
    async def work(world: Listening) -> None:
        _, _, head = await world.ask(request_bytes)
        assert head.startswith(b"HTTP/1.1 %d " % status)

    listening(work)


def test_the_ninth_tap_is_refused_and_a_client_that_leaves_makes_room() -> None:
    async def work(world: Listening) -> None:
        client = MESH.client(TAPPER)
        writers = [(await world.ask(post(b"{}"), client))[1] for _ in range(tap.MAX_SESSIONS)]
        _, _, head = await world.ask(post(b"{}"), client)
        assert head.startswith(b"HTTP/1.1 503 ")
        for writer in writers:
            writer.transport.abort()
        await until(lambda: world.side.observers == ())
        _, _, head = await world.ask(post(b"{}"), client)
        assert head.startswith(b"HTTP/1.1 200 ")

    listening(work)


def test_connections_that_say_nothing_do_not_keep_the_tapper_out() -> None:
    async def work(world: Listening) -> None:
        honest, kept = await asyncio.open_connection("127.0.0.1", world.port)
        idle = [
            await asyncio.open_connection("127.0.0.1", world.port, local_addr=("127.0.0.2", 0))
            for _ in range(tap_server.MAX_CONNECTIONS + 10)
        ]
        assert [await reader.read() for reader, _ in idle[:11]] == [b""] * 11, (
            "the longest silent of the greediest address"
        )
        _, _, head = await world.ask(post(b"{}"))
        assert head.startswith(b"HTTP/1.1 200 ")
        assert not honest.at_eof()
        assert not idle[-1][0].at_eof()
        kept.close()

    listening(work)


def test_an_identity_that_may_not_tap_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap_server, "FORBIDDEN_TIMEOUT_SECONDS", 0.01)

    async def work(world: Listening) -> None:
        reader, _ = await world.connect(MESH.client("cart.shop.local"))
        assert await reader.read() == b""

    listening(work)


def test_a_renewed_certificate_serves_new_taps_and_open_ones_stay() -> None:
    async def work(world: Listening) -> None:
        client = MESH.client(TAPPER)
        reader, writer, _ = await world.ask(post(b"{}"), client)
        before = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
        world.context = MESH.contexts("pay.shop.local").server
        _, later, _ = await world.ask(post(b"{}"), client)
        assert later.get_extra_info("ssl_object").getpeercert()["serialNumber"] != before
        world.side.serve(asked())
        await reader.readuntil(b'"event":"responseEnd"')

    listening(work)
