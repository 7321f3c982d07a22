"""Both TCP stacks over real sockets: listeners, balancers, TLS with the mesh's own certificates. What discovery would
say is said by the test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Any

import uvloop
from cryptography import x509

from mesh.api.messages import Endpoint, QueueSpec
from mesh.behavior.backend import Backend
from mesh.behavior.outcome import Cause
from mesh.control import pki
from mesh.proxy.config import Address, Config
from mesh.proxy.csr import make_key_and_csr
from mesh.proxy.inbound.policy import PortPolicy
from mesh.proxy.inbound.ports import Ports
from mesh.proxy.inbound.tcp import TcpInbound
from mesh.proxy.metrics import Registry
from mesh.proxy.outbound.accept import OutboundAccept
from mesh.proxy.outbound.tcp import TCP_SETTINGS, TcpDriver, TcpForward, TcpOutbound, Waiter
from mesh.proxy.session import Session
from mesh.proxy.telemetry import DirectionTelemetry, OutboundTelemetry
from mesh.proxy.wire.contexts import Contexts, make_contexts
from mesh.proxy.wire.tls import TlsShim, Upper

NOWHERE = Address("127.0.0.1", 1)
FAILFAST_SECONDS = 0.2
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Authority:
    """Signs certificates for a test's proxies and servers."""

    def __init__(self) -> None:
        self.anchor = pki.create_trust_anchor()
        self._issuer = pki.create_issuer(self.anchor)

    def pem(self, name: str) -> tuple[str, str]:
        """(chain, key)."""
        key, csr = make_key_and_csr(name)
        public = x509.load_pem_x509_csr(csr.encode()).public_key()
        leaf = pki.issue_leaf(self._issuer, name, public, now=time.time(), lifetime=3600, clock_skew=20)
        return f"{pki.to_pem(leaf)}\n{self._issuer.certificate_pem}", key

    def contexts(self, name: str) -> Contexts:
        chain, key = self.pem(name)
        return make_contexts(self.anchor.certificate_pem, chain, key)


class Entry:
    """What the test's discovery knows of one destination."""

    def __init__(self, driver: TcpDriver, protocol: str, egress: str) -> None:
        self.tcp = driver
        self.protocol = protocol
        self.egress = egress
        self.held = 0

    def release(self) -> None:
        self.held -= 1


class Directory:
    """Says at once what the test told it; an authority in `silent` is never answered."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.silent: set[str] = set()
        self.waiting: list[Waiter] = []
        self.cause = Cause.UNKNOWN_DESTINATION

    def look_up(self, waiter: Waiter, authority: str) -> None:
        entry = self.entries.get(authority)
        if authority in self.silent:
            self.waiting.append(waiter)
        elif entry is None:
            waiter.not_found(self.cause)
        else:
            entry.held += 1
            waiter.found(entry)

    def forget(self, waiter: Waiter, authority: str) -> None:
        self.waiting.remove(waiter)


class Credentials:
    def __init__(self) -> None:
        self.contexts: Contexts | None = None


class Http(asyncio.Protocol):
    """Stands where an HTTP server would; remembers what it was handed."""

    def __init__(self, name: str, seen: list[tuple[str, bytes]]) -> None:
        self._name = name
        self._seen = seen

    def data_received(self, data: bytes) -> None:
        self._seen.append((self._name, data))


class Outbound:
    """The outbound side of one proxy."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **changes: Any) -> None:
        self.loop = loop
        self.registry = Registry()
        self.telemetry = OutboundTelemetry(self.registry, True)
        self.config = replace(Config(NOWHERE, NOWHERE, NOWHERE), **changes)
        self.discovery = Directory()
        self.credentials = Credentials()
        self.side = TcpOutbound(loop, self.config, self.telemetry, self.credentials, self.discovery)
        self.http: list[tuple[str, bytes]] = []
        self.targets: list[str] = []

    def know(
        self, authority: str, endpoints: Iterable[Endpoint], protocol: str = "detect", egress: str = ""
    ) -> Backend[TcpForward, Any]:
        """Discovery tells of a destination."""
        driver = self.side.driver(authority)
        settings = replace(TCP_SETTINGS, queue=QueueSpec(failfast_seconds=FAILFAST_SECONDS))
        backend: Backend[TcpForward, Any] = Backend(settings, driver, Random(1), time.monotonic())
        driver.attach(backend)
        backend.update(time.monotonic(), list(endpoints))
        self.discovery.entries[authority] = Entry(driver, protocol, egress)
        return backend

    def http1(self, session: Session) -> asyncio.Protocol:
        return Http("http1", self.http)

    def http2(self, session: Session) -> asyncio.Protocol:
        return Http("http2", self.http)

    def tcp(self, session: Session, target: str) -> asyncio.Protocol:
        self.targets.append(target)
        return self.side.forward(session, target)


class Inbound:
    """The inbound side of one proxy, for connections that are opaque."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, app: Address | None, policy: str = "all-unauthenticated"
    ) -> None:
        self.loop = loop
        self.registry = Registry()
        self.telemetry = DirectionTelemetry(self.registry, "inbound", True)
        self.http: list[tuple[str, bytes]] = []
        self.config = Config(NOWHERE, NOWHERE, NOWHERE, app=app, detect_timeout=5.0, default_policy=policy)
        self.ports = Ports(self.config, loop, Random(1), self.telemetry)
        self.side = TcpInbound(loop, self.config, self.telemetry, self.ports, self)
        self.contexts: Contexts | None = None

    @property
    def policy(self) -> PortPolicy:
        assert self.ports.app is not None
        return self.ports.app.policy

    def http1(self, session: Session) -> asyncio.Protocol:
        return Http("http1", self.http)

    def http2(self, session: Session) -> asyncio.Protocol:
        return Http("http2", self.http)

    def plain(self) -> asyncio.Protocol:
        session = Session("127.0.0.1:1", str(self.config.app))
        session.port = self.ports.at(None)
        return self.side.opaque(session)

    def meshed(self) -> asyncio.Protocol:
        assert self.contexts is not None
        return TlsShim(self.contexts.server, self, server_side=True)

    # ---- Watcher of the shim

    def handshake_done(self, shim: TlsShim) -> Upper:
        session = Session("127.0.0.1:1", str(self.config.app), identity=shim.peer_name(), tls=True)
        upper: Any = self.side.transported(session)
        return upper

    def handshake_failed(self, shim: TlsShim, error: BaseException | None) -> None:
        pass


class TcpWorld:
    """Everything a test opens; leaves nothing behind."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._servers: list[asyncio.Server] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._sides: list[TcpOutbound | TcpInbound] = []

    async def listen(self, factory: Callable[[], asyncio.BaseProtocol]) -> Address:
        server = await self.loop.create_server(factory, "127.0.0.1", 0)
        self._servers.append(server)
        return Address("127.0.0.1", server.sockets[0].getsockname()[1])

    async def serve(self, behave: Serve, ssl_context: Any = None) -> Address:
        """A server app; `behave` serves one connection, which stays open until it closes it."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await behave(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ssl_context)
        self._servers.append(server)
        return Address("127.0.0.1", server.sockets[0].getsockname()[1])

    async def connect(self, address: Address, **options: Any) -> Pair:
        reader, writer = await asyncio.open_connection(address.host, address.port, **options)
        self._writers.append(writer)
        return reader, writer

    def outbound(self, **changes: Any) -> Outbound:
        made = Outbound(self.loop, **changes)
        self._sides.append(made.side)
        return made

    def inbound(self, app: Address | None, policy: str = "all-unauthenticated") -> Inbound:
        made = Inbound(self.loop, app, policy)
        self._sides.append(made.side)
        return made

    async def accepting(self, outbound: Outbound, target: str | None) -> Address:
        return await self.listen(lambda: OutboundAccept(outbound, target))

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        for side in self._sides:
            side.stop()
        for server in self._servers:
            server.close()


def run_tcp(scenario: Callable[[TcpWorld], Awaitable[None]]) -> None:
    """Runs `scenario` on uvloop, as the proxy does; nothing in it may take longer than a few seconds."""

    async def inside() -> None:
        world = TcpWorld(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(20):
                await scenario(world)
        finally:
            world.close()
            await asyncio.sleep(0)

    uvloop.run(inside())


def reset_by(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with a RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def metric(registry: Registry, name: str, **labels: str) -> float:
    total = 0.0
    for line in registry.render().decode().splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
            total += float(value)
    return total
