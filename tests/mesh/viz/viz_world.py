"""A real viz process beside real proxies: scraped over HTTP, tapped over mutual TLS, asked over its API."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from proxy_world import Pod, World, answer_ok, identity_of

from benchmarks.ports import free_port
from mesh.proxy.config import Address
from mesh.viz.config import Config, parse
from mesh.viz.gate import HEADER
from mesh.viz.pods import Pod as SeenPod
from mesh.viz.process import Process

VIZ = "viz.linkerd-viz.serviceaccount.identity.linkerd.cluster.local"
INTERVAL = 0.2


async def tappable(world: World, name: str, behave: Any = answer_ok, **changes: Any) -> Pod:
    """A pod whose proxy can be tapped by viz."""
    settings = {"tap_name": VIZ, "tap_listen": Address("127.0.0.1", free_port()), **changes}
    return await world.pod(name, behave, **settings)


def seen(pod: Pod, **changes: Any) -> SeenPod:
    """The pod as a list of pods tells of it."""
    name = pod.name.removesuffix("-0")
    inbound = str(pod.config.inbound_listen)
    found = SeenPod(
        namespace="shop",
        name=pod.name,
        kind="Deployment",
        workload=name,
        admin=str(pod.config.admin_listen),
        tap=str(pod.config.tap_listen),
        identity=identity_of(name),
        service_account=name,
        addresses=(inbound,),
    )
    return msgspec.structs.replace(found, **changes)


class Viz:
    """The process and a client of its API."""

    def __init__(self, process: Process, session: aiohttp.ClientSession, pods: Path) -> None:
        self.process = process
        self.session = session
        self._pods = pods
        self.base = f"http://127.0.0.1:{process.port}"

    def list_pods(self, pods: list[SeenPod]) -> None:
        self._pods.write_bytes(msgspec.json.encode(pods))

    async def ask(self, question: str, **parameters: str) -> dict[str, Any]:
        status, body = await self.get(f"/api/{question}", **parameters)
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    async def get(self, path: str, **parameters: str) -> tuple[int, str]:
        query = {name.replace("_", "-"): value for name, value in parameters.items()}
        async with self.session.get(self.base + path, params=query) as response:
            return response.status, await response.text()

    async def until(
        self, question: str, true: Callable[[dict[str, Any]], bool], within: float = 10.0, **parameters: str
    ) -> dict[str, Any]:
        """Asks until the answer is so."""
        deadline = time.monotonic() + within
        while True:
            found = await self.ask(question, **parameters)
            if true(found):
                return found
            assert time.monotonic() < deadline, f"never became true: {json.dumps(found, indent=1)}"
            await asyncio.sleep(INTERVAL / 4)

    async def scraped(self, times: int = 2) -> None:
        """Returns when every running proxy was scraped that often from now on."""
        await self._listed()
        members = [member for member in self.process.fleet.running() if member.pod.meshed]
        marks = {id(member): time.time() for member in members}
        for _ in range(times):
            deadline = time.monotonic() + 10
            while any((member.history.last_at or 0.0) <= marks[id(member)] for member in members):
                assert time.monotonic() < deadline, "no scrape"
                await asyncio.sleep(INTERVAL / 4)
            marks = {id(member): time.time() for member in members}

    async def _listed(self) -> None:
        deadline = time.monotonic() + 10
        while not self.process.fleet.members:
            assert time.monotonic() < deadline, "no pods"
            await asyncio.sleep(0.02)

    async def scraped_one(self, name: str) -> None:
        deadline = time.monotonic() + 10
        while not any(m.pod.name == name and m.history.frames for m in self.process.fleet.running()):
            assert time.monotonic() < deadline, f"{name} was never scraped"
            await asyncio.sleep(INTERVAL / 4)

    async def leaf(self) -> None:
        """Returns when viz has its certificate and its pods."""
        keeper = self.process._leaf
        deadline = time.monotonic() + 10
        while keeper is None or keeper.expires_at is None or self.process.fleet.members == {}:
            assert time.monotonic() < deadline, "no certificate"
            await asyncio.sleep(0.02)

    def tap(self, token: str = "", **parameters: str) -> AbstractAsyncContextManager[Stream]:
        return self.stream("/api/tap", token, **parameters)

    @asynccontextmanager
    async def stream(self, url: str, token: str = "", **parameters: str) -> AsyncIterator[Stream]:
        headers = {HEADER: token} if token else {}
        async with self.session.get(self.base + url, params=parameters, headers=headers) as response:
            assert response.status == 200, await response.text()
            yield Stream(response)


class Stream:
    """Lines of JSON as they come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def event(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while not (line := (await self._response.content.readline()).strip()):
                pass
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def viz(world: World, directory: Path, pods: list[SeenPod], *flags: str) -> AsyncIterator[Viz]:
    """viz over these pods, with a leaf from the world's identity."""
    listing, anchors, token = directory / "pods.json", directory / "anchors.pem", directory / "viz-token"
    listing.write_bytes(msgspec.json.encode(pods))
    anchors.write_text(world.control.anchor.certificate_pem)
    token.write_text("token")
    config = parse(
        [
            *("--pods", str(listing), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
            *("--identity-addr", str(world.control.address), "--identity-name", world.control.service.name),
            *("--token", str(token), "--trust-anchors", str(anchors)),
            *("--scrape-interval", "200ms", "--scrape-timeout", "1s", "--log-level", "error", *flags),
        ]
    )
    async with running(config, listing) as made:
        yield made


@asynccontextmanager
async def running(config: Config, listing: Path) -> AsyncIterator[Viz]:
    process = Process(replace(config))
    await process.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Viz(process, session, listing)
    finally:
        await process.close()
