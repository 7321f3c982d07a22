"""The runner's stream against an agent whose connections break: real sockets, the spool's own server code."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from chaos.kube import Access
from gameday.errors import WorldFailed
from gameday.worlds.kind import stream as stream_module
from gameday.worlds.kind.access import write_access
from gameday.worlds.kind.messages import LoadEnded, Pods, Result, encode
from gameday.worlds.kind.spool import Spool
from gameday.worlds.kind.stream import Intake, Stream
from loadtests.results import ResultTail
from reports.store import RunStore


def result(number: int) -> bytes:
    return encode(Result("GET shop /", "visit", float(number), None, None, None, "dropped", None))


class Agent:
    """Serves a spool, and breaks each connection after so many bytes."""

    def __init__(self, folder: Path, breaks_after: int) -> None:
        self.spool = Spool(folder / "spool")
        self.connections = 0
        self.offsets: list[int] = []
        self._breaks_after = breaks_after

    async def serve(self) -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_get("/agent/stream", self._stream)
        runner = web.AppRunner(app, shutdown_timeout=0.1)  # the stream does not end by itself
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        return runner, f"http://127.0.0.1:{port}"

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        offset = int(request.query["offset"])
        self.offsets.append(offset)
        if offset > self.spool.size:
            raise web.HTTPConflict
        self.connections += 1
        response = web.StreamResponse()
        await response.prepare(request)
        left = self._breaks_after
        async for data in self.spool.read(offset, 0.05):
            await response.write(data[:left])
            left -= len(data)
            if left <= 0:
                assert request.transport is not None
                request.transport.abort()
                return response
        return response


def kubeconfig(folder: Path, server: str) -> None:
    config = {
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": server}}],
        "users": [{"name": "fake", "user": {"token": "t"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    write_access(folder, Access(kubeconfig=str(folder / "kubeconfig")))


async def take(folder: Path, agent: Agent, lines: int) -> tuple[list[str], list[int]]:
    """Streams until all `lines` and the load's end are in."""
    runner, server = await agent.serve()
    kubeconfig(folder, server)
    notes: list[str] = []
    ended: list[int] = []

    def on_pods(_: Pods) -> None:
        """No pods here."""

    with RunStore(folder / "run.sqlite", create=True) as store:
        intake = Intake(store, folder / "requests", folder / "events", 0.0, on_pods, ended.append)
        stream = Stream(folder, "/agent", intake, notes.append)
        reading = asyncio.create_task(stream.run())
        for number in range(lines):
            agent.spool.append([result(number)])
            if number % 50 == 0:
                await asyncio.sleep(0)
        agent.spool.append([encode(LoadEnded(0))])
        assert await stream.reached(agent.spool.size, 20.0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await runner.cleanup()
    return notes, ended


def test_what_the_agent_saw_arrives_once_whatever_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "RETRY_SECONDS", 0.01)
    agent = Agent(tmp_path, breaks_after=1_777)
    notes, ended = asyncio.run(take(tmp_path, agent, 400))
    found = [request.intended_at for request in ResultTail(tmp_path / "requests").read()]
    assert found == [float(number) for number in range(400)]
    assert ended == [0]
    assert agent.connections > 5
    assert agent.offsets == sorted(agent.offsets)
    assert any("nothing was lost" in note for note in notes)
    assert (tmp_path / "agent.ndjson").read_bytes() == (tmp_path / "spool").read_bytes()


async def read_alone(folder: Path) -> None:
    """Until the stream gives up by itself."""
    with RunStore(folder / "run.sqlite", create=True) as store:
        intake = Intake(store, folder / "r", folder / "e", 0.0, lambda _: None, lambda _: None)
        await Stream(folder, "/agent", intake, lambda _: None).run()


def test_another_agent_in_its_place_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "agent.ndjson").write_bytes(b"x" * 10_000)

    async def with_a_new_agent() -> None:
        runner, server = await Agent(tmp_path, 1_000).serve()
        kubeconfig(tmp_path, server)
        try:
            await asyncio.wait_for(read_alone(tmp_path), 20.0)
        finally:
            await runner.cleanup()

    with pytest.raises(WorldFailed, match="replaced"):
        asyncio.run(with_a_new_agent())


def test_a_server_that_stays_silent_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(stream_module, "GIVE_UP_SECONDS", 0.2)
    kubeconfig(tmp_path, "http://127.0.0.1:1")

    with pytest.raises(WorldFailed, match="no word from the agent"):
        asyncio.run(read_alone(tmp_path))
    assert msgspec.json.decode((tmp_path / "kube.json").read_bytes())["context"] is None
