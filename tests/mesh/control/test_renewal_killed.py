"""Identity killed at every point of a renewal, of certificates and of their issuer: real processes, real proxies.

    a cart's proxy ══ mTLS ══► a payment's proxy ─► app        requests and new connections all the time
          └──────── renew every third of a second ────────► identity ─► the API server in memory

After each kill identity is started anew, as the kubelet would. What is awaited: no request and no new connection has
failed, and both proxies have new certificates; and if identity is away for so long that certificates expire, and is
killed at that point once more, that both heal without a restart.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.control.names import component_name
from mesh.control.pki import create_issuer
from mesh.kube import kinds
from mesh.proxy.config import Address, ControlService, Identity
from mesh.proxy.identity import IdentityClient
from tests.mesh.control import killed_at
from tests.mesh.control.test_kubernetes_processes import HOST, KubernetesPlane
from tests.mesh.kube.fake_api import api_thread
from tests.mesh.proxy.proxy_world import Pod, World, identity_of, run_in_world, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]
LONG, SHORT = ("--leaf-lifetime", "30s"), ("--leaf-lifetime", "1s", "--clock-skew", "0s")
"""Lives of leaves."""
REFRESH_SECONDS = 0.3
HEALED_SECONDS = 8.0


class Shop:
    """A cart that calls a payment, and an identity to be killed."""

    def __init__(self, plane: KubernetesPlane, world: World, folder: Path) -> None:
        self.plane = plane
        self.failures: list[str] = []
        self.answered = 0
        self._world = world
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        plane.anchor = world.control.anchor
        plane.api.put(kinds.CONFIG_MAP, plane.bundle())
        plane.put_issuer(create_issuer(plane.anchor))

    # ---- identity

    def start_identity(self, life: tuple[str, ...] = LONG, *, cut: str | None = None) -> subprocess.Popen[bytes]:
        """`cut`: it is to be killed at this point."""
        program = ["mesh.control"] if cut is None else ["tests.mesh.control.killed_at", cut, "mesh.control"]
        command = [sys.executable, "-m", *program, *self.plane.arguments("identity"), *life]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
        return self.process

    def kill_identity(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None
        self.process.kill()
        self.process.wait()

    async def killed(self) -> None:
        """Returns once it has ended as it should."""
        process = self.process
        assert process is not None
        await until(lambda: process.poll() is not None, 20.0)
        assert process.returncode == -signal.SIGKILL

    # ---- the proxies

    async def open(self) -> None:
        await until(lambda: self.plane.ready("identity"), 15.0)
        self.payment, self.cart = await self._pod("payment"), await self._pod("cart")

    def _identity_port(self) -> int:
        return self.plane.ports["identity"][0]

    async def _pod(self, name: str, **config: Any) -> Pod:
        token = self._folder / f"{name}.token"
        token.write_text(f"shop:{name}")
        service = ControlService(Address(HOST, self._identity_port()), component_name("identity"))
        identity = Identity(
            service,
            self.plane.anchor.certificate_pem,
            identity_of(name),
            str(token),
            min_refresh=0.1,
            max_refresh=REFRESH_SECONDS,
        )
        return await self._world.pod(name, identity=identity, **config)

    def clients(self) -> list[IdentityClient]:
        found = [pod.proxy.identity for pod in (self.cart, self.payment)]
        return [client for client in found if client is not None]

    def refreshed(self) -> float:
        """Unix second since which all certificates are new."""
        return min(client._refreshed.value for client in self.clients())

    def lasts(self) -> float:
        """Seconds until the first certificate has expired; OpenSSL holds it for good throughout its last one."""
        return min((client._expires_at or 0.0) + 1.0 for client in self.clients()) - time.time()

    async def connect(self) -> None:
        """A new connection between the two. Raises OSError (TLS errors included)."""
        client, address = self.clients()[0], self.payment.config.inbound_listen
        assert client.contexts is not None
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=client.contexts.http2, server_hostname=self.payment.identity
        )
        try:
            async with asyncio.timeout(3.0):
                if not await reader.read(1):  # in TLS 1.3 a client hears of a refusal only now
                    raise ConnectionResetError("the connection was refused")
        finally:
            writer.transport.abort()

    async def traffic(self) -> None:
        """Requests and new connections, until cancelled."""
        while True:
            try:
                reply = await self.cart.send(self.payment)
                if reply.status != 200:
                    self.failures.append(f"{reply.status} {reply.headers}")
                await self.connect()
            except (OSError, TimeoutError) as error:
                self.failures.append(repr(error))
            self.answered += 1
            await asyncio.sleep(0.02)


Story = Callable[[Shop], Awaitable[None]]


@pytest.fixture
def tell(tmp_path: Path) -> Iterator[Callable[[Story], None]]:
    """Plays a story in a shop that is ended afterwards."""
    with api_thread() as api:
        (tmp_path / "plane").mkdir()
        plane = KubernetesPlane(tmp_path / "plane", api)

        def play(story: Story) -> None:
            async def scenario(world: World) -> None:
                shop = Shop(plane, world, tmp_path)
                try:
                    await story(shop)
                finally:
                    if shop.process is not None and shop.process.poll() is None:
                        shop.kill_identity()

            run_in_world(tmp_path, scenario)

        yield play


# ---- a proxy's certificate

SEEN_FROM_OUTSIDE = ("CSR made, not sent", "TokenReview under way", "answered, not installed", "installed")


async def strike(shop: Shop, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Identity, which does not run, is started and killed at that point of a renewal."""
    if point not in SEEN_FROM_OUTSIDE:
        shop.start_identity(cut=point)
        await shop.killed()
        return
    process, aimed = shop.start_identity(), True

    def kill() -> None:
        nonlocal aimed
        if aimed and shop.plane.ready("identity"):
            aimed = False
            os.kill(process.pid, signal.SIGKILL)
            process.wait()

    with monkeypatch.context() as patch:
        if point == "TokenReview under way":
            review = shop.plane.api.token_review
            patch.setattr(shop.plane.api, "token_review", lambda spec: (kill(), review(spec))[1])
        elif point == "installed":
            patch.setattr(IdentityClient, "_use", _with(IdentityClient._use, kill, after=True))
        else:
            step = "_certify" if point == "CSR made, not sent" else "_install"
            patch.setattr(IdentityClient, step, _with(getattr(IdentityClient, step), kill))
        await shop.killed()


def _with(original: Any, act: Callable[[], None], *, after: bool = False) -> Any:
    """The same method, and `act` before or after it."""

    def method(self: IdentityClient, *given: Any) -> Any:
        if not after:
            act()
        result = original(self, *given)
        if after:
            act()
        return result

    return method


@pytest.mark.parametrize("point", [*killed_at.LEAF, *SEEN_FROM_OUTSIDE])
def test_identity_killed_in_the_renewal_of_a_proxys_certificate(
    tell: Callable[[Story], None], point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(shop: Shop) -> None:
        shop.start_identity()
        await shop.open()
        traffic = asyncio.create_task(shop.traffic())
        shop.kill_identity()
        await strike(shop, point, monkeypatch)
        killed = time.time()
        shop.start_identity()
        await until(lambda: shop.refreshed() > killed, 20.0)
        traffic.cancel()
        assert shop.failures == []
        assert shop.answered > 10

        # Away until nothing is valid any more, and killed at that point once more.
        shop.kill_identity()
        away = time.time()
        shop.start_identity(SHORT)
        await until(lambda: shop.refreshed() > away, 20.0)
        shop.kill_identity()
        await until(lambda: shop.lasts() < 0.0)
        with pytest.raises(OSError, match=r"certificate|refused"):
            await shop.connect()
        await strike(shop, point, monkeypatch)
        shop.start_identity()
        await until(lambda: shop.lasts() > 10.0, HEALED_SECONDS)
        await shop.connect()
        assert (await shop.cart.send(shop.payment)).status == 200

    tell(story)


# ---- the issuer


@pytest.mark.parametrize("point", killed_at.ISSUER)
def test_identity_killed_in_the_renewal_of_the_issuer(tell: Callable[[Story], None], point: str) -> None:
    async def story(shop: Shop) -> None:
        shop.start_identity(cut=point)
        await shop.open()
        traffic = asyncio.create_task(shop.traffic())
        await asyncio.sleep(2 * REFRESH_SECONDS)
        issuer = create_issuer(shop.plane.anchor)
        shop.plane.put_issuer(issuer)
        await shop.killed()
        shop.start_identity()
        await until(lambda: all(issuer.certificate_pem.strip() in client._chain for client in shop.clients()), 20.0)
        await asyncio.sleep(2 * REFRESH_SECONDS)
        traffic.cancel()
        assert shop.failures == []
        assert shop.answered > 10

    tell(story)
