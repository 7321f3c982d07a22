"""Opaque TCP through the outbound and the inbound side: detection, balancing, mutual TLS, policy."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import tempfile
from typing import Any

import pytest
from proxy_world import until
from tcp_world import Authority, Inbound, Outbound, Pair, TcpWorld, echo, metric, reset_by, run_tcp

from benchmarks.ports import free_port
from mesh.api.messages import Endpoint
from mesh.behavior.authz import default_inbound_policy
from mesh.behavior.outcome import Cause
from mesh.proxy.config import DEFAULT_OPAQUE_PORTS, Address, InvalidConfig, load_config
from mesh.proxy.interception import parse_original_destination
from mesh.proxy.session import Session
from mesh.proxy.tcp import tune
from mesh.proxy.wire.transport_header import SessionProtocol, TransportHeader, encode_header

DB = "db.shop.svc.cluster.local:5432"
SERVER, CLIENT = "db.shop.test", "cart.shop.test"
AUTHORITY = Authority()


def plain(address: Address) -> Endpoint:
    return Endpoint(address=str(address), pod="db-0", namespace="shop")


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that speaks first, as databases and mail servers do."""
    writer.write(b"220 ready\r\n")
    await echo(reader, writer)


async def refused(pair: Pair) -> None:
    """The connection is reset, not ended."""
    with pytest.raises(ConnectionResetError):
        await pair[0].read(-1)


# ---- where it goes


def test_the_original_destination_is_read_from_a_socket_address() -> None:
    four = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 5432, socket.inet_aton("10.1.2.3"))
    assert parse_original_destination(four) == Address("10.1.2.3", 5432)
    six = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", 443, 0, socket.inet_pton(10, "fd00::1"), 0)
    assert parse_original_destination(six) == Address("fd00::1", 443)
    mapped = struct.pack("=H", socket.AF_INET6) + struct.pack(
        "!HI16sI", 80, 0, socket.inet_pton(10, "::ffff:10.0.0.9"), 0
    )
    assert parse_original_destination(mapped) == Address("10.0.0.9", 80)
    assert parse_original_destination(b"") is None
    assert parse_original_destination(struct.pack("=H26x", socket.AF_UNIX)) is None


def test_a_port_forward_balances_over_what_discovery_knows() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        backend = outbound.know(DB, [plain(await world.serve(greet)), plain(await world.serve(greet))])
        address = await world.accepting(outbound, DB)
        pairs = [await world.connect(address) for _ in range(6)]
        for reader, writer in pairs:
            writer.write(b"SELECT the opaque bytes")  # not HTTP
            assert await reader.readline() == b"220 ready\r\n"
        # Load is open connections times connect time, so they spread.
        assert sorted(state.load.pending for state in backend.endpoints.values()) == [3, 3]
        for _, writer in pairs:
            writer.close()
        await until(lambda: all(state.load.pending == 0 for state in backend.endpoints.values()))
        assert outbound.discovery.entries[DB].held == 0

    run_tcp(scenario)


def test_a_removed_endpoint_keeps_its_connections_and_gets_no_new_one() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        old, new = await world.serve(echo), await world.serve(greet)
        backend = outbound.know(DB, [plain(old)], protocol="opaque")
        address = await world.accepting(outbound, DB)
        reader, writer = await world.connect(address)
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        backend.update(0.0, [plain(new)])
        writer.write(b"after!")
        assert await reader.readexactly(6) == b"after!"
        reader, _ = await world.connect(address)
        assert await reader.readline() == b"220 ready\r\n"

    run_tcp(scenario)


def test_an_endpoint_that_is_down_fails_one_client_and_then_backs_off_until_the_gate_shuts() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        backend = outbound.know(DB, [plain(Address("127.0.0.1", free_port()))], protocol="opaque")
        address = await world.accepting(outbound, DB)
        await refused(await world.connect(address))
        assert metric(outbound.registry, "outbound_tcp_errors_total", error="i/o") >= 1
        waiting = await world.connect(address)
        await until(lambda: len(backend.queue) == 1)
        await refused(waiting)  # when fail-fast shuts the gate
        assert metric(outbound.registry, "outbound_tcp_errors_total", error="failfast") == 1
        await refused(await world.connect(address))
        assert metric(outbound.registry, "outbound_tcp_errors_total", error="loadshed") == 1

    run_tcp(scenario)


def test_a_client_that_leaves_while_it_waits_is_forgotten() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        backend = outbound.know(DB, [], protocol="opaque")
        address = await world.accepting(outbound, DB)
        _, writer = await world.connect(address)
        await until(lambda: len(backend.queue) == 1)
        reset_by(writer)
        await until(lambda: not backend.queue)
        assert outbound.discovery.entries[DB].held == 0
        outbound.discovery.silent.add(DB)
        _, writer = await world.connect(address)
        await until(lambda: bool(outbound.discovery.waiting))
        reset_by(writer)
        await until(lambda: not outbound.discovery.waiting)

    run_tcp(scenario)


def test_an_unknown_address_is_dialled_as_it_is() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        reader, writer = await world.connect(await world.accepting(outbound, str(await world.serve(echo))))
        writer.write(b"some opaque bytes here")
        assert await reader.readexactly(22) == b"some opaque bytes here"

    run_tcp(scenario)


def test_egress_is_denied_where_the_network_says_so_and_open_where_it_allows() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        outside = str(await world.serve(echo))
        outbound.know(outside, [], protocol="opaque", egress="deny")
        await refused(await world.connect(await world.accepting(outbound, outside)))
        assert metric(outbound.registry, "outbound_tcp_errors_total") == 1
        outbound.know(outside, [], protocol="opaque", egress="allow")
        reader, writer = await world.connect(await world.accepting(outbound, outside))
        writer.write(b"hi")
        assert await reader.readexactly(2) == b"hi"

    run_tcp(scenario)


def test_a_destination_that_discovery_cannot_tell_of_resets_the_connection() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        outbound.discovery.cause = Cause.DISCOVERY_TIMEOUT
        await refused(await world.connect(await world.accepting(outbound, DB)))

    run_tcp(scenario)


def test_dialling_our_own_listener_is_refused() -> None:
    async def scenario(world: TcpWorld) -> None:
        own = Address("127.0.0.1", free_port())
        outbound = world.outbound(inbound_listen=own)
        address = await world.listen(lambda: outbound.side.forward(Session(), str(own)))
        await refused(await world.connect(address))

    run_tcp(scenario)


# ---- what it speaks


async def detected(world: TcpWorld, outbound: Outbound, target: str | None, first: bytes) -> Pair:
    pair = await world.connect(await world.accepting(outbound, target))
    pair[1].write(first)
    return pair


@pytest.mark.parametrize(
    ("first", "seen"),
    [
        (b"GET / HTTP/1.1", "http1"),
        (b"PRI * HTTP/2.0", "http2"),
        (b"GET / HTTP/1.", ""),
        (b"PRI * HTTP/2.", ""),
        (b"\x00\x00\x00\x08\x04\xd2\x16/ and the rest", ""),
    ],
)
def test_the_first_read_tells_what_a_connection_speaks_from_14_bytes_on(first: bytes, seen: str) -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        reader, _ = await detected(world, outbound, str(await world.serve(echo)), first)
        if seen:
            await until(lambda: bool(outbound.http))
            assert outbound.http == [(seen, first)]
        else:
            assert await reader.readexactly(len(first)) == first

    run_tcp(scenario)


def test_without_a_destination_a_short_first_read_is_http_all_the_same() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        await detected(world, outbound, None, b"GET")
        await until(lambda: outbound.http == [("http1", b"GET")])

    run_tcp(scenario)


@pytest.mark.parametrize("protocol", ["opaque", "detect"])
def test_a_server_may_speak_first(protocol: str) -> None:
    """At once on a port that is known to be opaque, else after the detect timeout."""

    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound(outbound_detect_timeout=0.05 if protocol == "detect" else 10.0)
        outbound.know(DB, [plain(await world.serve(greet))], protocol=protocol)
        reader, _ = await world.connect(await world.accepting(outbound, DB))
        assert await reader.readline() == b"220 ready\r\n"

    run_tcp(scenario)


def test_a_default_opaque_port_needs_no_hint() -> None:
    async def scenario(world: TcpWorld) -> None:
        server = await world.serve(greet)
        outbound = world.outbound(opaque_ports=frozenset({server.port}))
        reader, _ = await world.connect(await world.accepting(outbound, str(server)))
        assert await reader.readline() == b"220 ready\r\n"

    run_tcp(scenario)


def test_a_client_that_leaves_without_a_byte_is_nobodys_error() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        reader, writer = await world.connect(await world.accepting(outbound, "10.1.2.3:8080"))
        writer.write_eof()
        assert await reader.read(-1) == b""
        assert metric(outbound.registry, "outbound_tcp_errors_total") == 0

    run_tcp(scenario)


def test_what_came_before_the_hint_is_detected_when_the_hint_comes() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        outbound.know(DB, [plain(await world.serve(echo))])
        outbound.discovery.silent.add(DB)
        reader, writer = await world.connect(await world.accepting(outbound, DB))
        writer.write(b"neither HTTP nor anything")
        writer.write_eof()
        await until(lambda: bool(outbound.discovery.waiting))
        await asyncio.sleep(0.02)  # the bytes are there, and nothing tells it yet
        outbound.discovery.silent.clear()
        waiter: Any = outbound.discovery.waiting.pop()
        outbound.discovery.look_up(waiter, DB)
        assert await reader.read(-1) == b"neither HTTP nor anything"

    run_tcp(scenario)


def test_tls_of_the_app_goes_through_untouched() -> None:
    async def scenario(world: TcpWorld) -> None:
        chain, key = AUTHORITY.pem(SERVER)
        outbound = world.outbound()
        server = await world.serve(echo, ssl_context=server_context(chain, key))
        client = ssl.create_default_context(cadata=AUTHORITY.anchor.certificate_pem)
        address = await world.accepting(outbound, str(server))
        reader, writer = await world.connect(address, ssl=client, server_hostname=SERVER)
        writer.write(b"end to end")
        assert await reader.readexactly(10) == b"end to end"
        assert outbound.targets == [str(server)]

    run_tcp(scenario)


def server_context(chain: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"{chain}\n{key}")
        file.flush()
        context.load_cert_chain(file.name)
    return context


def test_tls_without_a_destination_goes_to_the_name_in_its_hello() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        outbound.know(f"{SERVER}:443", [], protocol="opaque")
        hello = ssl.MemoryBIO()
        tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname=SERVER)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        await detected(world, outbound, None, hello.read())
        await until(lambda: outbound.targets == [f"{SERVER}:443"])

    run_tcp(scenario)


# ---- between proxies


async def meshed(world: TcpWorld, behave: Any, policy: str = "all-authenticated") -> tuple[Outbound, Inbound, Address]:
    """A client's proxy with a port forward, and the proxy of a server behind it."""
    app = await world.serve(behave)
    inbound = world.inbound(app, policy)
    inbound.contexts = AUTHORITY.contexts(SERVER)
    address = await world.listen(inbound.meshed)
    outbound = world.outbound()
    outbound.credentials.contexts = AUTHORITY.contexts(CLIENT)
    endpoint = Endpoint(address=str(address), pod="db-0", namespace="shop", identity=SERVER, port=app.port)
    outbound.know(DB, [endpoint], protocol="opaque")
    return outbound, inbound, await world.accepting(outbound, DB)


def test_between_proxies_each_half_ends_by_itself_over_mutual_tls() -> None:
    async def scenario(world: TcpWorld) -> None:
        async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello ")
            got = await reader.read(-1)
            writer.write(b"%d" % len(got) + b"." * 500_000)
            writer.close()

        outbound, inbound, address = await meshed(world, answer_at_the_end)
        reader, writer = await world.connect(address)
        assert await reader.readexactly(6) == b"hello "
        writer.write(b"x" * 500_000)
        writer.write_eof()
        assert await reader.read(-1) == b"500000" + b"." * 500_000
        await until(lambda: not inbound.side.relays.open and not outbound.side.relays.open)
        labels = {"peer": "src", "tls": "true"}
        assert metric(inbound.registry, "tcp_read_bytes_total", **labels) == 500_000
        assert metric(inbound.registry, "inbound_tcp_authz_allow_total", client_id=CLIENT) == 1

    run_tcp(scenario)


def test_between_proxies_a_server_may_end_first() -> None:
    async def scenario(world: TcpWorld) -> None:
        got: list[bytes] = []

        async def speak_then_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"bye")
            writer.write_eof()
            got.append(await reader.read(-1))
            writer.close()

        outbound, _, address = await meshed(world, speak_then_listen)
        reader, writer = await world.connect(address)
        assert await reader.read(-1) == b"bye"
        writer.write(b"x" * 300_000)
        writer.write_eof()
        await until(lambda: got == [b"x" * 300_000])
        await until(lambda: not outbound.side.relays.open)

    run_tcp(scenario)


def test_a_reset_behind_two_proxies_is_no_end_of_stream() -> None:
    async def scenario(world: TcpWorld) -> None:
        async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"half of it")
            await writer.drain()
            await asyncio.sleep(0.02)
            reset_by(writer)

        _, _, address = await meshed(world, break_off)
        reader, writer = await world.connect(address)
        writer.write(b"?")
        assert await reader.readexactly(10) == b"half of it"
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)

    run_tcp(scenario)


async def handshaken(world: TcpWorld, inbound: Inbound) -> Pair:
    """A peer that is meshed and has not yet said anything."""
    contexts = AUTHORITY.contexts(CLIENT)
    address = await world.listen(inbound.meshed)
    return await world.connect(address, ssl=contexts.opaque, server_hostname=SERVER)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "transport header"),
        (b"transport.l5d.io/v1\r\n\r\n\xff\xff\xff\xff", "transport header"),
        (b"transport.l5d.io/v1\r\n\r\n\x00\x00\x00\x02\x08\x00", "transport header"),
        (encode_header(TransportHeader(1)), "no app"),
        (encode_header(TransportHeader(1, protocol=SessionProtocol.HTTP2)), "no app"),
        (encode_header(TransportHeader(1, "db.other.cluster")), "gateway domain invalid"),
    ],
    ids=["none", "huge", "no port", "another port", "another port's http", "gateway"],
)
def test_an_inbound_connection_for_anything_but_the_app_is_refused(sent: bytes, error: str) -> None:
    async def scenario(world: TcpWorld) -> None:
        inbound = world.inbound(await world.serve(echo))
        inbound.contexts = AUTHORITY.contexts(SERVER)
        reader, writer = await handshaken(world, inbound)
        writer.write(sent)
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        assert metric(inbound.registry, "inbound_tcp_errors_total", error=error) == 1

    run_tcp(scenario)


def test_a_header_that_names_a_protocol_goes_to_the_http_server_with_what_follows() -> None:
    async def scenario(world: TcpWorld) -> None:
        app = await world.serve(echo)
        inbound = world.inbound(app)
        inbound.contexts = AUTHORITY.contexts(SERVER)
        _, writer = await handshaken(world, inbound)
        header = encode_header(TransportHeader(app.port, protocol=SessionProtocol.HTTP1))
        for byte in header:
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        writer.write(b"GET /")
        await until(lambda: b"".join(data for _, data in inbound.http) == b"GET /")
        assert inbound.http[0][0] == "http1"

    run_tcp(scenario)


def test_a_peer_whose_certificate_is_refused_gets_a_reset_and_is_counted() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound, inbound, address = await meshed(world, greet)
        outbound.credentials.contexts = Authority().contexts(CLIENT)
        reader, _ = await world.connect(address)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(10):
                await reader.read(-1)
        assert metric(outbound.registry, "tls_handshake_failures_total", reason="unknown_ca") >= 1
        assert not inbound.side.relays.open

    run_tcp(scenario)


# ---- who may


def test_policy_decides_about_opaque_connections() -> None:
    async def scenario(world: TcpWorld) -> None:
        inbound = world.inbound(await world.serve(greet), "all-authenticated")
        await refused(await world.connect(await world.listen(inbound.plain)))
        assert metric(inbound.registry, "inbound_tcp_authz_deny_total") == 1
        assert metric(inbound.registry, "inbound_tcp_errors_total", error="unauthorized") == 1

    run_tcp(scenario)


def test_a_policy_that_forbids_ends_connections_that_are_open_and_spares_the_others() -> None:
    async def scenario(world: TcpWorld) -> None:
        _, inbound, address = await meshed(world, echo, "all-unauthenticated")
        stays, goes = await world.connect(address), await world.connect(await world.listen(inbound.plain))
        for reader, writer in (stays, goes):
            writer.write(b"open")
            assert await reader.readexactly(4) == b"open"
        inbound.policy.apply(default_inbound_policy("all-authenticated"))
        await refused(goes)
        stays[1].write(b"still")
        assert await stays[0].readexactly(5) == b"still"
        assert metric(inbound.registry, "inbound_tcp_authz_terminate_total") == 1
        assert len(inbound.side.relays.open) == 1

    run_tcp(scenario)


def test_a_loop_is_refused() -> None:
    async def scenario(world: TcpWorld) -> None:
        app = await world.serve(echo)
        inbound = world.inbound(app)
        inbound.side._own = (Address("0.0.0.0", app.port),)  # type: ignore[assignment]
        await refused(await world.connect(await world.listen(inbound.plain)))
        assert metric(inbound.registry, "inbound_tcp_errors_total", error="gateway loop") == 1

    run_tcp(scenario)


# ---- a pair handed over by an HTTP server (CONNECT)


def test_a_tunnel_is_greeted_once_its_server_is_there_and_answered_where_there_is_none() -> None:
    async def scenario(world: TcpWorld) -> None:
        outbound = world.outbound()
        causes: list[Cause] = []
        backend = outbound.know(DB, [plain(await world.serve(greet))])

        def tunnel() -> Any:
            return outbound.side.tunnel(Session(), DB, b"HTTP/1.1 200 OK\r\n\r\n", causes.append)

        address = await world.listen(tunnel)
        reader, _ = await world.connect(address)
        assert await reader.readexactly(30) == b"HTTP/1.1 200 OK\r\n\r\n220 ready\r\n"
        backend.update(0.0, [plain(Address("127.0.0.1", free_port()))])
        await world.connect(address)
        await until(lambda: causes == [Cause.CONNECT])
        assert len(outbound.side.relays.open) == 1

    run_tcp(scenario)


# ---- sockets and settings


def test_sockets_are_told_how_to_find_a_peer_that_is_gone() -> None:
    async def scenario(world: TcpWorld) -> None:
        _, writer = await world.connect(await world.serve(echo))
        tune(writer.transport, 10.0, 30.0)
        sock = writer.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000

    run_tcp(scenario)


def test_opaque_ports_and_forwards_come_from_the_environment() -> None:
    prefix = "LINKERD2_PROXY_"
    assert load_config({}).opaque_ports == DEFAULT_OPAQUE_PORTS
    config = load_config(
        {
            f"{prefix}INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION": "25, 8000-8002",
            f"{prefix}OUTBOUND_FORWARD": '{"127.0.0.1:15432": "db.shop.svc.cluster.local:5432"}',
            f"{prefix}OUTBOUND_DETECT_TIMEOUT": "2s",
            f"{prefix}INBOUND_ACCEPT_KEEPALIVE": "20s",
        }
    )
    assert config.opaque_ports == {25, 8000, 8001, 8002}
    assert config.forwards == {Address("127.0.0.1", 15432): DB}
    assert (config.outbound_detect_timeout, config.inbound_accept_keepalive) == (2.0, 20.0)
    assert load_config({f"{prefix}INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION": "none"}).opaque_ports == frozenset()
    for name, wrong in (
        ("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", "25,9-x"),
        ("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", "70000"),
        ("OUTBOUND_FORWARD", '{"127.0.0.1:1": "db"}'),
        ("OUTBOUND_FORWARD", '{"here:1": "db:1"}'),
    ):
        with pytest.raises(InvalidConfig, match=name):
            load_config({prefix + name: wrong})
