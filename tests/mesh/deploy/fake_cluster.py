"""The fake API server with what an install needs beside it: server-side apply, CRDs that get established, Deployments
that roll out (or do not), namespaces that take their content along.

    with cluster() as fake:
        client = connect(kubeconfig=fake.kubeconfig)
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from tests.mesh.kube.fake_api import FakeApi, Key, Object, _merged


class FakeCluster(FakeApi):
    def __init__(self) -> None:
        super().__init__()
        self.rolls_out = True
        """Whether Deployments get their pods ready."""
        self.injects = True
        """Whether its injector answers."""
        self.kubeconfig = ""

    def find(self, plural: str, name: str, namespace: str = "") -> Object | None:
        for path, collection in self.objects.items():
            if path.endswith(f"/{plural}") and (namespace, name) in collection:
                return collection[namespace, name]
        return None

    def names(self) -> set[tuple[str, str, str]]:
        """(plural, namespace, name) of everything."""
        return {(path.rpartition("/")[2], *key) for path, collection in self.objects.items() for key in collection}

    def _create(self, path: str, namespace: str, body: Object) -> web.Response:
        if path == "/api/v1/pods" and body["metadata"]["name"] == "gameday-trial":  # a dry run: nothing is stored
            assert body["metadata"]["annotations"] == {"linkerd.io/inject": "enabled"}
            if self.injects and self.find("deployments", "linkerd-proxy-injector", "linkerd"):
                body["spec"]["initContainers"] = [{"name": "linkerd-proxy"}]
            return web.json_response(body, status=201)
        return super()._create(path, namespace, body)

    def _one(self, request: web.Request, path: str, key: Key, body: Object) -> web.Response:
        if request.method == "PATCH" and request.content_type == "application/apply-patch+yaml":
            assert request.query.get("fieldManager")
            known = self.objects.get(path, {}).get(key, {"metadata": {}})
            return web.json_response(self._store(path, key, self._completed(path, _merged(known, body))))
        response = super()._one(request, path, key, body)
        if request.method == "DELETE" and path == "/api/v1/namespaces":
            for collection in self.objects.values():
                for inner in [inner for inner in collection if inner[0] == key[1]]:
                    del collection[inner]
        return response

    def _completed(self, path: str, item: Object) -> Object:
        """With the status that controllers would write."""
        if path.endswith("/customresourcedefinitions"):
            item["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
        if path.endswith("/deployments"):
            item["metadata"]["generation"] = 1
            wanted = item["spec"]["replicas"] if self.rolls_out else 0
            counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), wanted)
            item["status"] = {"observedGeneration": 1, **counts}
        return item


@contextmanager
def cluster(directory: Path) -> Iterator[FakeCluster]:
    """A server on a loop of its own, for the synchronous client; its kubeconfig is written into `directory`."""
    started, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()
    fake = FakeCluster()

    async def serve() -> None:
        async with fake:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(10)
    path = directory / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "clusters": [{"name": "fake", "cluster": {"server": fake.url}}],
                "users": [{"name": "me", "user": {}}],
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
                "current-context": "fake",
            }
        )
    )
    fake.kubeconfig = str(path)
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
