"""Clients and servers that were not written for us, through both proxies: forward → mutual TLS → the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from tcp_world import Authority, TcpWorld, run_tcp

from benchmarks.ports import free_port
from mesh.api.messages import Endpoint
from mesh.proxy.config import Address

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SERVER, CLIENT = "db.shop.test", "cart.shop.test"


async def through_both_proxies(world: TcpWorld, app: Address) -> Address:
    """Where to dial for `app` behind two proxies."""
    authority = Authority()
    inbound = world.inbound(app, "all-authenticated")
    inbound.contexts = authority.contexts(SERVER)
    outbound = world.outbound()
    outbound.credentials.contexts = authority.contexts(CLIENT)
    address = await world.listen(inbound.meshed)
    endpoint = Endpoint(address=str(address), pod="db-0", namespace="shop", identity=SERVER, port=app.port)
    target = f"db.shop.svc.cluster.local:{app.port}"
    outbound.know(target, [endpoint], protocol="opaque")
    return await world.accepting(outbound, target)


async def run(*command: str, cwd: str | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=cwd
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def until_it_listens(address: Address) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection(address.host, address.port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise AssertionError(f"nobody listens at {address}")


def program(name: str) -> str:
    """The path of `name`; Debian keeps PostgreSQL's out of PATH."""
    found = shutil.which(name)
    if found is None:
        places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        if not places:
            pytest.skip(f"{name} is not installed")
        found = str(places[-1])
    return found


def test_redis_and_its_clients_work_through_both_proxies(tmp_path: Path) -> None:
    redis, cli, benchmark = program("redis-server"), program("redis-cli"), program("redis-benchmark")

    async def scenario(world: TcpWorld) -> None:
        app = Address("127.0.0.1", free_port())
        server = await asyncio.create_subprocess_exec(
            *(redis, "--port", str(app.port), "--save", "", "--dir", str(tmp_path)), stdout=asyncio.subprocess.DEVNULL
        )
        try:
            await until_it_listens(app)
            address = await through_both_proxies(world, app)
            there = ("-h", address.host, "-p", str(address.port))
            big = "v" * 100_000
            assert (await run(cli, *there, "SET", "key", big)).strip() == "OK"
            assert (await run(cli, *there, "GET", "key")).strip() == big
            # 20 connections, pipelines of 8: interleaving that no request/response client shows.
            report = await run(benchmark, *there, "-c", "20", "-n", "5000", "-P", "8", "-t", "set,get,lpush", "-q")
            assert report.count("requests per second") == 3
        finally:
            server.terminate()
            await server.wait()

    run_tcp(scenario)


def test_postgres_and_its_client_work_through_both_proxies() -> None:
    initdb, postgres, psql = program("initdb"), program("postgres"), program("psql")
    # The server refuses to be root, as which containers run tests.
    drop = (program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups") if os.geteuid() == 0 else ()

    async def scenario(world: TcpWorld) -> None:
        app = Address("127.0.0.1", free_port())
        await run(*drop, initdb, "-D", f"{directory}/data", "-U", "postgres", "--auth", "trust", "--no-sync", cwd="/")
        server = await asyncio.create_subprocess_exec(
            *(*drop, postgres, "-D", f"{directory}/data", "-p", str(app.port), "-h", app.host, "-k", directory),
            cwd="/",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await until_it_listens(app)
            address = await through_both_proxies(world, app)
            url = f"postgresql://postgres@{address.host}:{address.port}/postgres?sslmode=prefer"
            counted = await run(psql, url, "-Atc", "select count(*), sum(n) from generate_series(1, 100000) n")
            assert counted.strip() == "100000|5000050000"
            text = await run(psql, url, "-Atc", "select repeat('x', 2000000)")
            assert len(text.strip()) == 2_000_000
        finally:
            server.terminate()
            await server.wait()

    # Not pytest's directory, which only its owner may enter.
    with tempfile.TemporaryDirectory() as directory:
        if drop:
            os.chown(directory, 65534, 65534)
        run_tcp(scenario)
