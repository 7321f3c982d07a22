"""The process: starts without identity for benchmarks and tests, serves, and drains on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop
from proxy_world import App, Client, Seen, answer_ok

from benchmarks.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]


def test_sigterm_lets_a_request_finish_and_exits_0(tmp_path: Path) -> None:
    async def slow(request: Seen) -> tuple[int, dict[str, str], bytes]:
        await asyncio.sleep(0.5)
        return await answer_ok(request)

    async def scenario() -> None:
        app = App(slow)
        await app.start()
        outbound, authority = free_port(), "app.shop.svc.cluster.local:80"
        environment = {
            **os.environ,
            "LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR": f"127.0.0.1:{outbound}",
            "LINKERD2_PROXY_INBOUND_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
            "LINKERD2_PROXY_ADMIN_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
            "LINKERD2_PROXY_OUTBOUND_STATIC": json.dumps({authority: [str(app.address)]}),
        }
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "mesh.proxy", env=environment)
        try:
            client = await connect(outbound)
            reply = asyncio.ensure_future(client.request("GET", f"http://{authority}/", authority))
            while not app.requests:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert (await reply).headers.get("connection") == "close"
            assert await asyncio.wait_for(process.wait(), 10.0) == 0
        finally:
            if process.returncode is None:
                process.kill()
            await app.stop()

    uvloop.run(scenario())


async def connect(port: int) -> Client:
    """A connection to a proxy that is still starting."""
    for _ in range(500):
        try:
            return Client(*await asyncio.open_connection("127.0.0.1", port))
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
    raise AssertionError("the proxy never listened")


def test_a_port_that_is_taken_is_one_line_and_status_1() -> None:
    async def scenario() -> None:
        app = App()
        await app.start()
        environment = {**os.environ, "LINKERD2_PROXY_ADMIN_LISTEN_ADDR": str(app.address)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mesh.proxy"), env=environment, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await asyncio.wait_for(process.communicate(), 20.0)
        assert process.returncode == 1
        assert len(errors.decode().splitlines()) == 1
        await app.stop()

    uvloop.run(scenario())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the size of the table is known from /proc only")
def test_the_descriptor_table_has_grown_before_there_are_threads() -> None:
    """Else the loop sleeps in `socket` or `accept` each time that it doubles (`mesh/proxy/descriptors.py`)."""
    script = "from mesh.proxy import descriptors\ndescriptors.reserve(1000)\nprint(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=20)
    (size,) = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("FDSize:"))
    assert size >= 1000


def test_a_low_limit_of_descriptors_is_no_error() -> None:
    script = (
        "import resource; from mesh.proxy import descriptors\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); descriptors.reserve()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)
