"""What the control plane decides, seen from outside two proxies: routes, filters, mirrors, timeouts, breakers, inbound
policy. The decisions themselves are tested on virtual time; here they are carried out over real sockets and TLS.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from h2_app import H2App
from proxy_world import Client, Pod, Seen, World, answer_ok, authority_of, run_in_world, until

from mesh.api.messages import (
    AuthorizationSpec,
    BackendSpec,
    FailureAccrualSpec,
    FiltersSpec,
    HeaderChange,
    HttpRouteSpec,
    InboundPolicy,
    InboundRoute,
    MirrorSpec,
    PathChange,
    QueueSpec,
    RateLimitOverride,
    RateLimitSpec,
    RedirectSpec,
    RewriteSpec,
    TimeoutSpec,
    ValueMatch,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(30)]

Answer = tuple[int, dict[str, str], bytes]


async def hang(request: Seen) -> Answer:
    await asyncio.sleep(3600)
    raise AssertionError


def seen_by(pod: Pod) -> list[Seen]:
    assert pod.app is not None
    return pod.app.requests


# ---- routes and their backends


@pytest.mark.parametrize(("weight", "requests", "least", "most"), [(1, 1000, 1, 30), (50, 300, 100, 200)])
def test_a_canary_gets_its_share(tmp_path: Path, weight: int, requests: int, least: int, most: int) -> None:
    async def scenario(made: World) -> None:
        cart, shop, canary = await made.pod("cart"), await made.pod("shop"), await made.pod("canary")
        split = (
            BackendSpec(authority=shop.authority, weight=100 - weight),
            BackendSpec(authority=canary.authority, weight=weight),
        )
        made.control.policy(shop.authority, routes=(HttpRouteSpec(name="split", backends=split),))
        client = await cart.client()
        for _ in range(requests):
            assert (await client.request("GET", "/", shop.authority)).status == 200
        share = len(seen_by(canary))
        assert least <= share <= most
        assert len(seen_by(shop)) == requests - share
        counted = cart.metric("outbound_http_route_backend_requests_total", backend_name="canary", route_name="split")
        assert counted == share

    run_in_world(tmp_path, scenario)


def test_routes_are_told_apart_by_method_path_header_and_query_and_counted(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        async def teapot(request: Seen) -> Answer:
            return 418, {}, b""

        cart, shop, other = await made.pod("cart"), await made.pod("shop"), await made.pod("other", teapot)
        there = (BackendSpec(authority=other.authority),)
        routes = (
            HttpRouteSpec(name="header", headers=(ValueMatch(name="x-beta", value="yes"),), backends=there),
            HttpRouteSpec(name="query", query_params=(ValueMatch(name="beta", value="1"),), backends=there),
            HttpRouteSpec(name="write", methods=("POST",), path_prefixes=("/api",), backends=there),
            HttpRouteSpec(name="rest", path_prefixes=("/api",)),
        )
        made.control.policy(shop.authority, routes=routes)
        assert (await cart.send(shop, "/api", x_beta="yes")).status == 418
        assert (await cart.send(shop, "/api?a=0&beta=1")).status == 418
        assert (await cart.send(shop, "/api/x", "POST", b"body")).status == 418
        assert (await cart.send(shop, "/api/x", x_beta="no")).status == 200
        missing = await cart.send(shop, "/elsewhere")
        assert missing.status == 404
        for name, status in (("header", "418"), ("query", "418"), ("write", "418"), ("rest", "200")):
            counted = cart.metric("outbound_http_route_request_statuses_total", route_name=name, http_status=status)
            assert counted == 1, name
            assert cart.metric("outbound_http_route_request_duration_seconds_count", route_name=name) == 1

    run_in_world(tmp_path, scenario)


def test_filters_change_heads_both_ways_paths_and_redirect(tmp_path: Path) -> None:
    async def tell(request: Seen) -> Answer:
        return 200, {"x-secret": "1", "x-kept": "2"}, b""

    async def scenario(made: World) -> None:
        cart, shop = await made.pod("cart"), await made.pod("shop", tell)
        change = FiltersSpec(
            request_headers=HeaderChange(set=(("x-set", "new"),), add=(("x-add", "more"),), remove=("x-gone",)),
            response_headers=HeaderChange(set=(("x-added", "3"),), remove=("x-secret",)),
            rewrite=RewriteSpec(hostname="inner.example", path=PathChange(value="/v2", prefix="/v1")),
        )
        away = FiltersSpec(redirect=RedirectSpec(status=301, scheme="https", hostname="new.example", port=8443))
        routes = (
            HttpRouteSpec(name="change", path_prefixes=("/v1",), filters=change),
            HttpRouteSpec(name="away", filters=away),
        )
        made.control.policy(shop.authority, routes=routes)
        reply = await cart.send(shop, "/v1/cart?q=1", x_set="old", x_gone="x", x_add="one")
        assert reply.status == 200
        assert (reply.headers["x-kept"], reply.headers["x-added"], "x-secret" in reply.headers) == ("2", "3", False)
        (seen,) = seen_by(shop)
        assert (seen.path, seen.headers["host"], seen.headers["x-set"]) == ("/v2/cart?q=1", "inner.example", "new")
        assert "x-gone" not in seen.headers
        assert seen.headers["x-add"] == "more", "added behind the client's own (the last of both is what is kept here)"
        reply = await cart.send(shop, "/old?q=2")
        assert (reply.status, reply.headers["location"]) == (301, "https://new.example:8443/old?q=2")
        assert len(seen_by(shop)) == 1, "a redirect goes nowhere"

    run_in_world(tmp_path, scenario)


def test_a_mirror_gets_a_copy_and_never_touches_the_answer(tmp_path: Path) -> None:
    async def broken(request: Seen) -> Answer:
        return 500, {"x-from": "shadow"}, b"never seen"

    async def scenario(made: World) -> None:
        cart, shop, shadow = await made.pod("cart"), await made.pod("shop"), await made.pod("shadow", broken)
        mirror = FiltersSpec(mirrors=(MirrorSpec(authority=shadow.authority),))
        made.control.policy(shop.authority, routes=(HttpRouteSpec(name="r", filters=mirror),))
        for body in (b"", b"small", b"x" * 60_000):
            reply = await cart.send(shop, "/pay", "POST", body)
            assert (reply.status, reply.body, "x-from" in reply.headers) == (200, b"hello", False)
        await until(lambda: len(seen_by(shadow)) == 3)
        assert sorted(len(seen.body) for seen in seen_by(shadow)) == [0, 5, 60_000]
        await until(lambda: cart.proxy.discovery.mirrors.under_way == 0)
        assert cart.metric("outbound_http_route_request_statuses_total", http_status="200", route_name="r") == 3

    run_in_world(tmp_path, scenario)


def test_mirrors_under_pressure_are_dropped_and_their_originals_are_not(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, shop, shadow = await made.pod("cart"), await made.pod("shop"), await made.pod("shadow", hang)
        mirror = FiltersSpec(mirrors=(MirrorSpec(authority=shadow.authority),))
        made.control.policy(shop.authority, routes=(HttpRouteSpec(name="r", filters=mirror),))
        client = await cart.client()
        for _ in range(300):
            assert (await client.request("GET", "/", shop.authority)).status == 200
        assert cart.metric("outbound_http_mirrors_total", result="dropped") == 44
        assert cart.proxy.discovery.mirrors.under_way == 256
        large = await client.request("POST", "/", shop.authority, body=b"x" * 3_000_000)
        assert large.status == 200

    run_in_world(tmp_path, scenario)


# ---- time


async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One byte every 50 ms, ten times, then silence."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(10):
        writer.write(b"x")
        await asyncio.sleep(0.05)
    await reader.read()
    writer.close()


def test_an_idle_timeout_ends_what_is_silent_and_spares_what_is_slow(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, shop, silent = await made.pod("cart"), await made.pod("shop"), await made.pod("silent", hang)
        assert shop.app is not None
        await shop.app.stop()
        server = await asyncio.start_server(trickle, shop.app.address.host, shop.app.address.port)
        routes = (HttpRouteSpec(name="r", timeouts=TimeoutSpec(idle_seconds=0.3)),)
        for pod in (shop, silent):
            made.control.policy(pod.authority, routes=routes)
        client = await cart.client()
        client.writer.write(f"GET / HTTP/1.1\r\nhost: {shop.authority}\r\n\r\n".encode())
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        try:
            rest = await asyncio.wait_for(client.reader.read(), 5.0)
            rest += await client.reader.read()
        except ConnectionResetError:
            rest = b"x" * 10
        assert rest == b"x" * 10, "all that came was passed on, over half a second, and then the client was cut off"
        reply = await asyncio.wait_for(cart.send(silent), 5.0)
        assert (reply.status, reply.headers["l5d-proxy-error"]) == (504, "stream idle for too long")
        await until(lambda: cart.proxy.outbound.in_flight == silent.proxy.inbound.in_flight == 0)
        server.close()

    run_in_world(tmp_path, scenario)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_a_breaker_trips_probes_once_and_closes_over_http_2(tmp_path: Path) -> None:
    status = 500

    async def ill(request: Seen) -> Answer:
        return status, {}, b""

    async def scenario(made: World) -> None:
        nonlocal status
        async with H2App(ill) as app:
            cart, shop = await made.pod("cart"), await made.pod("shop", app=app.address)
            accrual = FailureAccrualSpec(max_failures=3, min_penalty_seconds=1.5, jitter_ratio=0.0)
            made.control.policy(
                shop.authority, failure_accrual=accrual, queue=QueueSpec(capacity=10, failfast_seconds=0.1)
            )

            async def ask() -> str:
                options = ("-sS", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_code}")
                target = (f"http://{cart.config.outbound_listen}/", "-H", f"host: {shop.authority}")
                process = await asyncio.create_subprocess_exec("curl", *options, *target, stdout=-1)
                return (await process.communicate())[0].decode()

            tripped = time.monotonic()
            assert [await ask() for _ in range(5)] == ["500"] * 3 + ["504", "503"]
            while len(app.requests) == 3:
                await ask()
            assert time.monotonic() - tripped >= 1.5
            assert len(app.requests) == 4, "probation lets one request through"
            assert {await ask() for _ in range(3)} <= {"503", "504"}
            assert len(app.requests) == 4, "and its failure shuts the door for longer"
            status = 200
            while await ask() != "200":
                pass
            assert [await ask() for _ in range(3)] == ["200"] * 3

    run_in_world(tmp_path, scenario)


# ---- endpoints and load


def test_endpoints_come_and_go_under_load_and_no_request_is_lost(tmp_path: Path) -> None:
    async def brief(request: Seen) -> Answer:
        await asyncio.sleep(0.003)
        return 200, {}, request.body

    async def scenario(made: World) -> None:
        cart = await made.pod("cart")
        pods = [await made.pod(name, brief) for name in ("one", "two", "three")]
        one, two, three = pods
        sets = [[one, two], [two, three], [three], [one], [one, two, three]]
        going = True
        answers = 0

        async def ask(client: Client) -> None:
            nonlocal answers
            while going:
                reply = await client.request("POST", "/", one.authority, body=b"x" * 2000)
                assert (reply.status, len(reply.body)) == (200, 2000)
                answers += 1

        made.control.endpoints(one.authority, [pod.endpoint() for pod in sets[0]])
        work = [asyncio.ensure_future(ask(await cart.client())) for _ in range(16)]
        for _ in range(4):
            for members in sets:
                made.control.endpoints(one.authority, [pod.endpoint() for pod in members])
                await asyncio.sleep(0.06)
        going = False
        await asyncio.gather(*work)
        assert answers > 200
        assert all(len(seen_by(pod)) > 10 for pod in pods)
        assert sum(len(seen_by(pod)) for pod in pods) == answers, "and none was sent twice"

    run_in_world(tmp_path, scenario)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="no h2load on this machine")
def test_http_2_streams_survive_endpoints_that_come_and_go(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        async with H2App(answer_ok) as left, H2App(answer_ok) as right:
            cart = await made.pod("cart")
            one, two = await made.pod("one", app=left.address), await made.pod("two", app=right.address)
            command = ("h2load", "-n", "3000", "-c", "2", "-m", "20", "-H", f":authority: {one.authority}")
            load = await asyncio.create_subprocess_exec(*command, f"http://{cart.config.outbound_listen}/", stdout=-1)
            finished = asyncio.ensure_future(load.communicate())
            changes = 0
            while not finished.done():
                changes += 1
                members = ((one,), (two,), (one, two))[changes % 3]
                made.control.endpoints(one.authority, [pod.endpoint() for pod in members])
                await asyncio.sleep(0.05)
            out = (await finished)[0]
            assert b"3000 done, 3000 succeeded, 0 failed, 0 errored" in out, out
            assert changes > 5
            assert min(len(left.requests), len(right.requests)) > 100

    run_in_world(tmp_path, scenario)


def test_requests_beyond_the_in_flight_cap_are_shed_at_once_in_both_directions(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        let_go = asyncio.Event()

        async def held(request: Seen) -> Answer:
            await let_go.wait()
            return await answer_ok(request)

        cart, shop = await made.pod("cart", max_in_flight=4), await made.pod("shop", held, max_in_flight=3)
        requests = [asyncio.ensure_future(cart.send(shop)) for _ in range(4)]
        await until(lambda: len(seen_by(shop)) == 3 and cart.proxy.outbound.in_flight == 3)
        (shed,) = [request for request in requests if request.done()]
        assert (await shed).status == 503, "by the server's proxy"
        assert shop.metric("inbound_http_errors_total", error="loadshed") == 1
        extra = [asyncio.ensure_future(cart.send(authority_of("shop"))) for _ in range(2)]
        await until(lambda: all(request.done() for request in extra))
        assert {(await request).status for request in extra} == {503}
        let_go.set()
        assert sorted([(await request).status for request in requests]) == [200, 200, 200, 503]
        assert (await cart.send(shop)).status == 200

    run_in_world(tmp_path, scenario)


# ---- inbound


def authorized(*identities: str) -> tuple[AuthorizationSpec, ...]:
    return (AuthorizationSpec(kind="AuthorizationPolicy", name="callers", identities=identities),)


def admit(made: World, pod: Pod, **fields: Any) -> Callable[[], bool]:
    """Publishes an inbound policy of `pod`; the result says whether its proxy has taken it in."""
    assert pod.app is not None
    generation = pod.proxy.inbound.policy.generation
    message = InboundPolicy(version=1, published_at=0.0, server_kind="server", server_name="app", **fields)
    made.control.publish(f"/v1/inbound/shop/{pod.name}/{pod.app.address.port}", message)
    return lambda: pod.proxy.inbound.policy.generation > generation


def test_a_change_of_authorization_holds_for_open_connections(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, shop = await made.pod("cart"), await made.pod("shop")
        client = await cart.client()
        for identities, status in (
            ((cart.identity,), 200),
            (("other.shop.serviceaccount.identity.linkerd.cluster.local",), 403),
            ((), 403),
            (("*",), 200),
        ):
            await until(admit(made, shop, authorizations=authorized(*identities)))
            assert (await client.request("GET", "/", shop.authority)).status == status, identities
        assert cart.metric("tls_handshakes_total", direction="outbound") == 1, "one connection saw it all"
        assert shop.metric("inbound_http_authz_deny_total") == 2
        assert shop.metric("inbound_http_authz_allow_total", authz_name="callers") == 2
        by_policy = {"direction": "inbound", "srv_kind": "server", "srv_name": "app", "route_name": "default"}
        port = str(shop.config.inbound_listen.port)
        for name in ("request_total", "response_total", "response_latency_ms_count"):
            assert shop.metric(name, srv_port=port, authz_name="callers", client_id=cart.identity, **by_policy) == 2

    run_in_world(tmp_path, scenario)


def test_a_rate_limit_answers_429_to_each_identity_by_its_own_bucket(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, web, shop = await made.pod("cart"), await made.pod("web"), await made.pod("shop")
        override = RateLimitOverride(requests_per_second=8, identities=(web.identity,))
        limit = RateLimitSpec(name="limit", identity=3, overrides=(override,))
        everyone = (AuthorizationSpec(kind="default", name="all", client="unauthenticated"),)
        await until(admit(made, shop, authorizations=everyone, rate_limit=limit))
        for pod, allowed in ((cart, 3), (web, 8)):
            client = await pod.client()
            started = time.monotonic()
            statuses = [(await client.request("GET", "/", shop.authority)).status for _ in range(14)]
            refilled = int((time.monotonic() - started) * allowed) + 1
            assert statuses[:allowed] == [200] * allowed
            assert statuses[allowed:].count(200) <= refilled
            assert 429 in statuses
        assert shop.metric("inbound_http_local_ratelimit_total", ratelimit_name="limit") >= 10
        assert cart.metric("response_total", status_code="429", classification="success") >= 1

    run_in_world(tmp_path, scenario)


def test_probes_reach_the_app_whatever_the_policy(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        shop = await made.pod("shop")
        kubelet = (AuthorizationSpec(kind="default", name="probe", group="", client="unauthenticated"),)
        routes = (
            InboundRoute(name="probe", method="GET", path_exact="/healthz", authorizations=kubelet),
            InboundRoute(name="default", path_prefix="/"),
        )
        await until(admit(made, shop, authorizations=authorized("*"), routes=routes))
        address = shop.config.inbound_listen
        for path, status in (("/healthz", 200), ("/other", 403)):
            client = Client(*await asyncio.open_connection(address.host, address.port))
            assert (await client.request("GET", path, "10.0.0.1")).status == status
            client.close()
        assert [seen.path for seen in seen_by(shop)] == ["/healthz"]
        assert shop.metric("response_total", direction="inbound", srv_name="app", route_name="probe") == 1
        assert shop.metric("response_total", direction="inbound") == 1

    run_in_world(tmp_path, scenario)
