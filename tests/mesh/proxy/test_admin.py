"""The admin port over real sockets: who may do what, and metrics that stream."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import h11
import pytest
from observed import Side, asked
from prometheus_client.parser import text_string_to_metric_families

from mesh.behavior.outcome import Cause
from mesh.proxy.admin import Admin
from mesh.proxy.log import LogControl, parse_filter
from mesh.proxy.metrics import LATENCY_BUCKETS_MS, Registry
from mesh.proxy.recorder import Recorder


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    yield
    LogControl(parse_filter("warn"))
    root.setLevel(before)


@dataclass
class Process:
    """What stands behind the admin port."""

    registry: Registry = field(default_factory=Registry)
    recorder: Recorder = field(default_factory=Recorder)
    ready: bool = True
    shut_down: int = 0

    def admin(self, *, shutdown: bool = False) -> Admin:
        environment = {
            "LINKERD2_PROXY_LOG": "warn",
            "LINKERD2_PROXY_IDENTITY_TOKEN": "secret",
            "HOME": "/root",
        }
        return Admin(
            self.registry,
            lambda: self.ready,
            environment,
            recorder=self.recorder,
            log=LogControl(parse_filter("warn,linkerd=info")),
            shutdown=self._stop if shutdown else None,
        )

    def _stop(self) -> None:
        self.shut_down += 1


def status(admin: Admin, method: str, path: str, body: bytes = b"", *, loopback: bool = True) -> int:
    return admin.answer(method, path, body, loopback)[0]


async def exchange(admin: Admin, raw: bytes) -> bytes:
    """What comes back for `raw` until the connection closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(admin.accept, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(raw)
        async with asyncio.timeout(10):
            data = await reader.read()
        writer.close()
        return data
    finally:
        server.close()


def responses(data: bytes, methods: list[bytes]) -> list[tuple[int, bytes]]:
    """Status and body of each, read by h11."""
    client = h11.Connection(h11.CLIENT)
    client.receive_data(data)
    client.receive_data(b"")
    found = []
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        code, body = 0, b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                code = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        found.append((code, body))
        if client.our_state is h11.DONE and client.their_state is h11.DONE:
            client.start_next_cycle()
    return found


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/live", 200),
        ("HEAD", "/live", 200),
        ("GET", "/ready", 200),
        ("GET", "/metrics", 200),
        ("GET", "/env.json", 200),
        ("GET", "/failures.json", 200),
        ("GET", "/nothing", 404),
        ("POST", "/nothing", 404),
        ("POST", "/live", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/failures.json?limit=x", 400),
        ("GET", "/proxy-log-level", 200),
        ("POST", "/proxy-log-level", 405),
        ("GET", "/shutdown", 404),
        ("POST", "/shutdown", 404),
    ],
)
def test_each_path_and_method_has_its_status(method: str, path: str, expected: int) -> None:
    assert status(Process().admin(), method, path) == expected


def test_ready_is_503_until_the_proxy_is() -> None:
    process = Process(ready=False)
    admin = process.admin()
    assert status(admin, "GET", "/ready") == 503
    assert status(admin, "GET", "/live") == 200
    process.ready = True
    assert status(admin, "GET", "/ready") == 200


def test_shutdown_works_where_it_is_enabled_and_from_loopback_only() -> None:
    process = Process()
    admin = process.admin(shutdown=True)
    assert status(admin, "POST", "/shutdown", loopback=False) == 403
    assert status(admin, "GET", "/shutdown") == 405
    assert process.shut_down == 0
    assert status(admin, "POST", "/shutdown") == 200
    assert process.shut_down == 1


def test_the_log_filter_is_read_and_changed_from_loopback_only() -> None:
    admin = Process().admin()
    assert admin.answer("GET", "/proxy-log-level", b"", True) == (200, "text/plain", b"warn,linkerd=info\n")
    assert status(admin, "GET", "/proxy-log-level", loopback=False) == 403
    assert status(admin, "PUT", "/proxy-log-level", b"debug", loopback=False) == 403
    assert logging.getLogger("proxy").getEffectiveLevel() == logging.INFO
    assert status(admin, "PUT", "/proxy-log-level", b"error,identity=debug\n") == 204
    assert logging.getLogger("proxy").getEffectiveLevel() == logging.ERROR
    assert logging.getLogger("identity").getEffectiveLevel() == logging.DEBUG
    assert admin.answer("GET", "/proxy-log-level", b"", True)[2] == b"error,identity=debug\n"
    code, _, text = admin.answer("PUT", "/proxy-log-level", b"loud", True)
    assert (code, b"'loud' is no log level" in text) == (400, True)
    assert status(admin, "PUT", "/proxy-log-level", b"warn") == 204
    assert logging.getLogger("identity").getEffectiveLevel() == logging.WARNING


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("warn", "warn"),
        ("WARN,linkerd=info", "info"),
        ("warn,linkerd2_proxy=debug,linkerd=info", "debug"),
        ("linkerd=info,trust_dns=error", "info"),
        ("info,hyper=off,h2=trace", "info"),
        ("warn,[{client.addr=10.0.0.1,a=b}]=trace", "warn"),
        ("warn,linkerd[{a=b}]=trace", "warn"),
        ("hyper=trace", "error"),
        ("trace", "trace"),
    ],
)
def test_linkerds_filters_mean_here_what_they_can(text: str, level: str) -> None:
    assert parse_filter(text).level == level


def test_the_environment_is_shown_without_secrets() -> None:
    _, kind, body = Process().admin().answer("GET", "/env.json", b"", False)
    assert (kind, json.loads(body)) == ("application/json", {"LINKERD2_PROXY_LOG": "warn"})
    assert json.loads(Process().admin().answer("GET", "/env.json?name=X", b"", False)[2]) == {}


def test_failures_are_served_newest_first_and_as_many_as_asked_for() -> None:
    process = Process()
    side = Side("outbound", recorder=process.recorder)
    for index in range(3):
        side.serve(asked(f"/{index}", status=503, cause=Cause.FAILFAST))
    found = json.loads(process.admin().answer("GET", "/failures.json?limit=2", b"", False)[2])
    assert found["total"] == 3
    assert [(failure["path"], failure["cause"]) for failure in found["failures"]] == [
        ("/2", "failfast"),
        ("/1", "failfast"),
    ]


def test_metrics_stream_in_chunks_and_the_connection_goes_on() -> None:
    process = Process()
    latency = process.registry.histograms("response_latency_ms", "Help.", LATENCY_BUCKETS_MS)
    held = [latency.histogram({"target_addr": str(index)}) for index in range(3_000)]
    admin = process.admin()

    async def work() -> None:
        live = b"GET /live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        data = await exchange(admin, b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n" + live)
        assert b"transfer-encoding: chunked\r\n" in data[:300]
        (code, body), last = responses(data, [b"GET", b"GET"])
        assert (code, last) == (200, (200, b"live\n"))
        (family,) = text_string_to_metric_families(body.decode())
        assert len(family.samples) == 3_000 * 28

    run(work)
    assert len(held) == 3_000


def test_an_http_1_0_scraper_gets_the_metrics_until_the_connection_closes() -> None:
    process = Process()
    process.registry.counters("x_total", "Help.").counter().value = 4

    async def work() -> None:
        data = await exchange(process.admin(), b"GET /metrics HTTP/1.0\r\nhost: a\r\n\r\n")
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert body.endswith(b"x_total 4\n")

    run(work)


def test_other_clients_are_served_while_a_scraper_reads_slowly() -> None:
    process = Process()
    family = process.registry.histograms("h", "Help.", LATENCY_BUCKETS_MS)
    held = [family.histogram({"target_addr": "x" * 400 + str(index)}) for index in range(3_000)]
    admin = process.admin()
    rendered: list[int] = []
    whole = admin.metrics

    def counted() -> Iterator[bytes]:
        for piece in whole():
            rendered.append(len(piece))
            yield piece

    admin.metrics = counted  # type: ignore[method-assign]

    async def work() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(admin.accept, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        slow_reader, slow = await asyncio.open_connection(*address, limit=1024)
        slow.write(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        await slow_reader.readexactly(100)
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(200):
            writer.write(b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n")
            async with asyncio.timeout(10):
                await reader.readuntil(b"live\n")
        held_back = sum(rendered)
        while await slow_reader.read(1 << 20):
            pass
        assert held_back < sum(rendered)  # what nobody reads is not even rendered
        assert sum(rendered) > 30_000_000
        writer.close()
        slow.close()
        server.close()

    run(work)
    assert len(held) == 3_000


def test_what_is_no_http_is_answered_400_and_closed() -> None:
    async def work() -> None:
        data = await exchange(Process().admin(), b"GET /live HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n")
        assert data.startswith(b"HTTP/1.1 400 Bad Request\r\n")

    run(work)
