"""The injector killed at every point of the renewal of its certificate: real processes, an API server in memory.

    two replicas show a certificate that is due; one of them renews it, and is killed at the point
    the other one is called all the time, with the CAs that the webhook configuration has at that moment

What is awaited: no call fails; once the killed replica is back, Secret and caBundle agree, and both replicas show what
the Secret has.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.ports import free_port
from mesh.control.injector.__main__ import CONFIGURATION, SECRET, SERVICE
from mesh.control.webhook.certificate import LIFETIME_SECONDS, RENEW_LEFT, Certificate, issue, problem
from mesh.control.webhook.keeper import FILES, MUTATING, Place
from mesh.kube import kinds
from tests.mesh.control import killed_at
from tests.mesh.control.test_webhook import call, review
from tests.mesh.kube.fake_api import FakeApi, api_thread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]
HOST = "127.0.0.1"
PLACE = Place("linkerd", SERVICE, SECRET, CONFIGURATION, MUTATING)
WITHIN_SECONDS = 20.0


class Replicas:
    """Of the injector, and what the API server knows of them."""

    def __init__(self, api: FakeApi, folder: Path) -> None:
        self._api = api
        self._kubeconfig = folder / "kubeconfig"
        user = {"clusters": [{"name": "a", "cluster": {"server": api.url}}], "users": [{"name": "a", "user": {}}]}
        contexts = {"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}], "current-context": "a"}
        self._kubeconfig.write_text(yaml.safe_dump(user | contexts))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.old = issue(PLACE.names, now=time.time() - LIFETIME_SECONDS * (1 - RENEW_LEFT / 2))
        data = {
            name: base64.b64encode(text.encode()).decode()
            for name, text in zip(FILES, (self.old.ca, self.old.chain, self.old.key), strict=True)
        }
        api.put(kinds.SECRET, {"metadata": {"name": SECRET, "namespace": "linkerd"}, "data": data})
        client = {"service": {"name": SERVICE}, "caBundle": data["ca.crt"]}
        webhook = {"name": "linkerd-proxy-injector.linkerd.io", "clientConfig": client, "sideEffects": "None"}
        api.put(MUTATING, {"metadata": {"name": CONFIGURATION}, "webhooks": [webhook]})

    def start(self, point: str) -> tuple[subprocess.Popen[bytes], int]:
        """A replica and its port."""
        port = free_port()
        command = [sys.executable, "-m", "tests.mesh.control.killed_at", point, "mesh.control.injector"]
        command += ["--kubeconfig", str(self._kubeconfig)]
        command += ["--listen", f"{HOST}:{port}", "--admin", f"{HOST}:{free_port()}"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
        self.processes.append(process)
        return process, port

    def stored(self) -> Certificate:
        secret = self._api.get(kinds.SECRET, "linkerd", SECRET)
        assert secret is not None
        return Certificate(*(base64.b64decode(secret["data"][name]).decode() for name in FILES))

    def bundle(self) -> str:
        configuration = self._api.get(MUTATING, "", CONFIGURATION)
        assert configuration is not None
        (webhook,) = configuration["webhooks"]
        return base64.b64decode(webhook["clientConfig"]["caBundle"]).decode()

    async def answers(self, port: int) -> bool:
        """Whether a review is answered, as the API server asks for it."""
        try:
            status, _ = await call(port, self.bundle(), json.dumps(review("DELETE")).encode())
        except (OSError, IndexError):
            return False
        return status == 200

    async def shows(self, port: int) -> str:
        """The PEM of its leaf; it is judged by `answers`."""
        context = ssl.create_default_context(cadata=self.bundle())
        _, writer = await asyncio.open_connection(HOST, port, ssl=context, server_hostname=PLACE.names[0])
        try:
            return ssl.DER_cert_to_PEM_cert(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        finally:
            writer.transport.abort()

    async def until_answered(self, port: int) -> None:
        async with asyncio.timeout(WITHIN_SECONDS):
            while not await self.answers(port):
                await asyncio.sleep(0.02)


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    with api_thread() as api:
        made = Replicas(api, tmp_path)
        try:
            yield made
        finally:
            for process in made.processes:
                process.kill()
                process.wait()


@pytest.mark.parametrize("point", killed_at.WEBHOOK)
def test_an_injector_killed_in_the_renewal_of_its_certificate(replicas: Replicas, point: str) -> None:
    async def story() -> None:
        _, other = replicas.start("webhook: never due")
        await replicas.until_answered(other)
        calls: list[bool] = []

        async def call_it() -> None:
            while True:
                calls.append(await replicas.answers(other))
                await asyncio.sleep(0.02)

        calling = asyncio.create_task(call_it())
        victim, _ = replicas.start(point)
        async with asyncio.timeout(WITHIN_SECONDS):
            while victim.poll() is None:
                await asyncio.sleep(0.005)
        assert victim.returncode == -signal.SIGKILL
        written = replicas.stored() != replicas.old
        assert written is (point not in ("due, nothing made", "made, not written"))
        between = replicas.stored()

        _, back = replicas.start("webhook: due at once")
        await replicas.until_answered(back)
        async with asyncio.timeout(WITHIN_SECONDS):
            while {await replicas.shows(other), await replicas.shows(back)} != {_leaf(replicas.stored())}:
                await asyncio.sleep(0.05)
        calling.cancel()
        assert len(calls) > 20
        assert all(calls), f"{calls.count(False)} of {len(calls)} calls failed"
        assert replicas.bundle() == replicas.stored().ca
        assert problem(replicas.stored(), PLACE.names) == ""
        assert replicas.stored() == between or not written, "what was written is used, and not made once more"

    asyncio.run(story())


def _leaf(certificate: Certificate) -> str:
    pem = certificate.chain
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(pem[: pem.index("-----END CERTIFICATE-----") + 26]))
