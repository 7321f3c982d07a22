"""The control plane killed at every point of its own rollout: real processes, real proxies, an API server in memory.

    cart's proxy ══ mTLS ══► payment's proxy            requests, new connections, and a name that is asked for anew
        └── watches, renewals ──► Service ──► identity, destination, policy: of each an old and a new replica

The Service leads new connections to replicas that say they are ready, as the EndpointSlice of a Deployment does. All
three components roll at once. What is awaited: nothing fails, and what is new afterwards is heard of. Only where no
replica is left at all, a name that nobody remembers is answered 504 after three seconds.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ports import free_port
from mesh.control.endpoints import INBOUND_ADDRESS
from mesh.control.names import component_name
from mesh.kube import kinds
from mesh.proxy.config import Address, ControlService
from tests.mesh.control.kube_objects import endpoint_slice, member, pod, service
from tests.mesh.control.test_kubernetes_processes import HOST, KubernetesPlane
from tests.mesh.control.test_renewal_killed import ROOT, Shop
from tests.mesh.kube.fake_api import api_thread
from tests.mesh.proxy.proxy_world import World, run_in_world, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

COMPONENTS = ("identity", "destination", "policy")
POINTS = (
    "new ones made, not ready: killed",
    "new ones ready: old ones killed",
    "old ones asked to end: killed",
    "old ones gone: new ones killed",
)
WITHIN_SECONDS = 20.0


@dataclass(frozen=True)
class Replica:
    process: subprocess.Popen[bytes]
    listen: int
    admin: int


class ComponentService:
    """An address that stays, and the replicas behind it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.replicas: list[Replica] = []
        self._ready: list[Replica] = []
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._lead, HOST, self.port)

    async def look(self) -> None:
        """Who is ready, as the kubelet sees it."""
        self._ready = [replica for replica in self.replicas if await _says(replica, "/ready")]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._ready:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection(HOST, self._ready[-1].listen)
        except OSError:
            writer.transport.abort()  # it was killed since we looked
            return
        await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except OSError:
        pass  # either end is gone, and so is the other one now
    finally:
        writer.close()


async def _says(replica: Replica, path: str) -> bool:
    """Whether it answers a probe with 200."""
    try:
        reader, writer = await asyncio.open_connection(HOST, replica.admin)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        head = await reader.readline()
        writer.transport.abort()
    except OSError:
        return False
    return b" 200 " in head


class Rolling(Shop):
    """The shop, with a control plane of replicas."""

    def __init__(self, plane: KubernetesPlane, world: World, folder: Path) -> None:
        super().__init__(plane, world, folder)
        self.services = {component: ComponentService() for component in COMPONENTS}
        self.started: list[Replica] = []
        self.forgotten: list[str] = []
        """Failures of requests that the control plane had to be asked for."""
        self._published = 20
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Any) -> None:
        self._tasks.add(asyncio.create_task(work))

    def start(self) -> dict[str, Replica]:
        """A new replica of each component."""
        made = {}
        for component in COMPONENTS:
            self.plane.ports[component] = (free_port(), free_port())
            arguments = self.plane.arguments(component)
            if component != "identity":
                arguments += ["--identity-addr", f"localhost:{self.services['identity'].port}"]
            command = [sys.executable, "-m", "mesh.control", *arguments]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
            made[component] = Replica(process, *self.plane.ports[component])
            self.services[component].replicas.append(made[component])
            self.started.append(made[component])
        return made

    async def ready(self, replicas: dict[str, Replica]) -> None:
        async with asyncio.timeout(WITHIN_SECONDS):
            while not all([await _says(replica, "/ready") for replica in replicas.values()]):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)  # the Service has seen it, too

    async def end(self, replicas: dict[str, Replica], *numbers: signal.Signals) -> None:
        for replica in replicas.values():
            for number in numbers:
                replica.process.send_signal(number)
        await until(lambda: all(replica.process.poll() is not None for replica in replicas.values()), WITHIN_SECONDS)
        for component, replica in replicas.items():
            self.services[component].replicas.remove(replica)

    def _identity_port(self) -> int:
        return self.services["identity"].port

    async def open(self) -> None:
        self.spawn(self._look())
        for one in self.services.values():
            await one.open()

    async def _look(self) -> None:
        while True:
            for one in self.services.values():
                await one.look()
            await asyncio.sleep(0.05)

    async def open_pods(self) -> None:
        name = component_name("destination")
        destination, policy = (
            ControlService(Address(HOST, self.services[component].port), name)
            for component in ("destination", "policy")
        )
        told: dict[str, Any] = {"destination": destination, "policy": policy, "outbound_discovery_idle": 0.2}
        self.payment = await self._pod("payment", **told)
        self.publish("payment")
        self.cart = await self._pod("cart", **told)

    def publish(self, name: str) -> None:
        """A Service of this name, with the payment's pod behind it."""
        self._published += 1
        assert self.payment.config.app is not None
        port, api = self.payment.config.app.port, self.plane.api
        made = pod("payment-0", HOST, serviceAccountName="payment")
        made["metadata"]["annotations"][INBOUND_ADDRESS] = str(self.payment.config.inbound_listen)
        api.put(kinds.POD, made)
        api.put(kinds.SERVICE, service(name, f"10.96.0.{self._published}"))
        members = endpoint_slice(member("payment-0", HOST), name=f"{name}-x", port=port)
        members["metadata"]["labels"]["kubernetes.io/service-name"] = name
        api.put(kinds.ENDPOINT_SLICE, members)

    async def ask_for_what_was_forgotten(self) -> None:
        """The control plane is asked for this name each time."""
        while True:
            reply = await self.cart.send("seldom.shop.svc.cluster.local:80")
            if reply.status != 200:
                self.forgotten.append(f"{reply.status} {reply.headers}")
            await asyncio.sleep(0.4)

    async def heard_of(self, authority: str) -> None:
        """Returns once what was published is served."""
        async with asyncio.timeout(WITHIN_SECONDS):
            while (await self.cart.send(authority)).status != 200:
                await asyncio.sleep(0.1)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for one in self.services.values():
            one.close()
        for replica in self.started:
            replica.process.kill()
            replica.process.wait()


@pytest.fixture
def tell(tmp_path: Path) -> Iterator[Callable[[Callable[[Rolling], Any]], None]]:
    with api_thread() as api:
        (tmp_path / "plane").mkdir()
        plane = KubernetesPlane(tmp_path / "plane", api)

        def play(story: Callable[[Rolling], Any]) -> None:
            async def scenario(world: World) -> None:
                shop = Rolling(plane, world, tmp_path)
                try:
                    await story(shop)
                finally:
                    shop.close()

            run_in_world(tmp_path, scenario)

        yield play


@pytest.mark.parametrize("point", POINTS)
def test_replicas_killed_in_a_rollout_of_the_control_plane_cost_no_request(tell: Any, point: str) -> None:
    async def story(shop: Rolling) -> None:
        await shop.open()
        old = shop.start()
        await shop.ready(old)
        await shop.open_pods()
        shop.publish("seldom")
        await shop.heard_of("seldom.shop.svc.cluster.local:80")
        shop.spawn(shop.traffic())
        shop.spawn(shop.ask_for_what_was_forgotten())
        await asyncio.sleep(0.5)

        new = shop.start()
        if point == "new ones made, not ready: killed":
            await shop.end(new, signal.SIGKILL)
            new = shop.start()
        await shop.ready(new)
        match point:
            case "new ones ready: old ones killed":
                await shop.end(old, signal.SIGKILL)
            case "old ones asked to end: killed":
                await shop.end(old, signal.SIGTERM, signal.SIGKILL)
            case _:
                await shop.end(old, signal.SIGTERM)
        if point == "old ones gone: new ones killed":
            await shop.end(new, signal.SIGKILL)
            await shop.ready(shop.start())
        over = time.time()

        await until(lambda: shop.refreshed() > over, WITHIN_SECONDS)
        shop.publish("latest")
        await shop.heard_of("latest.shop.svc.cluster.local:80")
        assert shop.failures == []
        assert shop.answered > 20
        if point != "old ones gone: new ones killed":  # there is nobody to ask for longer than a request waits
            assert shop.forgotten == []

    tell(story)
