"""What clients see through two proxies when apps fail, hang, stream or disappear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from proxy_world import Seen, World, answer_ok, run_in_world

from mesh.api.messages import (
    FailureAccrualSpec,
    HttpRouteSpec,
    ProfileRoute,
    QueueSpec,
    RetryBudgetSpec,
    RetrySpec,
    TimeoutSpec,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

Answer = tuple[int, dict[str, str], bytes]


def failing(times: int, status: int = 503) -> Callable[[Seen], Awaitable[Answer]]:
    """Answers `status` that many times, then 200."""
    left = times

    async def behave(request: Seen) -> Answer:
        nonlocal left
        left -= 1
        return (status if left >= 0 else 200), {}, request.body or b"ok"

    return behave


async def hang(request: Seen) -> Answer:
    await asyncio.sleep(3600)
    raise AssertionError


# ---- retries


def test_annotation_retries_save_a_request_within_the_limit(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", failing(2))
        retry = RetrySpec(statuses=((500, 599),), limit=2)
        made.control.policy(payment.authority, routes=(HttpRouteSpec(name="charge", retry=retry),))
        reply = await cart.send(payment, "/charge", "POST", b"body to replay")
        assert (reply.status, reply.body) == (200, b"body to replay")
        assert cart.metric("response_total", direction="outbound", classification="failure") == 2
        assert cart.metric("outbound_http_route_request_statuses_total", route_name="charge", http_status="200") == 1
        assert cart.metric("outbound_http_route_retry_requests_total") == 2
        assert cart.metric("outbound_http_route_retry_successes_total") == 1

    run_in_world(tmp_path, scenario)


def test_the_limit_ends_the_retries(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", failing(99))
        retry = RetrySpec(statuses=((503, 503),), limit=3)
        made.control.policy(payment.authority, routes=(HttpRouteSpec(name="r", retry=retry),))
        assert (await cart.send(payment)).status == 503
        assert payment.app is not None
        assert len(payment.app.requests) == 4
        assert cart.metric("outbound_http_route_retry_limit_exceeded_total") == 1

    run_in_world(tmp_path, scenario)


def test_the_budget_holds_amplification_down(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", failing(10_000))
        made.control.profile(
            payment.authority,
            routes=(ProfileRoute(name="pay", is_retryable=True),),
            retry_budget=RetryBudgetSpec(retry_ratio=0.2, min_retries_per_second=1, ttl_seconds=10.0),
        )
        for _ in range(50):
            assert (await cart.send(payment)).status == 503
        assert payment.app is not None
        assert len(payment.app.requests) == 60, (
            "in an outage nothing deposits: the reserve of 1/s x 10 s is all there is"
        )
        assert cart.metric("route_request_total", rt_route="pay") == 50
        assert cart.metric("route_actual_request_total", rt_route="pay") == 60
        assert cart.metric("route_retry_skipped_total", skipped="no_budget") >= 40

    run_in_world(tmp_path, scenario)


@pytest.mark.parametrize(("size", "tries"), [(65_536, 2), (65_537, 1)])
def test_bodies_up_to_64_kib_are_replayed_and_larger_ones_are_not(tmp_path: Path, size: int, tries: int) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", failing(1))
        retry = RetrySpec(statuses=((500, 599),), limit=1)
        made.control.policy(payment.authority, routes=(HttpRouteSpec(name="r", retry=retry),))
        reply = await cart.send(payment, "/", "POST", b"x" * size)
        assert payment.app is not None
        assert [len(request.body) for request in payment.app.requests] == [size] * tries
        assert reply.status == (200 if tries == 2 else 503)

    run_in_world(tmp_path, scenario)


# ---- timeouts


def test_response_and_request_timeouts_are_504(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", hang)
        for spec, text in (
            (TimeoutSpec(response_seconds=0.2), "response timed out"),
            (TimeoutSpec(request_seconds=0.2), "request timed out"),
        ):
            made.control.policy(payment.authority, routes=(HttpRouteSpec(name="r", timeouts=spec),))
            await asyncio.sleep(0.1)
            started = time.monotonic()
            reply = await cart.send(payment)
            assert (reply.status, reply.headers["l5d-proxy-error"]) == (504, text)
            assert time.monotonic() - started < 2.0
        assert cart.metric("outbound_http_errors_total", error="response timeout") == 1

    run_in_world(tmp_path, scenario)


def test_a_try_timeout_is_retried(tmp_path: Path) -> None:
    slow_first = True

    async def behave(request: Seen) -> Answer:
        nonlocal slow_first
        if slow_first:
            slow_first = False
            return await hang(request)
        return await answer_ok(request)

    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", behave)
        # On a busy machine the first try may be over before the app has seen it, and the last one has no timeout.
        retry = RetrySpec(statuses=((500, 599),), limit=5, timeout_seconds=0.2)
        made.control.policy(payment.authority, routes=(HttpRouteSpec(name="r", retry=retry),))
        assert (await cart.send(payment)).status == 200
        assert cart.metric("outbound_http_route_retry_successes_total") == 1

    run_in_world(tmp_path, scenario)


# ---- apps that are not there


def test_an_app_that_is_not_there_is_502_then_504_then_503(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        assert payment.app is not None
        await payment.app.stop()
        first = await cart.send(payment)
        assert (first.status, first.headers["l5d-proxy-error"]) == (502, "connection failed")
        statuses = [(await cart.send(payment)).status for _ in range(30)]
        assert set(statuses) <= {502, 503, 504}
        await payment.app.start()
        deadline = time.monotonic() + 12.0
        while (await cart.send(payment)).status != 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)

    run_in_world(tmp_path, scenario)


def test_a_kept_connection_that_the_app_closed_costs_an_idempotent_request_nothing(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        assert payment.app is not None
        for _ in range(5):
            assert (await cart.send(payment)).status == 200
            await payment.app.stop()
            await payment.app.start()

    run_in_world(tmp_path, scenario)


def test_a_connection_that_breaks_in_the_middle_of_a_post_is_502_and_not_repeated(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        payment = await made.pod("payment")
        app = payment.app
        assert app is not None

        async def die(request: Seen) -> Answer:
            if request.path == "/die":
                await app.stop()
                await app.start()
            return await answer_ok(request)

        app.behave = die
        cart = await made.pod("cart")
        assert (await cart.send(payment, "/warm", "POST", b"x")).status == 200
        assert (await cart.send(payment, "/die", "POST", b"x")).status == 502
        assert [request.path for request in app.requests] == ["/warm", "/die"]

    run_in_world(tmp_path, scenario)


def test_a_breaker_keeps_requests_away_from_a_pod_that_fails_in_a_row(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, bad = await made.pod("cart"), await made.pod("bad", failing(10_000, status=500))
        accrual = FailureAccrualSpec(max_failures=3, min_penalty_seconds=30.0)
        queue = QueueSpec(capacity=10, failfast_seconds=0.3)
        made.control.policy(bad.authority, failure_accrual=accrual, queue=queue)
        statuses = [(await cart.send(bad)).status for _ in range(5)]
        assert statuses == [500, 500, 500, 504, 503]
        assert bad.app is not None
        assert len(bad.app.requests) == 3
        assert cart.metric("outbound_http_balancer_endpoints", endpoint_state="pending") == 1

    run_in_world(tmp_path, scenario)


def test_a_full_queue_sheds_at_once(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, empty = await made.pod("cart"), await made.pod("empty")
        made.control.endpoints(empty.authority, [])
        made.control.policy(empty.authority, queue=QueueSpec(capacity=2, failfast_seconds=1.0))
        replies = await asyncio.gather(*(cart.send(empty) for _ in range(5)))
        assert sorted(reply.status for reply in replies) == [503, 503, 503, 504, 504]

    run_in_world(tmp_path, scenario)


# ---- HTTP


def test_large_bodies_stream_both_ways_without_being_held(tmp_path: Path) -> None:
    size = 20_000_000

    async def echo(request: Seen) -> Answer:
        return 200, {}, b"y" * size

    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", echo)
        reply = await cart.send(payment, "/", "POST", b"x" * size)
        assert payment.app is not None
        assert len(payment.app.requests[0].body) == size
        assert len(reply.body) == size

    run_in_world(tmp_path, scenario)


def test_a_client_that_does_not_read_holds_the_server_back(tmp_path: Path) -> None:
    async def firehose(request: Seen) -> Answer:
        return 200, {}, b"y" * 50_000_000

    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", firehose)
        client = await cart.client()
        request = f"GET http://{payment.authority}/ HTTP/1.1\r\nhost: {payment.authority}\r\n\r\n"
        client.writer.write(request.encode())
        await asyncio.sleep(1.5)
        read = cart.metric("tcp_read_bytes_total", direction="outbound", peer="dst")
        assert 0 < read < 30_000_000, "the proxy stopped reading when its client did"
        received = 0
        while received < 50_000_000:
            data = await asyncio.wait_for(client.reader.read(1 << 20), 10.0)
            assert data
            received += len(data)

    run_in_world(tmp_path, scenario)


def test_a_server_that_does_not_read_holds_the_client_back(tmp_path: Path) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(3600)

    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        assert payment.app is not None
        await payment.app.stop()
        server = await asyncio.start_server(deaf, payment.app.address.host, payment.app.address.port)
        client = await cart.client()
        head = f"POST / HTTP/1.1\r\nhost: {payment.authority}\r\ncontent-length: 100000000\r\n\r\n"
        client.writer.write(head.encode())

        async def push() -> None:
            for _ in range(100):
                client.writer.write(b"x" * 1_000_000)
                await client.writer.drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(push(), 2.0)
        assert cart.metric("tcp_read_bytes_total", direction="outbound", peer="src") < 40_000_000
        server.close()

    run_in_world(tmp_path, scenario)


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def slow_first(request: Seen) -> Answer:
        if request.path == "/0":
            await asyncio.sleep(0.2)
        return 200, {}, request.path.encode()

    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", slow_first)
        client = await cart.client()
        requests = [f"GET /{n} HTTP/1.1\r\nhost: {payment.authority}\r\n\r\n" for n in range(5)]
        client.writer.write("".join(requests).encode())
        data = b""
        while data.count(b"HTTP/1.1 200") < 5 or not data.endswith(b"/4"):
            data += await asyncio.wait_for(client.reader.read(65536), 5.0)
        order = [part.rpartition(b"\r\n\r\n")[2] for part in data.split(b"HTTP/1.1 200")[1:]]
        assert order == [b"/0", b"/1", b"/2", b"/3", b"/4"]

    run_in_world(tmp_path, scenario)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_cannot_be_trusted_is_refused_and_the_connection_closed(tmp_path: Path, raw: bytes, status: int) -> None:
    async def scenario(made: World) -> None:
        cart = await made.pod("cart")
        for address in (cart.config.outbound_listen, cart.config.inbound_listen):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(raw)
            answer = await asyncio.wait_for(reader.read(), 5.0)
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            assert b"connection: close" in answer
            writer.close()

    run_in_world(tmp_path, scenario)


def test_expect_continue_is_answered_before_the_body_is_sent(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        client = await cart.client()
        head = f"POST / HTTP/1.1\r\nhost: {payment.authority}\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
        client.writer.write(head.encode())
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        client.writer.write(b"body")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert payment.app is not None
        assert payment.app.requests[0].body == b"body"

    run_in_world(tmp_path, scenario)


def test_head_and_http_1_0_and_chunked_requests(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        client = await cart.client()
        reply = await client.request("HEAD", "/", payment.authority)
        assert (reply.status, reply.headers["content-length"], reply.body) == (200, "5", b"")
        headers = {"transfer-encoding": "chunked"}
        assert (await client.request("POST", "/", payment.authority, headers, b"chunky")).status == 200
        assert payment.app is not None
        assert payment.app.requests[-1].body == b"chunky"
        old = await cart.client()
        old.writer.write(f"GET / HTTP/1.0\r\nhost: {payment.authority}\r\n\r\n".encode())
        answer = await asyncio.wait_for(old.reader.read(), 5.0)
        assert answer.endswith(b"hello")
        assert b"connection: close" in answer

    run_in_world(tmp_path, scenario)


def test_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", hang)
        client = await cart.client()
        client.writer.write(f"GET / HTTP/1.1\r\nhost: {payment.authority}\r\n\r\n".encode())
        assert payment.app is not None
        while not payment.app.requests:
            await asyncio.sleep(0.01)
        client.close()
        deadline = time.monotonic() + 3.0
        while cart.proxy.outbound.in_flight or payment.proxy.inbound.in_flight:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        entry = cart.proxy.discovery.cache.get(payment.authority)
        assert entry is not None
        assert all(state.load.pending == 0 for state in entry.destination.backend.endpoints.values())

    run_in_world(tmp_path, scenario)


def test_draining_finishes_what_is_under_way(tmp_path: Path) -> None:
    async def slow(request: Seen) -> Answer:
        await asyncio.sleep(0.5)
        return await answer_ok(request)

    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment", slow)
        under_way = asyncio.ensure_future(cart.send(payment))
        await asyncio.sleep(0.2)
        drains = asyncio.gather(cart.proxy.drain(), payment.proxy.drain())
        reply = await under_way
        assert (reply.status, reply.body) == (200, b"hello")
        await asyncio.wait_for(drains, 5.0)
        with pytest.raises(ConnectionRefusedError):
            await cart.client()

    run_in_world(tmp_path, scenario)


def test_the_admin_port_answers(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart = await made.pod("cart")
        address = cart.config.admin_listen

        async def ask(method: str, path: str, body: str = "") -> bytes:
            reader, writer = await asyncio.open_connection(address.host, address.port)
            head = f"{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write((head + body).encode())
            return await reader.read()

        assert b"200 OK" in await ask("GET", "/live")
        assert b"200 OK" in await ask("GET", "/ready")
        metrics = await ask("GET", "/metrics")
        for name in (b"process_cpu_seconds_total", b"process_resident_memory_bytes", b"proxy_build_info{"):
            assert name in metrics
        assert b"204" in await ask("PUT", "/proxy-log-level", "debug")
        assert b"debug" in await ask("GET", "/proxy-log-level")
        assert b"204" in await ask("PUT", "/proxy-log-level", "warn")
        assert b"400" in await ask("PUT", "/proxy-log-level", "loud")
        assert b"404" in await ask("GET", "/nothing")

    run_in_world(tmp_path, scenario)
