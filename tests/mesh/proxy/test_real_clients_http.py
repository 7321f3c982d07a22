"""HTTP through two proxies over mutual TLS, with clients that other people wrote: curl, nghttp, h2load, websockets; and
the ends that only a raw socket can act.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import resource
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from h2_app import H2App
from proxy_world import Pod, Seen, World, authority_of, run_in_world, until
from websockets.exceptions import ConnectionClosedError

from benchmarks.ports import free_port
from mesh.api.messages import HttpRouteSpec, TimeoutSpec
from mesh.proxy.config import Address

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(30)]

Answer = tuple[int, dict[str, str], bytes]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HUNDRED_MB = 100_000_000


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"no {tool} on this machine")


async def run(*command: str, stdin: bytes | None = None) -> bytes:
    """Output of a client, which must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await process.communicate(stdin)
    assert process.returncode == 0, (command, process.returncode, errors.decode(), out[:500])
    return out


async def curl(cart: Pod, *options: str, stdin: bytes | None = None) -> bytes:
    return await run("curl", "-sS", "--max-time", "20", "--noproxy", "*", *options, stdin=stdin)


def url_of(cart: Pod, path: str = "/") -> str:
    return f"http://{cart.config.outbound_listen}{path}"


class RawServer:
    """A server whose every byte the test writes."""

    def __init__(self, handle: Handler) -> None:
        self.address = Address("127.0.0.1", free_port())
        self._handle = handle
        self._server: asyncio.Server | None = None
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, self.address.host, self.address.port)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            await self._handle(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the proxy left first
        finally:
            writer.close()


async def open_to(pod: Pod) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = pod.config.outbound_listen
    return await asyncio.open_connection(address.host, address.port)


def head_of(method: str, target: str, pod: Pod, *lines: str) -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", f"host: {pod.authority}", *lines, "", "")).encode()


async def echo(request: Seen) -> Answer:
    return 200, {"x-method": request.method}, request.body


# ---- curl


@needs("curl")
@pytest.mark.parametrize("option", ["--http1.1", "--http1.0"])
def test_curl_of_http_1_is_served_on_one_connection(tmp_path: Path, option: str) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", echo)
        host, url = f"host: {payment.authority}", url_of(cart, "/a?b=c")
        out = await curl(cart, option, "-H", host, "-d", "body", "-w", "%{http_version} %{http_code}\n", url, url)
        assert out == b"body1.1 200\n" * 2
        assert payment.app is not None
        assert [(seen.method, seen.path) for seen in payment.app.requests] == [("POST", "/a?b=c")] * 2
        assert payment.app.requests[0].headers["host"] == payment.authority
        assert "l5d-orig-proto" not in payment.app.requests[0].headers
        assert b" 200" in await curl(cart, option, "-H", host, "-I", url)
        assert cart.metric("tls_handshakes_total", direction="outbound") == 1

    run_in_world(tmp_path, scenario)


@needs("curl")
def test_curl_with_prior_knowledge_reaches_an_http_2_app(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        async with H2App(echo) as app:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=app.address)
            for _ in range(2):  # not two URLs: curl 7.88 cannot reuse such a connection (curl#10634)
                options = ("--http2-prior-knowledge", "-H", f"host: {payment.authority}", "-d", "body")
                out = await curl(cart, *options, "-w", "%{http_version} %{http_code}", url_of(cart, "/a?b=c"))
                assert out == b"body2 200"
            assert [(seen.method, seen.path) for seen in app.requests] == [("POST", "/a?b=c")] * 2
            assert app.requests[0].headers[":authority"] == payment.authority
            assert app.requests[0].headers["l5d-client-id"] == cart.identity
            assert app.accepted == 1

    run_in_world(tmp_path, scenario)


@needs("nghttp")
def test_nghttp_sees_its_streams_answered(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        async with H2App(echo) as app:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=app.address)
            options = ("-ns", "--no-dep", "-H", f":authority: {payment.authority}")
            out = await run("nghttp", *options, *(url_of(cart, f"/{n}") for n in range(5)))
            assert len(re.findall(rb" 200 +0 +/[0-4]\n", out)) == 5, out

    run_in_world(tmp_path, scenario)


@needs("h2load")
def test_a_thousand_streams_are_under_way_at_once(tmp_path: Path) -> None:
    together = asyncio.Event()
    under_way = 0

    async def all_at_once(request: Seen) -> Answer:
        nonlocal under_way
        under_way += 1
        if under_way == 1000:
            together.set()
        await asyncio.wait_for(together.wait(), 5.0)
        return 200, {}, b"x" * 100

    async def scenario(made: World) -> None:
        async with H2App(all_at_once) as app:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=app.address)
            options = ("-n", "2000", "-c", "1", "-m", "1000", "-H", f":authority: {payment.authority}")
            out = await run("h2load", *options, url_of(cart))
            assert b"2000 done, 2000 succeeded, 0 failed, 0 errored" in out, out
            assert app.accepted == 1
            assert cart.metric("response_total", direction="outbound", status_code="200") == 2000
            assert cart.proxy.outbound.in_flight == payment.proxy.inbound.in_flight == 0

    run_in_world(tmp_path, scenario)


@needs("curl")
def test_curl_connects_through_the_proxy_to_a_service(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", echo)
        options = ("--proxytunnel", "-x", url_of(cart), "--noproxy", "", "-d", "through", "-w", "%{http_connect}")
        out = await run("curl", "-sS", "--max-time", "10", *options, f"http://{payment.authority}/")
        assert out == b"through200"
        nowhere = authority_of("nowhere")
        made.serve_unknown(nowhere)
        with pytest.raises(AssertionError, match="CONNECT tunnel failed, response 502"):
            await run("curl", "-sS", "--max-time", "10", *options, f"http://{nowhere}/")

    run_in_world(tmp_path, scenario)


# ---- bodies


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@needs("curl")
def test_a_hundred_megabytes_up_and_down_are_streamed_not_held(tmp_path: Path) -> None:
    received = 0
    piece = bytes(range(256)) * 256

    async def sink_and_source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"PUT"):
            while received < HUNDRED_MB:
                received += len(await reader.read(1 << 18))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(piece) * 1526))
        for _ in range(1526):
            writer.write(piece)
            await writer.drain()

    async def scenario(made: World) -> None:
        async with RawServer(sink_and_source) as server:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=server.address)
            host = f"host: {payment.authority}"
            (tmp_path / "body").write_bytes(bytes(HUNDRED_MB))
            peak = before = resident_bytes()
            for options in (("-T", str(tmp_path / "body"), "-H", "Expect:"), ("-o", "/dev/null")):
                transfer = asyncio.ensure_future(
                    curl(cart, *options, "-w", "%{http_code} %{size_upload} %{size_download}", "-H", host, url_of(cart))
                )
                while not transfer.done():
                    await asyncio.sleep(0.02)
                    peak = max(peak, resident_bytes())
                assert await transfer in (b"200 100000000 0", b"200 0 %d" % (len(piece) * 1526))
            assert received == HUNDRED_MB
            assert peak - before < 30_000_000

    run_in_world(tmp_path, scenario)


@needs("curl")
def test_an_early_response_reaches_a_client_that_still_uploads(tmp_path: Path) -> None:
    async def refuse(request: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmuch")
        await writer.drain()
        await request.read(100_000)

    async def scenario(made: World) -> None:
        async with RawServer(refuse) as server:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=server.address)
            (tmp_path / "body").write_bytes(bytes(30_000_000))
            upload = ("-T", str(tmp_path / "body"), "-H", "Expect:", "-H", f"host: {payment.authority}")
            out = await curl(cart, "--http1.1", *upload, "-w", "%{http_code}", url_of(cart))
            assert out == b"much413"
            assert cart.proxy.outbound.in_flight == payment.proxy.inbound.in_flight == 0

    run_in_world(tmp_path, scenario)


@needs("nghttp")
def test_an_early_response_reaches_an_http_2_client_that_still_uploads(tmp_path: Path) -> None:
    """Not curl 7.88, which takes RST_STREAM(NO_ERROR) behind a whole response for an error (RFC 9113 section 8.1)."""

    async def refuse(request: Seen) -> Answer:
        return 413, {}, b"much"

    async def scenario(made: World) -> None:
        async with H2App(refuse, early=True) as app:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=app.address)
            (tmp_path / "body").write_bytes(bytes(5_000_000))
            options = ("-v", "--no-dep", "-d", str(tmp_path / "body"), "-H", f":authority: {payment.authority}")
            out = await run("nghttp", *options, url_of(cart))
            assert b":status: 413" in out
            assert b"much" in out
            assert cart.proxy.outbound.in_flight == payment.proxy.inbound.in_flight == 0

    run_in_world(tmp_path, scenario)


@needs("curl")
def test_curl_that_expects_100_continue_is_told_to_go_on(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", echo)
        options = ("-i", "--expect100-timeout", "15", "-H", "Expect: 100-continue", "-d", "go on")
        out = await curl(cart, *options, "-H", f"host: {payment.authority}", url_of(cart))
        assert out.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert out.endswith(b"\r\n\r\ngo on")

    run_in_world(tmp_path, scenario)


def test_trailers_cross_the_mesh_both_ways(tmp_path: Path) -> None:
    heard = b""

    async def trail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"x-digest: abc\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n")
        writer.write(b"3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n")

    async def scenario(made: World) -> None:
        async with RawServer(trail) as server:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=server.address)
            reader, writer = await open_to(cart)
            chunked = ("te: trailers", "connection: te", "transfer-encoding: chunked", "trailer: x-digest")
            writer.write(head_of("POST", "/", payment, *chunked) + b"4\r\nbody\r\n0\r\nx-digest: abc\r\n\r\n")
            answer = await asyncio.wait_for(reader.readuntil(b"x-sum: 6\r\n\r\n"), 5.0)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"3\r\nabc\r\n0\r\n" in answer
            assert b"4\r\nbody\r\n0\r\n" in heard
            writer.close()

    run_in_world(tmp_path, scenario)


def test_answers_without_a_body_keep_the_connection_in_step(tmp_path: Path) -> None:
    async def bare(request: Seen) -> Answer:
        status = int(request.path[1:])
        return status, {"content-length": "7"} if status == 200 else {}, b"" if status != 200 else b"7 bytes"

    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", bare)
        client = await cart.client()
        for method, path in (("HEAD", "/200"), ("GET", "/204"), ("GET", "/304"), ("HEAD", "/204"), ("GET", "/200")):
            reply = await asyncio.wait_for(client.request(method, path, payment.authority), 5.0)
            assert reply.status == int(path[1:])
            assert reply.body == (b"7 bytes" if (method, path) == ("GET", "/200") else b"")
            if path == "/200":
                assert reply.headers["content-length"] == "7"
        assert payment.app is not None
        assert payment.app.connections == 1

    run_in_world(tmp_path, scenario)


# ---- ends that go away


async def half_of_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    framing = b"transfer-encoding: chunked" if b"/chunked" in head else b"content-length: 1000"
    body = b"3\r\nabc\r\n" if b"/chunked" in head else b"abc"
    writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body)
    await writer.drain()
    await asyncio.sleep(0.1)
    if b"/reset" in head:
        writer.transport.abort()


@pytest.mark.parametrize("path", ["/chunked", "/length", "/chunked/reset", "/length/reset"])
def test_a_server_that_dies_in_mid_response_is_noticed_by_the_client(tmp_path: Path, path: str) -> None:
    async def scenario(made: World) -> None:
        async with RawServer(half_of_it) as server:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=server.address)
            reader, writer = await open_to(cart)
            writer.write(head_of("GET", path, payment))
            assert (await reader.readuntil(b"abc")).startswith(b"HTTP/1.1 200 OK\r\n")
            try:
                rest = await asyncio.wait_for(reader.read(), 5.0)
            except ConnectionResetError:
                rest = b""
            assert b"0\r\n\r\n" not in rest
            assert len(rest) < 10
            writer.close()
            assert payment.metric("response_total", direction="inbound", classification="failure") == 1
            assert cart.metric("response_total", direction="outbound", classification="failure") == 1
            assert cart.proxy.outbound.in_flight == 0

    run_in_world(tmp_path, scenario)


@needs("curl")
@pytest.mark.parametrize("status", [0, -1, -2])
def test_an_http_2_server_that_dies_in_mid_response_is_noticed_by_the_client(tmp_path: Path, status: int) -> None:
    async def broken(request: Seen) -> Answer:
        return status, {"content-length": "10"}, b"0123456789"

    async def scenario(made: World) -> None:
        async with H2App(broken) as app:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=app.address)
            options = ("-H", f"host: {payment.authority}", "-w", "%{http_code}", "-d", "post")
            if status == -1:
                with pytest.raises(AssertionError, match=r"HTTP/2 stream .* was not closed cleanly"):
                    await curl(cart, "--http2-prior-knowledge", *options, url_of(cart))
            else:
                assert await curl(cart, "--http2-prior-knowledge", *options, url_of(cart)) == b"502"
            assert len(app.requests) == 1, "a POST is not repeated"
            assert cart.proxy.outbound.in_flight == 0

    run_in_world(tmp_path, scenario)


def test_a_client_that_leaves_in_mid_response_takes_the_servers_work_with_it(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while not writer.transport.is_closing():
                writer.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0.001)
        finally:
            gone.set()

    async def scenario(made: World) -> None:
        async with RawServer(endless) as server:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=server.address)
            reader, writer = await open_to(cart)
            writer.write(head_of("GET", "/", payment))
            await reader.readexactly(10_000)
            writer.transport.abort()
            await asyncio.wait_for(gone.wait(), 5.0)
            assert cart.proxy.outbound.in_flight == payment.proxy.inbound.in_flight == 0
            assert cart.metric("response_total", direction="outbound", error="cancelled") == 1
            assert cart.metric("tcp_open_connections", direction="outbound", peer="dst") == 1, "it is shared"

    run_in_world(tmp_path, scenario)


def test_a_try_that_times_out_takes_the_servers_work_with_it(tmp_path: Path) -> None:
    """The app sees its connection end: one that cancels what nobody waits for can stop. The proxies keep theirs."""
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == b""
        gone.set()
        writer.close()

    async def scenario(made: World) -> None:
        async with RawServer(silent) as server:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=server.address)
            timeouts = TimeoutSpec(response_seconds=0.2)
            made.control.policy(payment.authority, routes=(HttpRouteSpec(name="r", timeouts=timeouts),))
            assert (await cart.send(payment)).status == 504
            await asyncio.wait_for(gone.wait(), 2.0)
            assert payment.proxy.inbound.in_flight == 0
            assert cart.metric("tcp_open_connections", direction="outbound", peer="dst") == 1

    run_in_world(tmp_path, scenario)


# ---- WebSocket


async def talk(connection: websockets.asyncio.server.ServerConnection) -> None:
    async for message in connection:
        if message == "die":
            connection.transport.abort()
        await connection.send(message)


Socket = websockets.asyncio.client.ClientConnection


def over_websocket(path: Path, scenario: Callable[[World, Pod, Pod, Socket], Awaitable[None]]) -> None:
    async def inside(made: World) -> None:
        port = free_port()
        async with websockets.asyncio.server.serve(talk, "127.0.0.1", port) as server:
            cart = await made.pod("cart")
            payment = await made.pod("payment", app=Address("127.0.0.1", port))
            listen = cart.config.outbound_listen
            url = f"ws://{payment.authority}/chat"
            async with websockets.asyncio.client.connect(url, host=listen.host, port=listen.port, proxy=None) as socket:
                await scenario(made, cart, payment, socket)
                server.close()

    run_in_world(path, inside)


def test_a_websocket_echoes_pings_and_closes_over_the_mesh(tmp_path: Path) -> None:
    async def scenario(made: World, cart: Pod, payment: Pod, socket: Socket) -> None:
        large = hashlib.sha256(b"x").digest() * 30_000
        for message in ("text", b"\x00binary", large):
            await socket.send(message)
            assert await asyncio.wait_for(socket.recv(), 5.0) == message
        await asyncio.wait_for(await socket.ping(), 5.0)
        assert (await cart.send(payment, "/")).status == 426, "others go their own way meanwhile"
        await socket.close(1000, "done")
        assert (socket.close_code, socket.close_reason) == (1000, "done")
        await until(lambda: cart.proxy.outbound.in_flight == payment.proxy.inbound.in_flight == 0)
        assert cart.metric("response_total", direction="outbound", status_code="101") == 1

    over_websocket(tmp_path, scenario)


def test_a_websocket_whose_server_vanishes_is_closed_for_its_client(tmp_path: Path) -> None:
    async def scenario(made: World, cart: Pod, payment: Pod, socket: Socket) -> None:
        await socket.send("die")
        with pytest.raises(ConnectionClosedError):
            await asyncio.wait_for(socket.recv(), 5.0)
        await until(lambda: cart.proxy.outbound.in_flight == payment.proxy.inbound.in_flight == 0)

    over_websocket(tmp_path, scenario)


def test_half_of_an_upgraded_connection_may_be_closed(tmp_path: Path) -> None:
    """The client says its last word and still hears the answer."""

    async def listen_to_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\nhello ")
        writer.write(b"heard " + await reader.read(-1))

    async def scenario(made: World) -> None:
        async with RawServer(listen_to_the_end) as server:
            cart, payment = await made.pod("cart"), await made.pod("payment", app=server.address)
            reader, writer = await open_to(cart)
            writer.write(head_of("GET", "/", payment, "connection: upgrade", "upgrade: lines") + b"first ")
            answer = await reader.readuntil(b"hello ")
            assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
            writer.write(b"last")
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 5.0) == b"heard first last"
            writer.close()

    run_in_world(tmp_path, scenario)
