"""viz against an API server: which pods there are, and the Secret that says who may tap."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable
from typing import Any

from fake_api import FakeApi

from mesh.control.log import Log
from mesh.kube.kinds import POD, SECRET
from mesh.viz.gate import SecretGate
from mesh.viz.pods import Pod
from mesh.viz.sources import PodsOfCluster

QUIET = Log("viz", "error")


def manifest(name: str, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"containers": [{"name": "app"}, {"name": "linkerd-proxy", "env": []}], "serviceAccountName": "web"},
        "status": {"phase": "Running", "podIP": "10.0.0.7"},
        **more,
    }


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def test_the_list_of_pods_follows_the_cluster() -> None:
    async def scenario() -> None:
        async with FakeApi() as server:
            server.put(POD, manifest("web-0"))
            server.put(POD, manifest("odd-0", spec={"containers": "none"}))
            source = PodsOfCluster(server.client(), QUIET, "cluster.local", "linkerd")
            told: list[set[str]] = []

            def update(pods: Iterable[Pod]) -> None:
                told.append({pod.name for pod in pods})

            following = asyncio.create_task(source.run(update))
            try:
                await until(lambda: bool(told))
                assert told[0] == {"web-0"}, "a pod that cannot be read is left out; the others are there"
                assert source.synced
                server.put(POD, manifest("web-1"))
                await until(lambda: told[-1] == {"web-0", "web-1"})
                server.put(POD, manifest("web-0", status={"phase": "Failed", "podIP": "10.0.0.7"}))
                await until(lambda: told[-1] == {"web-1"})
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    asyncio.run(scenario())


def stored(server: FakeApi) -> list[str]:
    """Tokens in the Secrets that there are."""
    found = [thing for kept in server.objects.values() for thing in kept.values() if thing.get("kind") == "Secret"]
    return [base64.b64decode(thing["data"]["token"]).decode() for thing in found]


def test_the_token_is_made_once_and_only_it_opens() -> None:
    async def scenario() -> None:
        async with FakeApi() as server:
            gate = SecretGate(server.client(), "linkerd-viz", QUIET)
            assert not await gate.admits("")
            assert not await gate.admits("guess")
            (token,) = stored(server)
            assert len(token) >= 32
            assert await gate.admits(token)
            other = SecretGate(server.client(), "linkerd-viz", QUIET)
            await other.prepare()
            assert stored(server) == [token], "another replica takes the one that there is"
            assert await other.admits(token)

    asyncio.run(scenario())


def test_where_the_secret_cannot_be_read_nobody_may_tap() -> None:
    async def scenario() -> None:
        async with FakeApi() as server:
            server.forbidden.add(SECRET.plural)
            gate = SecretGate(server.client(), "linkerd-viz", QUIET)
            assert not await gate.admits("")
            server.forbidden.clear()
            await gate.prepare()
            (token,) = stored(server)
            assert await gate.admits(token)

    asyncio.run(scenario())
