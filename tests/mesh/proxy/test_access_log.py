"""The access log: its two formats, and that a reader who sleeps never stops a request."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable

from observed import TRACE, Side, asked

from mesh.proxy.access_log import MAX_PENDING_BYTES, AccessLog
from mesh.proxy.metrics import Registry
from mesh.proxy.session import Session

WALL = 1_700_000_000.25


def logged(form: str, serve: Callable[[Side], None]) -> list[str]:
    """The lines that `serve`'s requests leave."""
    reading, writing = os.pipe()

    async def run() -> None:
        log = AccessLog(form, Registry(), asyncio.get_running_loop(), descriptor=writing, clock=lambda: WALL)
        serve(Side("inbound", (log,)))
        log.close()

    try:
        asyncio.run(run())
    finally:
        os.close(writing)
    with os.fdopen(reading) as file:
        return file.read().splitlines()


def test_a_json_line_has_linkerds_fields() -> None:
    headers = [(b"user-agent", b"curl/8"), (b"traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode())]
    (line,) = logged("json", lambda side: side.serve(asked(headers=headers, status=503)))
    found = json.loads(line)
    assert 0 <= found.pop("processing_ns") <= found.pop("total_ns")
    assert re.fullmatch(r"2023-11-14T22:13:\d\d\.\d{6}Z", found.pop("timestamp"))
    assert found == {
        "client.addr": "10.0.0.7:40000",
        "client.id": "cart.shop.local",
        "host": "pay.shop.svc.cluster.local",
        "method": "GET",
        "request_bytes": 3,
        "response_bytes": 5,
        "status": 503,
        "trace_id": TRACE,
        "uri": "/orders?id=1",
        "user_agent": "curl/8",
        "version": "HTTP/1.1",
    }


def test_an_apache_line_is_the_common_format() -> None:
    (line,) = logged("apache", lambda side: side.serve(asked()))
    first = "10.0.0.7:40000 cart.shop.local - [14/Nov/2023:22:13:20 +0000]"
    assert line == f'{first} "GET /orders?id=1 HTTP/1.1" 200 5'


def test_a_stranger_has_no_identity_and_http2_says_so() -> None:
    request = asked(session=Session("10.0.0.8:1", ""))
    request.head.http_2 = True
    (line,) = logged("apache", lambda side: side.serve(request))
    assert line.startswith("10.0.0.8:1 - - [")
    assert '"GET /orders?id=1 HTTP/2.0"' in line


def test_nothing_off_the_wire_can_forge_a_line() -> None:
    evil = '/"\n10.0.0.1 - - [] "GET /fake'
    for form in ("apache", "json"):
        (line,) = logged(form, lambda side: side.serve(asked(evil)))
        if form == "apache":
            assert line.count('"') == 2
        else:
            assert json.loads(line)["uri"] == evil


def test_a_reader_who_sleeps_costs_whole_lines_which_are_counted_and_never_a_request() -> None:
    reading, writing = os.pipe()
    registry = Registry()

    async def run() -> tuple[list[str], int]:
        log = AccessLog("apache", registry, asyncio.get_running_loop(), descriptor=writing)
        side = Side("inbound", (log,))
        asked_for = 0
        while "access_log_lines_dropped_total 5" not in registry.render().decode():
            side.serve(asked(f"/{asked_for}-{'x' * 1500}"))  # would hang here if a write could block
            asked_for += 1
            assert asked_for * 1500 < 3 * MAX_PENDING_BYTES
        text = b""
        os.set_blocking(reading, False)
        while len(text) < MAX_PENDING_BYTES // 2 or not text.endswith(b"\n"):
            log.flush()
            text += os.read(reading, 65536)
        for _ in range(1000):
            log.flush()
            try:
                text += os.read(reading, 65536)
            except BlockingIOError:
                break
        return text.decode().splitlines(), asked_for

    lines, asked_for = asyncio.run(run())
    os.close(reading)
    os.close(writing)
    assert len(lines) == asked_for - 5
    assert all(re.fullmatch(r'.*"GET /\d+-x+ HTTP/1\.1" 200 5', line) for line in lines)


def test_a_reader_who_is_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    registry = Registry()

    async def run() -> None:
        log = AccessLog("json", registry, asyncio.get_running_loop(), descriptor=writing)
        Side("inbound", (log,)).serve(asked())
        log.close()

    asyncio.run(run())
    os.close(writing)
    assert "access_log_lines_dropped_total 1" in registry.render().decode()


def test_lines_are_written_by_the_timer_not_by_requests() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    async def run() -> tuple[bool, bytes]:
        log = AccessLog("apache", Registry(), asyncio.get_running_loop(), descriptor=writing)
        Side("inbound", (log,)).serve(asked())
        try:
            os.read(reading, 1)
            early = True
        except BlockingIOError:
            early = False
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(reading, readable.set)
        async with asyncio.timeout(10):
            await readable.wait()
        loop.remove_reader(reading)
        return early, os.read(reading, 4096)

    early, text = asyncio.run(run())
    os.close(reading)
    os.close(writing)
    assert not early
    assert text.endswith(b"200 5\n")
