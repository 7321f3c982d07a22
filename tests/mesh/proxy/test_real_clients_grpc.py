"""gRPC through two proxies over mutual TLS, with the gRPC library's own client and server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from proxy_world import Pod, World, run_in_world, until

from benchmarks.ports import free_port
from mesh.api.messages import HttpRouteSpec, RetrySpec, TimeoutSpec
from mesh.proxy.config import Address

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(30)]

BIG = 20_000_000
LIMITS = [("grpc.max_receive_message_length", 2 * BIG), ("grpc.max_send_message_length", 2 * BIG)]


class Echo(grpc.GenericRpcHandler):
    """What the method is called is what it does; messages are plain bytes."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.cancelled = 0
        self.sent = 0
        self.left_to_fail = 0

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        name = details.method.rpartition("/")[2]
        self.calls.append(name)
        if name in ("collect",):
            return grpc.stream_unary_rpc_method_handler(self.collect)
        if name in ("many", "flood", "break_off"):
            return grpc.unary_stream_rpc_method_handler(getattr(self, name))
        if name in ("chat",):
            return grpc.stream_stream_rpc_method_handler(self.chat)
        return grpc.unary_unary_rpc_method_handler(getattr(self, name))

    async def unary(self, request: bytes, context: Any) -> bytes:
        sent = dict(context.invocation_metadata())
        await context.send_initial_metadata((("seen-client", sent.get("l5d-client-id", "")), ("data-bin", b"\x00\xff")))
        context.set_trailing_metadata((("trail", sent.get("asked", "")),))
        return request

    async def hang(self, request: bytes, context: Any) -> bytes:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError

    async def fail(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode(STATUSES[request]), "as asked: ü%")
        raise AssertionError

    async def fail_late(self, request: bytes, context: Any) -> bytes:
        """Its status comes in trailers behind a head."""
        await context.send_initial_metadata(())
        return await self.fail_some(request, context)

    async def fail_some(self, request: bytes, context: Any) -> bytes:
        self.left_to_fail -= 1
        if self.left_to_fail >= 0:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return request

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b",".join([request async for request in requests])

    async def many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def flood(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(400):
            yield request
            self.sent += len(request)

    async def break_off(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        await context.abort(grpc.StatusCode.DATA_LOSS, "half way")

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()


STATUSES = {status.name.encode(): status.value for status in grpc.StatusCode}


@asynccontextmanager
async def call_through_the_mesh(made: World) -> AsyncIterator[tuple[Echo, grpc.aio.Channel, Pod, Pod]]:
    """A gRPC server behind `payment`'s proxy and a channel through `cart`'s."""
    echo, port = Echo(), free_port()
    server = grpc.aio.server(options=LIMITS)
    server.add_generic_rpc_handlers((echo,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    cart, payment = await made.pod("cart"), await made.pod("payment", app=Address("127.0.0.1", port))
    options = [*LIMITS, ("grpc.default_authority", payment.authority), ("grpc.enable_http_proxy", 0)]
    channel = grpc.aio.insecure_channel(str(cart.config.outbound_listen), options=options)
    try:
        yield echo, channel, cart, payment
    finally:
        await channel.close()
        await server.stop(None)


def over_grpc(path: Path, scenario: Callable[..., Awaitable[None]]) -> None:
    async def inside(made: World) -> None:
        async with call_through_the_mesh(made) as parts:
            await scenario(made, *parts)

    run_in_world(path, inside)


def test_all_four_shapes_of_a_grpc_call_cross_the_mesh(tmp_path: Path) -> None:
    async def scenario(made: World, echo: Echo, channel: grpc.aio.Channel, cart: Pod, payment: Pod) -> None:
        async def letters() -> AsyncIterator[bytes]:
            for letter in (b"a", b"b", b"c"):
                yield letter

        assert await channel.unary_unary("/shop.Echo/unary")(b"\x00" * 10) == b"\x00" * 10
        assert [m async for m in channel.unary_stream("/shop.Echo/many")(b"500")] == [b"%d" % n for n in range(500)]
        assert await channel.stream_unary("/shop.Echo/collect")(letters()) == b"a,b,c"
        chat = channel.stream_stream("/shop.Echo/chat")()
        for letter in (b"x", b"y"):
            await chat.write(letter)
            assert await chat.read() == letter.upper(), "each message is answered before the next one is sent"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert await chat.code() is grpc.StatusCode.OK
        for pod, direction in ((cart, "outbound"), (payment, "inbound")):
            assert pod.metric("response_total", direction=direction, grpc_status="0", classification="success") == 4

    over_grpc(tmp_path, scenario)


def test_metadata_and_trailers_cross_the_mesh_and_the_server_hears_who_called(tmp_path: Path) -> None:
    async def scenario(made: World, echo: Echo, channel: grpc.aio.Channel, cart: Pod, payment: Pod) -> None:
        call = channel.unary_unary("/shop.Echo/unary")(b"", metadata=(("asked", "yes"), ("l5d-client-id", "root")))
        await call
        assert {**dict(await call.initial_metadata())} == {"seen-client": cart.identity, "data-bin": b"\x00\xff"}
        assert dict(await call.trailing_metadata()) == {"trail": "yes"}

    over_grpc(tmp_path, scenario)


def test_every_grpc_status_and_its_message_reach_the_client(tmp_path: Path) -> None:
    failures = {"UNKNOWN", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

    async def scenario(made: World, echo: Echo, channel: grpc.aio.Channel, cart: Pod, payment: Pod) -> None:
        for status in grpc.StatusCode:
            if status is grpc.StatusCode.OK:
                continue
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/shop.Echo/fail")(status.name.encode())
            assert (caught.value.code(), caught.value.details()) == (status, "as asked: ü%")
            classified = "failure" if status.name in failures else "success"
            code = str(status.value[0])
            assert cart.metric("response_total", grpc_status=code, classification=classified) == 1, status
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            assert [m async for m in channel.unary_stream("/shop.Echo/break_off")(b"one")] == [b"one"]
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS

    over_grpc(tmp_path, scenario)


def test_messages_larger_than_every_window_cross_both_ways(tmp_path: Path) -> None:
    async def scenario(made: World, echo: Echo, channel: grpc.aio.Channel, cart: Pod, payment: Pod) -> None:
        message = bytes(range(256)) * (BIG // 256)
        assert await channel.unary_unary("/shop.Echo/unary")(message) == message

    over_grpc(tmp_path, scenario)


def test_a_grpc_client_that_does_not_read_holds_the_server_back(tmp_path: Path) -> None:
    async def scenario(made: World, echo: Echo, channel: grpc.aio.Channel, cart: Pod, payment: Pod) -> None:
        call = channel.unary_stream("/shop.Echo/flood")(b"x" * 100_000)
        assert len(await call.read()) == 100_000
        before = -1
        while echo.sent != before:
            before = echo.sent
            await asyncio.sleep(0.3)
        assert echo.sent < 20_000_000, "the windows shut from the client to the server"
        assert await channel.unary_unary("/shop.Echo/unary")(b"others go on") == b"others go on"
        received = 1
        while await call.read() is not grpc.aio.EOF:
            received += 1
        assert received == 400

    over_grpc(tmp_path, scenario)


def test_a_grpc_deadline_ends_the_call_on_every_leg(tmp_path: Path) -> None:
    async def scenario(made: World, echo: Echo, channel: grpc.aio.Channel, cart: Pod, payment: Pod) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/shop.Echo/hang")(b"", timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: echo.cancelled == 1)
        assert cart.proxy.outbound.in_flight == payment.proxy.inbound.in_flight == 0

    over_grpc(tmp_path, scenario)


def test_a_cancelled_grpc_call_is_cancelled_at_the_server_and_its_connection_goes_on(tmp_path: Path) -> None:
    async def scenario(made: World, echo: Echo, channel: grpc.aio.Channel, cart: Pod, payment: Pod) -> None:
        await channel.unary_unary("/shop.Echo/unary")(b"")
        call = channel.unary_unary("/shop.Echo/hang")(b"")
        await until_called(echo, "hang")
        call.cancel()
        await until(lambda: echo.cancelled == 1)
        assert await channel.unary_unary("/shop.Echo/unary")(b"still") == b"still"
        assert cart.metric("tls_handshakes_total", direction="outbound") == 1

    over_grpc(tmp_path, scenario)


async def until_called(echo: Echo, name: str) -> None:
    while name not in echo.calls:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("method", ["fail_some", "fail_late"])
def test_a_grpc_retry_by_annotation_saves_a_call_whose_status_came_in_trailers(tmp_path: Path, method: str) -> None:
    async def scenario(made: World, echo: Echo, channel: grpc.aio.Channel, cart: Pod, payment: Pod) -> None:
        retry = RetrySpec(statuses=(), grpc_codes=(14,), limit=2)
        route = HttpRouteSpec(name="echo", kind="grpc", retry=retry)
        made.control.policy(payment.authority, routes=(route,), protocol="http2")
        echo.left_to_fail = 2
        assert await channel.unary_unary(f"/shop.Echo/{method}")(b"body to replay") == b"body to replay"
        assert echo.calls == [method] * 3
        assert cart.metric("outbound_grpc_route_retry_successes_total") == 1
        echo.left_to_fail = 3
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/shop.Echo/{method}")(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert cart.metric("outbound_grpc_route_retry_limit_exceeded_total") == 1

    over_grpc(tmp_path, scenario)


def test_what_the_proxy_itself_answers_is_a_grpc_status_for_a_grpc_client(tmp_path: Path) -> None:
    async def scenario(made: World, echo: Echo, channel: grpc.aio.Channel, cart: Pod, payment: Pod) -> None:
        route = HttpRouteSpec(name="echo", kind="grpc", timeouts=TimeoutSpec(response_seconds=0.1))
        made.control.policy(payment.authority, routes=(route,))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/shop.Echo/hang")(b"")
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert caught.value.details() == "response timed out"
        made.control.inbound("shop", "payment-0", payment.proxy.config.app.port, "deny")
        await until(lambda: payment.proxy.inbound.policy.message.server_name == "deny")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/shop.Echo/unary")(b"")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    over_grpc(tmp_path, scenario)
