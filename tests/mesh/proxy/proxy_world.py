"""Whole proxies in one process: real sockets, real TLS, a control plane that says what a test tells it to say.

Only the control plane is a stand-in, and only in what it decides: it serves the same watches over mutual TLS, and signs
real certificates with the mesh's own authority. One file although it is long: it is one world, and a test that fails is
read beside all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import h11
import msgspec
import uvloop
from cryptography import x509

from benchmarks.ports import free_port
from mesh.api.messages import (
    CertifyRequest,
    CertifyResponse,
    Endpoint,
    Endpoints,
    NotFound,
    OutboundPolicy,
    Profile,
    WatchMessage,
    encode_line,
)
from mesh.behavior.authz import default_inbound_policy
from mesh.control import pki
from mesh.proxy.config import Address, Config, ControlService, Identity, Workload
from mesh.proxy.csr import make_key_and_csr
from mesh.proxy.proxy import Proxy
from mesh.proxy.wire.contexts import make_contexts

CONTROL_NAME = "control.linkerd.serviceaccount.identity.linkerd.cluster.local"
SCENARIO_SECONDS = 110.0
"""More than any takes; the tests' own marks come first."""


def identity_of(service: str, namespace: str = "shop") -> str:
    return f"{service}.{namespace}.serviceaccount.identity.linkerd.cluster.local"


def authority_of(service: str, namespace: str = "shop", port: int = 80) -> str:
    return f"{service}.{namespace}.svc.cluster.local:{port}"


class ControlPlane:
    """Identity, destination and policy behind one listener."""

    def __init__(self) -> None:
        self.anchor = pki.create_trust_anchor()
        self.issuer = pki.create_issuer(self.anchor)
        self.address = Address("127.0.0.1", free_port())
        self.service = ControlService(self.address, CONTROL_NAME)
        self.issuing = True
        self.lifetime = 3600.0
        self.clock_skew = 20.0
        self.late: str | None = None
        """Streams with this in their path are answered 50 ms later than others."""
        self.certified: list[str] = []
        self._snapshots: dict[str, list[WatchMessage]] = {}
        self._watchers: dict[str, set[asyncio.StreamWriter]] = {}
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._version = 0
        key, csr = make_key_and_csr(CONTROL_NAME)
        leaf = self.sign(csr, CONTROL_NAME, 3600.0, 20.0)
        chain = "\n".join((leaf.leaf, *leaf.intermediates))
        self._context = make_contexts(self.anchor.certificate_pem, chain, key).server
        self._context.verify_mode = ssl.CERT_OPTIONAL

    def sign(self, csr: str, identity: str, lifetime: float, skew: float) -> CertifyResponse:
        request = x509.load_pem_x509_csr(csr.encode())
        leaf = pki.issue_leaf(
            self.issuer, identity, request.public_key(), now=time.time(), lifetime=lifetime, clock_skew=skew
        )
        return CertifyResponse(
            leaf=pki.to_pem(leaf),
            intermediates=(self.issuer.certificate_pem,),
            valid_until=leaf.not_valid_after_utc.timestamp(),
        )

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.address.host, self.address.port, ssl=self._context)

    async def stop(self) -> None:
        """Gone: no listener, and every stream broken."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    def publish(self, path: str, message: WatchMessage) -> None:
        kept = [m for m in self._snapshots.get(path, []) if type(m) is not type(message)]
        self._snapshots[path] = [*kept, message]
        for writer in self._watchers.get(path, ()):
            writer.write(_chunk(encode_line(message)))

    def _stamp(self) -> dict[str, Any]:
        self._version += 1
        return {"version": self._version, "published_at": time.time()}

    def endpoints(self, authority: str, endpoints: Iterable[Endpoint]) -> None:
        self.publish(f"/v1/destinations/{authority}", Endpoints(**self._stamp(), endpoints=tuple(endpoints)))

    def not_found(self, authority: str) -> None:
        self.publish(f"/v1/destinations/{authority}", NotFound(**self._stamp(), authority=authority))

    def profile(self, authority: str, **fields: Any) -> None:
        fields.setdefault("exists", bool(fields))
        self.publish(f"/v1/destinations/{authority}", Profile(**self._stamp(), authority=authority, **fields))

    def policy(self, authority: str, **fields: Any) -> None:
        fields.setdefault("exists", True)
        self.publish(f"/v1/outbound/{authority}", OutboundPolicy(**self._stamp(), authority=authority, **fields))

    def inbound(self, namespace: str, pod: str, port: int, default_policy: str) -> None:
        path = f"/v1/inbound/{namespace}/{pod}/{port}"
        self.publish(path, default_inbound_policy(default_policy, **self._stamp()))

    def watching(self, path: str) -> int:
        return len(self._watchers.get(path, ()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        path = ""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split(" ", 2)
            path = path.partition("?")[0]  # every client of this world is told the same
            if method == "POST":
                fields = head.lower().split("\r\n")
                length = int(next(line for line in fields if line.startswith("content-length")).split()[1])
                writer.write(self._certify(await reader.readexactly(length)))
                await writer.drain()
                return
            if not writer.get_extra_info("peercert"):
                writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                return
            if self.late is not None and self.late in path:
                await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for message in self._snapshots.get(path, []):
                writer.write(_chunk(encode_line(message)))
            self._watchers.setdefault(path, set()).add(writer)
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the proxy left, or the test took the control plane away
        finally:
            self._watchers.get(path, set()).discard(writer)
            self._writers.discard(writer)
            writer.close()

    def _certify(self, body: bytes) -> bytes:
        if not self.issuing:
            return b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n"
        request = msgspec.json.decode(body, type=CertifyRequest)
        self.certified.append(request.identity)
        answer = msgspec.json.encode(self.sign(request.csr, request.identity, self.lifetime, self.clock_skew))
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Seen:
    """A request as the app got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[[Seen], Awaitable[tuple[int, dict[str, str], bytes]]]


async def answer_ok(request: Seen) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, b"hello"


class App:
    """An HTTP/1.1 server on h11, so that what the proxy sends is judged by another implementation."""

    def __init__(self, behave: Behaviour = answer_ok, port: int | None = None) -> None:
        self.behave = behave
        self.address = Address("127.0.0.1", port or free_port())
        self.requests: list[Seen] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.address.host, self.address.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        connection = h11.Connection(h11.SERVER)
        try:
            while True:
                seen = await _read_request(connection, reader)
                if seen is None:
                    return
                self.requests.append(seen)
                status, headers, body = await self.behave(seen)
                fields = {"content-length": str(len(body)), **headers}
                writer.write(connection.send(h11.Response(status_code=status, headers=list(fields.items()))) or b"")
                if seen.method != "HEAD" and body:
                    writer.write(connection.send(h11.Data(data=body)) or b"")
                writer.write(connection.send(h11.EndOfMessage()) or b"")
                await writer.drain()
                if connection.our_state is not h11.DONE:
                    return
                connection.start_next_cycle()
        except (OSError, h11.RemoteProtocolError):
            pass  # the proxy gave up on this connection, or passed on what is no HTTP
        finally:
            self._writers.discard(writer)
            writer.close()


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> Seen | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            headers = {name.decode(): value.decode() for name, value in head.headers}
            return Seen(head.method.decode(), head.target.decode(), headers, body)
        else:
            return None


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One keep-alive connection of an app to its proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._h11 = h11.Connection(h11.CLIENT)

    async def request(
        self, method: str, target: str, host: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        fields = {"host": host, **(headers or {})}
        if body and "transfer-encoding" not in fields:
            fields["content-length"] = str(len(body))
        send = self._h11.send
        data = send(h11.Request(method=method, target=target, headers=list(fields.items()))) or b""
        if body:
            data += send(h11.Data(data=body)) or b""
        data += send(h11.EndOfMessage()) or b""
        self.writer.write(data)
        head: h11.Response | None = None
        received = b""
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self.reader.read(65536))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                received += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
                    self._h11.start_next_cycle()
                names = {name.decode(): value.decode() for name, value in head.headers}
                return Reply(head.status_code, names, received)
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("the proxy closed the connection")

    def close(self) -> None:
        self.writer.transport.abort()


@dataclass
class Pod:
    """A service's only replica: app, proxy, addresses."""

    name: str
    proxy: Proxy
    app: App | None
    authority: str
    identity: str
    config: Config
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        address = self.config.outbound_listen
        client = Client(*await asyncio.open_connection(address.host, address.port))
        self.clients.append(client)
        return client

    async def send(
        self, pod: Pod | str, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str
    ) -> Reply:
        """One request on a connection of its own, absolute form as `http_proxy` clients write it."""
        authority = pod if isinstance(pod, str) else pod.authority
        client = await self.client()
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, f"http://{authority}{path}", authority, names, body)
        finally:
            client.close()

    def endpoint(self) -> Endpoint:
        address = str(self.config.inbound_listen)
        port = self.config.app.port if self.config.app is not None else 0
        return Endpoint(address=address, pod=self.name, namespace="shop", identity=self.identity, port=port)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the series of `name` that carry these labels."""
        total = 0.0
        for line in self.proxy.registry.render().decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
                total += float(value)
        return total


class World:
    """Everything a test starts; leaves nothing behind."""

    def __init__(self, directory: Path) -> None:
        self.control = ControlPlane()
        self._token = directory / "token"
        self._token.write_text("token")
        self._pods: list[Pod] = []
        self._apps: list[App] = []

    async def app(self, behave: Behaviour = answer_ok) -> App:
        app = App(behave)
        await app.start()
        self._apps.append(app)
        return app

    async def pod(self, name: str, behave: Behaviour = answer_ok, *, meshed: bool = True, **changes: Any) -> Pod:
        """Starts an app and its proxy, and tells discovery about them."""
        app = await self.app(behave)
        identity = Identity(
            self.control.service,
            self.control.anchor.certificate_pem,
            identity_of(name),
            str(self._token),
            changes.pop("min_refresh", 10.0),
        )
        config = Config(
            inbound_listen=Address("127.0.0.1", free_port()),
            outbound_listen=Address("127.0.0.1", free_port()),
            admin_listen=Address("127.0.0.1", free_port()),
            app=app.address,
            identity=identity,
            destination=self.control.service,
            policy=self.control.service,
            workload=Workload("shop", f"{name}-0"),
        )
        config = replace(config, **changes)
        proxy = Proxy(config, {}, Random(1))
        pod = Pod(f"{name}-0", proxy, app, authority_of(name), identity_of(name), config)
        self._pods.append(pod)
        await proxy.start()
        self.serve(pod.authority, [pod])
        return pod

    def serve(self, authority: str, pods: Iterable[Pod]) -> None:
        """Discovery knows the authority, its endpoints, no profile and the default policy."""
        self.control.endpoints(authority, [pod.endpoint() for pod in pods])
        self.control.profile(authority)
        self.control.policy(authority)

    def serve_unknown(self, authority: str) -> None:
        """Discovery knows that there is no such authority, and says no more than that.

        Endpoints that a "not found" takes back in the same breath would do for a proxy to which the policy came first:
        the request would be on its way to none of them."""
        self.control.not_found(authority)
        self.control.profile(authority)
        self.control.policy(authority, exists=False)

    async def close(self) -> None:
        for pod in self._pods:
            for client in pod.clients:
                client.close()
            await pod.proxy.stop()
        for app in self._apps:
            await app.stop()
        await self.control.stop()


@contextlib.asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    made = World(directory)
    await made.control.start()
    try:
        yield made
    finally:
        await made.close()


def run_in_world(directory: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    """Runs `scenario` on uvloop, as the proxy does.

    The timeout of pytest-timeout is an exception in whatever runs when it comes, and where that is a callback of the
    loop, the loop logs it and goes on for ever.
    """

    async def inside() -> None:
        async with world(directory) as made, asyncio.timeout(SCENARIO_SECONDS):
            await scenario(made)

    uvloop.run(inside())


async def until(condition: Callable[[], bool], within: float = 5.0) -> None:
    """Waits for `condition`, looking often; fails the test when it does not come true."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        await asyncio.sleep(0.01)
