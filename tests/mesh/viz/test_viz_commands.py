"""The commands, end to end: kubeconfig, API server's service proxy, a real viz, real proxies."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from api_server import ApiServer, api_server
from proxy_world import Pod, Seen, World, run_in_world
from viz_world import Viz, seen, tappable, viz

from gameday.cli import main
from mesh.commands.cluster import ClusterOptions
from mesh.commands.dashboard import make_server
from mesh.commands.errors import CommandFailed
from mesh.commands.stat import COLUMNS
from mesh.commands.tap import line
from mesh.commands.viz_api import viz as viz_of

pytestmark = pytest.mark.e2e


async def some_fail(request: Seen) -> tuple[int, dict[str, str], bytes]:
    return (500 if request.path.startswith("/bad") else 200), {}, b"hello"


@dataclass
class Scene:
    """Two meshed services under viz, and a command line that reaches it."""

    cart: Pod
    pay: Pod
    viz: Viz
    server: ApiServer
    kubeconfig: str
    capture: pytest.CaptureFixture[str]

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr of `gameday mesh …`."""
        self.capture.readouterr()
        code = await asyncio.to_thread(run, *arguments, "--kubeconfig", self.kubeconfig)
        out, err = self.capture.readouterr()
        return code, out, err

    async def table(self, *arguments: str) -> list[dict[str, str]]:
        """The rows of a table, cut as awk would."""
        code, out, err = await self.run(*arguments)
        assert code == 0, err
        head, *lines = (text.split() for text in out.splitlines())
        assert all(len(cells) == len(head) for cells in lines), out
        return [dict(zip(head, cells, strict=True)) for cells in lines]


def run(*arguments: str) -> int:
    with patch("sys.argv", ["gameday", "mesh", *arguments]), pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@asynccontextmanager
async def scene(
    world: World, directory: Path, capture: pytest.CaptureFixture[str], *flags: str, token: str = ""
) -> AsyncIterator[Scene]:
    cart, pay = await tappable(world, "cart"), await tappable(world, "pay", some_fail)
    async with (
        viz(world, directory, [seen(cart), seen(pay)], *flags) as made,
        api_server(directory, made.base, token) as (server, kubeconfig),
    ):
        await made.leaf()
        await made.scraped()
        yield Scene(cart, pay, made, server, kubeconfig, capture)


def test_tables_say_what_was_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(world: World) -> None:
        async with scene(world, tmp_path, capsys) as s:
            for index in range(20):
                await s.cart.send(s.pay, "/bad" if index % 4 == 0 else "/good")
            await s.viz.scraped()
            rows = {row["NAME"]: row for row in await s.table("stat", "deploy")}
            assert list(rows["pay"]) == [column.name for column in COLUMNS]
            assert (rows["pay"]["MESHED"], rows["pay"]["SUCCESS"]) == ("1/1", "75.00%")
            assert rows["pay"]["RPS"].endswith("rps")
            assert (rows["cart"]["SUCCESS"], rows["cart"]["RPS"]) == ("-", "0.0rps")
            (sent,) = await s.table("stat", "deploy/cart", "--to", "svc/pay")
            assert sent["SUCCESS"] == "75.00%"
            by = {row["NAME"]: row for row in await s.table("stat", "deploy", "--from", "deploy/cart")}
            assert by["pay"]["SUCCESS"] == "75.00%"
            everywhere = await s.table("stat", "deploy", "-A")
            assert {row["NAMESPACE"] for row in everywhere} == {"shop"}
            (edge,) = await s.table("edges", "deploy")
            assert edge == {
                "SRC": "cart",
                "DST": "pay",
                "SRC_NS": "shop",
                "DST_NS": "shop",
                "CLIENT_ID": "cart.shop",
                "SERVER_ID": "pay.shop",
                "SECURED": "√",
            }
            (route,) = await s.table("routes", "deploy/cart", "--to", "svc/pay")
            assert (route["EFFECTIVE_SUCCESS"], route["ACTUAL_SUCCESS"]) == ("75.00%", "75.00%")
            (route,) = await s.table("routes", "svc/pay")
            assert (route["ROUTE"], route["SERVICE"], route["SUCCESS"]) == ("default", "pay.shop:80", "75.00%")
            route, backend = await s.table("stat-outbound", "deploy/cart")
            assert (route["SERVICE"], route["RETRIES"], backend["BACKEND"]) == ("pay.shop:80", "0.00%", "pay:80")
            (inbound,) = await s.table("stat-inbound", "deploy/pay")
            assert (inbound["SUCCESS"], inbound["DENIED"]) == ("75.00%", "0")
            code, out, _ = await s.run("stat", "deploy/pay", "-o", "json")
            (plain,) = json.loads(out)
            assert (code, plain["requests"], plain["failures"], plain["success"]) == (0, 20, 5, 0.75)

    run_in_world(tmp_path, scenario)


def test_top_is_printed_at_its_end_where_nobody_looks_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(world: World) -> None:
        async with scene(world, tmp_path, capsys) as s:
            running = asyncio.create_task(s.table("top", "deploy/pay", "--duration", "2s", "--by-workload"))
            while not running.done():
                await s.cart.send(s.pay, "/good")
                await asyncio.sleep(0.05)
            (row,) = await running
            assert (row["SOURCE"], row["DESTINATION"], row["METHOD"], row["PATH"]) == ("cart", "pay", "GET", "/good")
            assert int(row["COUNT"]) > 5
            assert row["SUCCESS"] == "100.00%"

    run_in_world(tmp_path, scenario)


def test_tap_with_the_token_of_the_secret_and_not_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "tap-token"
    secret.write_text("sesame")

    async def scenario(world: World) -> None:
        async with scene(world, tmp_path, capsys, "--tap-token", str(secret)) as s:
            code, _, err = await s.run("tap", "deploy/pay")
            assert code == 2
            assert "secrets/viz-tap" in err
            assert err.count("\n") == 1
            s.server.token = "sesame"
            got: list[dict[str, Any]] = []

            def follow() -> None:
                options = ClusterOptions(kubeconfig=s.kubeconfig)
                with viz_of(options) as api, api.stream("tap", resource="deploy/pay", namespace="shop") as events:
                    for event in events:
                        got.append(event)
                        if event["event"] == "responseEnd":
                            return

            following = asyncio.create_task(asyncio.to_thread(follow))
            while not any(event["event"] == "note" for event in got):
                await asyncio.sleep(0.02)
            await s.cart.send(s.pay, "/good?x=1")
            await following
            begun, answered, ended = (line(event) for event in got[1:])
            assert begun.startswith("req id=pay-0:0 proxy=in  src=127.0.0.1:")
            assert begun.endswith("tls=true :method=GET :authority=pay.shop.svc.cluster.local:80 :path=/good?x=1")
            assert " :status=200 latency=" in answered
            assert "response-length=5B" in ended

    run_in_world(tmp_path, scenario)


def test_what_a_client_sent_cannot_move_the_terminals_cursor() -> None:
    event = {"event": "requestInit", "id": 1, "pod": "a", "path": "/\x1b[2J\n", "method": "GET", "authority": "x"}
    assert line(event).endswith(":path=/\\x1b[2J\\x0a")


def test_proxies_that_cannot_be_scraped_are_told_beside_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(world: World) -> None:
        async with scene(world, tmp_path, capsys) as s:
            ghost = seen(s.pay, name="pay-9", workload="ghost", admin="127.0.0.1:9", addresses=())
            s.viz.list_pods([seen(s.cart), seen(s.pay), ghost])
            await s.viz.until("stat", lambda a: bool(a["basis"]["missing"]), resource="deploy")
            code, out, err = await s.run("stat", "deploy/ghost")
            assert (code, out.splitlines()[1].split()) == (0, ["ghost", "1/1", *"------"])
            assert "1 of 3 proxies cannot be scraped: shop/pay-9 (" in err

    run_in_world(tmp_path, scenario)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stat", "bicycle"], "no kind of resource"),
        (["stat"], "name a resource"),
        (["stat", "deploy/nope"], "no pod of deploy/nope in namespace shop"),
        (["stat", "deploy", "-t", "soon"], "window"),
        (["stat", "deploy", "--to", "svc/a", "--from", "svc/b"], "not both"),
        (["tap", "deploy/nope"], "no running pod of deploy/nope"),
        (["tap", "deploy/cart", "deploy/pay"], "one resource"),
        (["top", "deploy/cart", "--duration", "long"], "--duration"),
        (["edges", "svc/pay"], "pods"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    async def scenario(world: World) -> None:
        async with scene(world, tmp_path, capsys) as s:
            code, out, err = await s.run(*arguments)
            assert (code, out) == (2, "")
            assert says in err
            assert err.startswith("gameday mesh: ")
            assert err.count("\n") == 1

    run_in_world(tmp_path, scenario)


def test_without_viz_each_command_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with api_server(tmp_path, "") as (server, kubeconfig):
            commands = ("stat deploy", "edges deploy", "routes svc/a", "tap deploy/a", "top deploy/a", "dashboard")
            for command in commands:
                code = await asyncio.to_thread(run, *command.split(), "--kubeconfig", kubeconfig)
                err = capsys.readouterr().err
                assert code == 2, command
                assert "viz is not installed in namespace linkerd-viz: install it with" in err
            server.viz, server.ready = "http://127.0.0.1:9", False
            code = await asyncio.to_thread(run, "stat", "deploy", "--kubeconfig", kubeconfig)
            assert "no endpoints available" in capsys.readouterr().err

    asyncio.run(scenario())


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.readline()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_dashboard_is_for_its_own_page_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "tap-token"
    secret.write_text("sesame")

    async def scenario(world: World) -> None:
        async with scene(world, tmp_path, capsys, "--tap-token", str(secret), token="sesame") as s:
            await asyncio.to_thread(visit, s)

    def visit(s: Scene) -> None:
        with viz_of(ClusterOptions(kubeconfig=s.kubeconfig)) as api:
            server = make_server(api, 0)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                base = f"http://127.0.0.1:{server.server_address[1]}"
                assert fetch(f"{base}/")[0] == 200
                status, body = fetch(f"{base}/api/stat?resource=deploy")
                assert (status, len(json.loads(body)["rows"])) == (200, 2)
                assert fetch(f"{base}/api/tap?resource=deploy/pay&namespace=shop&limit=1")[0] == 200
                assert fetch(f"{base}/api/stat", sec_fetch_site="same-origin", origin=base)[0] == 200
                assert fetch(f"{base}/api/stat", sec_fetch_site="cross-site")[0] == 403
                assert fetch(f"{base}/api/stat", origin="http://evil.example")[0] == 403
                assert fetch(f"{base}/api/stat", host="evil.example")[0] == 421
                assert fetch(f"{base}/metrics")[0] == 404
                assert fetch(f"{base}/api/../../../secrets")[0] == 404
                assert fetch(f"{base}/api/nothing")[0] == 404
            finally:
                server.shutdown()
                thread.join()
                server.server_close()

    run_in_world(tmp_path, scenario)


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(world: World) -> None:
        async with scene(world, tmp_path, capsys) as s:
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                port = str(taken.getsockname()[1])
                code, _, err = await s.run("dashboard", "--port", port)
                assert code == 2
                assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port" in err
            code, _, err = await s.run("dashboard", "--port", "70000")
            assert (code, "choose another --port" in err) == (2, True)

    run_in_world(tmp_path, scenario)


def test_a_port_is_refused_before_anything_is_served() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CommandFailed):
            make_server(None, taken.getsockname()[1])  # type: ignore[arg-type]
