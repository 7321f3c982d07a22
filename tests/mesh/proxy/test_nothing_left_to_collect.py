"""What closed connections held is freed at once. Left to the garbage collector it adds up, and freeing hundreds of TLS
connections in one of its pauses stalled the event loop for 16 ms."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from proxy_world import Client, World, run_in_world, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(30)]

CONNECTIONS = 5


async def left_by(work: Callable[[], Awaitable[None]]) -> list[str]:
    """Names of the product's classes whose objects only the collector could free."""
    gc.collect()
    gc.disable()
    try:
        await work()
        await asyncio.sleep(0.05)  # closing takes a few turns of the loop
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return sorted(type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith("mesh."))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_connections_of_every_kind_leave_nothing_to_the_collector(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, shop = await made.pod("cart"), await made.pod("shop")
        kept = await cart.client()
        assert (await kept.request("GET", "/", shop.authority)).status == 200

        async def meshed() -> None:
            for _ in range(CONNECTIONS):
                for connection in list(shop.proxy.inbound.connections):
                    connection.abort()
                await until(lambda: not shop.proxy.inbound.connections)
                assert (await kept.request("GET", "/", shop.authority)).status == 200

        async def to(host: str, port: int, path: str, authority: str) -> None:
            for _ in range(CONNECTIONS):
                client = Client(*await asyncio.open_connection(host, port))
                assert (await client.request("GET", path, authority)).status == 200
                client.close()

        outbound, inbound, admin = cart.config.outbound_listen, shop.config.inbound_listen, cart.config.admin_listen
        assert await left_by(meshed) == []
        assert await left_by(lambda: to(outbound.host, outbound.port, "/", shop.authority)) == []
        assert await left_by(lambda: to(inbound.host, inbound.port, "/", shop.authority)) == []
        assert await left_by(lambda: to(admin.host, admin.port, "/metrics", "admin")) == []

    run_in_world(tmp_path, scenario)
