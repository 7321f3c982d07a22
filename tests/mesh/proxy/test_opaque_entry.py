"""Opaque connections and what a real discovery knows: the entry makes their driver only when the first one comes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

from mesh.behavior.outcome import Cause
from mesh.proxy.config import Address, Config
from mesh.proxy.metrics import Registry
from mesh.proxy.outbound.discovery import Discovery
from mesh.proxy.outbound.tcp import TcpEntry
from mesh.proxy.telemetry import OutboundTelemetry
from mesh.proxy.wire.contexts import Contexts

NOWHERE = Address("127.0.0.1", 1)
CACHE = "cache.shop.svc.cluster.local:6379"


class Waits:
    """A connection that wants to know where it goes."""

    def __init__(self) -> None:
        self.entry: TcpEntry | None = None

    def found(self, entry: TcpEntry) -> None:
        self.entry = entry

    def not_found(self, cause: Cause) -> None:
        raise AssertionError(cause)


class NoCredentials:
    contexts: Contexts | None = None


def test_the_first_opaque_connection_finds_a_driver_with_a_balancer() -> None:
    """Also compiled, where an attribute that has its value later must not be looked at before."""

    async def first_of(authority: str) -> int:
        config = replace(
            Config(NOWHERE, NOWHERE, NOWHERE), static_endpoints={authority: ("127.0.0.1:1", "127.0.0.2:1")}
        )
        telemetry = OutboundTelemetry(Registry(), True)
        loop = asyncio.get_running_loop()
        discovery = Discovery(config, loop, Random(1), telemetry, NoCredentials(), None, None)
        waits = Waits()
        discovery.look_up(waits, authority)
        assert waits.entry is not None
        known = len(waits.entry.tcp.backend.endpoints)
        discovery.forgive()
        discovery.stop()
        return known

    assert asyncio.run(first_of(CACHE)) == 2
