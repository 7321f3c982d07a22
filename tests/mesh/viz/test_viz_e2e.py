"""viz over real proxies: what it says is what was sent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from proxy_world import Client, Seen, World, answer_ok, authority_of, identity_of, run_in_world
from viz_world import seen, tappable, viz

pytestmark = pytest.mark.e2e


async def fail_every_fourth(request: Seen) -> tuple[int, dict[str, str], bytes]:
    return (500 if request.path.startswith("/bad") else 200), {}, b"hello"


def row(answer: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    found = [r for r in answer["rows"] if all(r[name] == value for name, value in wanted.items())]
    assert len(found) == 1, answer["rows"]
    return dict(found[0])


def test_stat_counts_what_was_sent_at_both_ends(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        cart, pay = await tappable(world, "cart"), await tappable(world, "pay", fail_every_fourth)
        async with viz(world, tmp_path, [seen(cart), seen(pay)]) as made:
            await made.scraped()
            for index in range(40):
                await cart.send(pay, "/bad" if index % 4 == 0 else "/good")
            await made.scraped()
            answer = await made.ask("stat", resource="deploy", namespace="shop")
            got = row(answer, name="pay")
            assert (got["requests"], got["failures"], got["success"]) == (40, 10, 0.75)
            assert (got["meshed"], got["pods"], got["seen"], got["unseen"]) == (1, 1, 1, [])
            assert 0 < got["latency_p50_ms"] <= got["latency_p95_ms"] <= got["latency_p99_ms"]
            assert got["tcp_conn"] >= 1
            idle = row(answer, name="cart")
            assert (idle["requests"], idle["rps"], idle["success"]) == (0, 0, None)
            assert answer["basis"]["missing"] == []
            sent = await made.ask("stat", resource="deploy/cart", namespace="shop", to="svc/pay")
            assert row(sent, name="cart")["requests"] == 40
            by = await made.ask("stat", **{"resource": "deploy", "namespace": "shop", "from": "deploy/cart"})
            assert row(by, name="pay")["failures"] == 10
            service = await made.ask("stat", resource="svc", namespace="shop")
            assert row(service, name="pay")["requests"] == 40
            everywhere = await made.ask("stat", resource="ns")
            assert row(everywhere, name="shop")["requests"] == 40

    run_in_world(tmp_path, scenario)


def test_edges_and_topology_say_who_calls_whom_and_that_it_is_secured(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        cart, pay = await tappable(world, "cart"), await tappable(world, "pay")
        async with viz(world, tmp_path, [seen(cart), seen(pay)]) as made:
            await made.scraped()
            door = pay.config.inbound_listen
            plain = Client(*await asyncio.open_connection(door.host, door.port))
            for _ in range(5):
                await cart.send(pay)
                await plain.request("GET", "/", pay.authority)
            plain.close()
            await made.scraped()
            answer = await made.ask("edges", resource="deploy", namespace="shop")
            secured = row(answer, src="cart", dst="pay")
            assert (secured["secured"], secured["client_id"], secured["server_id"]) == (
                True,
                identity_of("cart"),
                identity_of("pay"),
            )
            open_edge = row(answer, src_kind="unmeshed", dst="pay")
            assert (open_edge["secured"], open_edge["requests"]) == (False, 5)
            assert open_edge["reason"] == "the client is not meshed"
            graph = await made.ask("topology", namespace="shop")
            links = {(link["source"], link["target"]): link for link in graph["links"]}
            link = links["shop/Deployment/cart", "shop/Deployment/pay"]
            assert (link["requests"], link["secured"], link["success"]) == (5, True, 1.0)

    run_in_world(tmp_path, scenario)


def test_requests_that_reach_nobody_are_failures_of_the_link(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        cart, pay = await tappable(world, "cart"), await tappable(world, "pay")
        async with viz(world, tmp_path, [seen(cart), seen(pay)]) as made:
            await cart.send(pay)
            await made.scraped()
            pay.proxy._inbound_doors[0].close()
            for connection in list(pay.proxy.inbound.connections):
                connection.abort()
            replies = await asyncio.gather(*(cart.send(pay) for _ in range(3)))
            assert {reply.status for reply in replies} & {502, 503, 504}
            graph = await made.until("topology", lambda a: any(link["own"] for link in a["links"]), namespace="shop")
            link = next(link for link in graph["links"] if link["own"])
            assert link["target"] == "shop/Deployment/pay"
            assert link["success"] is not None
            assert link["success"] < 1.0

    run_in_world(tmp_path, scenario)


def test_routes_and_outbound_rows_tell_effective_from_actual(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        cart, pay = await tappable(world, "cart"), await tappable(world, "pay", fail_every_fourth)
        async with viz(world, tmp_path, [seen(cart), seen(pay)]) as made:
            await made.scraped()
            for index in range(8):
                await cart.send(pay, "/bad" if index % 4 == 0 else "/good")
            await made.scraped()
            answer = await made.ask("stat-outbound", resource="deploy/cart", namespace="shop")
            got = row(answer, name="cart", service="pay.shop:80")
            assert (got["requests"], got["failures"], got["timeouts"], got["retries"]) == (8, 2, 0, 0)
            assert [(b["backend"], b["requests"]) for b in got["backends"]] == [("pay:80", 8)]
            routes = row(await made.ask("routes", resource="svc/pay", namespace="shop"), service="pay.shop:80")
            assert (routes["success"], routes["actual_success"]) == (0.75, 0.75)
            own = row(await made.ask("routes", resource="deploy/pay", namespace="shop"), service="pay.shop:80")
            assert own["requests"] == 8
            inbound = row(await made.ask("stat-inbound", resource="deploy/pay", namespace="shop"), name="pay")
            assert (inbound["allowed"], inbound["denied"], inbound["success"]) == (8, 0, 0.75)
            assert inbound["server"] == "default:all-unauthenticated"

    run_in_world(tmp_path, scenario)


def test_a_proxy_that_does_not_answer_is_missing_and_not_zero(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        pay = await tappable(world, "pay")
        gone = seen(pay, name="pay-9", workload="ghost", admin="127.0.0.1:9", addresses=())
        async with viz(world, tmp_path, [seen(pay), gone]) as made:
            await made.scraped_one("pay-0")
            answer = await made.until("stat", lambda a: bool(a["basis"]["missing"]), resource="deploy")
            ghost = row(answer, name="ghost")
            assert (ghost["rps"], ghost["success"], ghost["unseen"]) == (None, None, ["pay-9"])
            (missing,) = answer["basis"]["missing"]
            assert (missing["pod"], missing["last_ok_seconds"]) == ("pay-9", None)
            assert missing["missed"] >= 1
            assert missing["reason"]

    run_in_world(tmp_path, scenario)


def test_tap_shows_requests_of_both_ends_and_filters(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        cart, pay = await tappable(world, "cart"), await tappable(world, "pay")
        async with viz(world, tmp_path, [seen(cart), seen(pay)]) as made:
            await made.leaf()
            async with made.tap(resource="ns/shop", path="/orders") as stream:
                notes = [await stream.event(), await stream.event()]
                assert {(n["event"], n["text"], n["pod"]) for n in notes} == {
                    ("note", "tapping", "cart-0"),
                    ("note", "tapping", "pay-0"),
                }
                await cart.send(pay, "/carts")
                await cart.send(pay, "/orders/1?id=2")
                events = [await stream.event() for _ in range(6)]
                begun = [event for event in events if event["event"] == "requestInit"]
                assert {event["path"] for event in begun} == {"/orders/1?id=2"}
                outbound = next(event for event in begun if event["proxyDirection"] == "outbound")
                assert (outbound["pod"], outbound["source"]["workload"]) == ("cart-0", "cart")
                inbound = next(event for event in begun if event["proxyDirection"] == "inbound")
                assert inbound["destination"]["workload"] == "pay"
                assert inbound["source"]["identity"] == identity_of("cart")
            async with made.tap(resource="deploy/cart", namespace="shop", to="deploy/pay") as stream:
                await stream.event()
                await cart.send(pay)
                assert (await stream.event())["destination"]["pod"] == "pay-0"
            async with made.tap(resource="deploy/cart", namespace="shop", to="svc/pay") as stream:
                await stream.event()
                await cart.send(pay)
                assert (await stream.event())["authority"] == authority_of("pay")

    run_in_world(tmp_path, scenario)


def test_top_counts_each_request_once(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        cart, pay = await tappable(world, "cart"), await tappable(world, "pay", fail_every_fourth)
        async with viz(world, tmp_path, [seen(cart), seen(pay)]) as made:
            await made.leaf()
            async with made.stream("/api/top", resource="ns/shop", by="workload") as stream:
                while (await stream.event())["tapping"] < 2:
                    pass
                for index in range(8):
                    await cart.send(pay, f"/bad?{index}" if index % 4 == 0 else f"/good?{index}")
                found: dict[str, Any] = {"rows": []}
                while sum(r["count"] for r in found["rows"]) < 8:
                    found = await stream.event()
                rows = {r["path"]: r for r in found["rows"]}
                assert {path: r["count"] for path, r in rows.items()} == {"/good": 6, "/bad": 2}
                assert (rows["/bad"]["success"], rows["/good"]["success"]) == (0.0, 1.0)
                assert {(r["source"], r["destination"]) for r in found["rows"]} == {("cart", "pay")}

    run_in_world(tmp_path, scenario)


def test_the_proxies_let_nobody_tap_but_viz(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        pay = await tappable(world, "pay")
        other = "prober.shop.serviceaccount.identity.linkerd.cluster.local"
        async with viz(world, tmp_path, [seen(pay)], "--local-name", other) as made:
            await made.leaf()
            async with made.tap(resource="deploy/pay", namespace="shop") as stream:
                said = await stream.event()
                assert said["event"] == "note"
                assert "403" in said["text"]

    run_in_world(tmp_path, scenario)


def test_who_does_not_show_the_token_may_not_tap(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        pay = await tappable(world, "pay")
        secret = tmp_path / "tap-token"
        secret.write_text("open sesame\n")
        async with viz(world, tmp_path, [seen(pay)], "--tap-token", str(secret)) as made:
            await made.leaf()
            for path in ("/api/tap", "/api/top"):
                status, body = await made.get(path, resource="deploy/pay", namespace="shop")
                assert (status, "token" in body) == (403, True)
            async with made.tap("open sesame", resource="deploy/pay", namespace="shop") as stream:
                assert (await stream.event())["text"] == "tapping"

    run_in_world(tmp_path, scenario)


def test_certificates_tell_when_each_leaf_expires(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        pay = await tappable(world, "pay")
        async with viz(world, tmp_path, [seen(pay)]) as made:
            await made.scraped()
            (got,) = (await made.ask("certificates"))["rows"]
            assert pay.proxy.identity is not None
            assert got["expires_at"] == pytest.approx(pay.metric("control_identity_cert_expiration_timestamp_seconds"))
            assert (got["pod"], got["renewals"], got["renewal_errors"]) == ("pay-0", 1, 0)

    run_in_world(tmp_path, scenario)


@pytest.mark.parametrize(
    ("path", "parameters", "status", "says"),
    [
        ("/api/stat", {"resource": "bicycle"}, 400, "no kind of resource"),
        ("/api/stat", {"resource": "deploy/nope"}, 404, "no pod of deploy/nope"),
        ("/api/stat", {"window": "1"}, 400, "window"),
        ("/api/stat", {"window": "2h"}, 400, "window"),
        ("/api/stat", {"to": "svc/a", "from": "svc/b"}, 400, "not both"),
        ("/api/stat", {"resource": "deploy", "to": "deploy/typo"}, 404, "no pod of deploy/typo"),
        ("/api/edges", {"resource": "svc"}, 400, "pods"),
        ("/api/tap", {"resource": "svc/pay"}, 400, "tap is about pods"),
        ("/api/tap", {"resource": "deploy/nope"}, 404, "no running pod"),
        ("/api/tap", {"resource": "deploy/bare"}, 404, "inject"),
        ("/api/tap", {"resource": "deploy/pay", "max_rps": "many"}, 400, "max-rps"),
        ("/api/nothing", {}, 404, "not found"),
    ],
)
def test_questions_that_make_no_sense_are_answered_in_one_line(
    tmp_path: Path, path: str, parameters: dict[str, str], status: int, says: str
) -> None:
    async def scenario(world: World) -> None:
        pay = await tappable(world, "pay", answer_ok)
        bare = seen(pay, name="bare-0", workload="bare", admin="", tap="", identity="", addresses=())
        async with viz(world, tmp_path, [seen(pay), bare]) as made:
            await made.leaf()
            got, body = await made.get(path, **parameters)
            assert got == status, body
            error = json.loads(body)["error"]
            assert says in error
            assert "\n" not in error

    run_in_world(tmp_path, scenario)


def test_the_pages_of_the_web_ui_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with viz(world, tmp_path, []) as made:
            for path in ("/", "/static/viz.css", "/static/viz.js"):
                status, body = await made.get(path)
                assert status == 200
                assert "https://" not in body.replace("https://www.w3.org", "")

    run_in_world(tmp_path, scenario)
