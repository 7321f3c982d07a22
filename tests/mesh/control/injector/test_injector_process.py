"""The injector as a process: a real program, an API server in memory, reviews over real TLS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.ports import free_port
from mesh.api.values import Image, Values, dump_values
from mesh.control.injector.__main__ import CONFIGURATION, SECRET
from mesh.control.webhook.keeper import MUTATING
from mesh.kube.kinds import CONFIG_MAP, EVENT, NAMESPACE
from mesh.kube.kinds import SECRET as SECRETS
from tests.mesh.control.test_webhook import call
from tests.mesh.kube.fake_api import FakeApi

pytestmark = pytest.mark.e2e


def namespace(name: str, inject: str | None = "enabled") -> dict[str, Any]:
    return {"metadata": {"name": name, "annotations": {"linkerd.io/inject": inject} if inject else None}}


def pod(name: str = "web", **spec: Any) -> dict[str, Any]:
    owner = {"kind": "StatefulSet", "name": name, "controller": True}
    metadata = {"name": f"{name}-0", "ownerReferences": [owner]}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "app"}], **spec}}


class World:
    def __init__(self, api: FakeApi, port: int, admin: int) -> None:
        self.api = api
        self.port = port
        self.admin = admin

    async def get(self, path: str) -> str:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.admin)
        except OSError:
            return ""
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer.decode()

    async def review(
        self, object_: dict[str, Any], in_namespace: str, kind: str = "Pod", **fields: Any
    ) -> dict[str, Any]:
        request = {
            "uid": "u",
            "kind": {"group": "", "version": "v1", "kind": kind},
            "operation": "CREATE",
            "namespace": in_namespace,
            "object": object_,
            **fields,
        }
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
        configuration = self.api.get(MUTATING, "", CONFIGURATION)
        assert configuration is not None
        bundle = base64.b64decode(configuration["webhooks"][0]["clientConfig"]["caBundle"]).decode()
        status, answer = await call(self.port, bundle, body.encode())
        assert status == 200
        response: dict[str, Any] = answer["response"]
        assert response["allowed"] is True
        return response

    async def injected(self, object_: dict[str, Any], in_namespace: str, **fields: Any) -> bool:
        return "patch" in await self.review(object_, in_namespace, **fields)


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with FakeApi() as api:
        api.put(MUTATING, {"metadata": {"name": CONFIGURATION}, "webhooks": [{"clientConfig": {}}]})
        values = dump_values(Values(image=Image(version="7.7")))
        api.put(
            CONFIG_MAP, {"metadata": {"name": "linkerd-config", "namespace": "linkerd"}, "data": {"values": values}}
        )
        api.put(NAMESPACE, namespace("shop"))
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": api.url}}],
            "users": [{"name": "fake", "user": {"token": "t"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        made = World(api, free_port(), free_port())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mesh.control.injector", "--kubeconfig", str(folder / "kubeconfig")),
            *("--listen", f"127.0.0.1:{made.port}", "--admin", f"127.0.0.1:{made.admin}"),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(20):
                while " 200 " not in await made.get("/ready"):
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
            yield made
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                _, said = await process.communicate()
            assert process.returncode == 0, said.decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


def test_pods_of_enabled_namespaces_get_what_the_installs_values_say(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as made:
            assert made.api.get(SECRETS, "linkerd", SECRET) is not None
            patch = json.loads(base64.b64decode((await made.review(pod(), "shop"))["patch"]))
            inits = next(one["value"] for one in patch if one["path"] == "/spec/initContainers")
            assert [one["image"] for one in inits] == ["gameday/mesh:7.7"] * 2
            assert not await made.injected(pod(hostNetwork=True), "shop")
            assert not await made.injected(pod(), "shop", operation="UPDATE")
            assert await made.injected({"metadata": {"name": "s"}}, "shop", kind="Service") is False

            text = await made.get("/metrics")
            assert 'proxy_inject_admission_requests_total{annotation_at="namespace",namespace="shop",' in text
            assert 'skip_reason="host_network_enabled",skipped="true"} 1.0' in text
            async with asyncio.timeout(5):
                while len(made.api.all(EVENT)) < 2:
                    await asyncio.sleep(0.02)
            assert {event["reason"] for event in made.api.all(EVENT)} == {"Injected", "InjectionSkipped"}

    asyncio.run(scenario())


def test_a_namespace_that_was_made_a_moment_ago_is_asked_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as made:
            made.api.mute = True  # watches say nothing from now on
            made.api.drop_watches()
            made.api.put(NAMESPACE, namespace("fresh"))
            assert await made.injected(pod(), "fresh")
            assert not await made.injected(pod(), "nowhere")

    asyncio.run(scenario())


def test_without_an_api_server_it_goes_on_with_what_it_knows(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as made:
            made.api.down = True
            assert await made.injected(pod(), "shop")
            assert not await made.injected(pod(), "unheard-of")
            assert " 200 " in await made.get("/ready")

    asyncio.run(scenario())
