"""A route that is replaced while requests of it wait for their next try; and a clock that goes on whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, cast

from mesh.api.messages import BackendSpec, HttpRouteSpec, OutboundPolicy, RetrySpec
from mesh.proxy.config import Address, Config
from mesh.proxy.deadlines import Deadlines
from mesh.proxy.metrics import Registry
from mesh.proxy.outbound.discovery import Discovery
from mesh.proxy.request import Request
from mesh.proxy.session import Session
from mesh.proxy.telemetry import OutboundTelemetry
from mesh.proxy.wire.contexts import Contexts
from mesh.proxy.wire.message import RequestHead

NOWHERE = Address("127.0.0.1", 1)
WEB, CANARY = "web.shop.svc.cluster.local:80", "canary.shop.svc.cluster.local:80"


class NoCredentials:
    contexts: Contexts | None = None


class Client:
    """Notes the status that it is answered with."""

    write_paused = False

    def __init__(self) -> None:
        self.session = Session()
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def respond(self, request: Request, head: Any) -> None:
        self.status.set_result(head.status)

    def answer(self, request: Request, answer: Any) -> None:
        self.status.set_result(answer.status)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def policy(version: int, *routes: HttpRouteSpec) -> OutboundPolicy:
    return OutboundPolicy(version=version, published_at=0.0, authority=WEB, exists=True, routes=routes)


def test_a_retry_goes_on_after_its_route_was_deleted() -> None:
    async def answered() -> int:
        tries, gone = 0, asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal tries
            while head := await reader.read(4096):
                assert head.endswith(b"\r\n\r\n")
                tries += 1
                status = b"503 Not Yet"
                if tries == 1:
                    entry.apply(policy(2, HttpRouteSpec(name="http")))
                else:
                    status = b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
            writer.close()
            gone.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        endpoints = {WEB: ("127.0.0.1:1",), CANARY: (address,)}
        config = replace(Config(NOWHERE, NOWHERE, NOWHERE), static_endpoints=endpoints)
        telemetry = OutboundTelemetry(Registry(), True)
        discovery = Discovery(config, asyncio.get_running_loop(), Random(1), telemetry, NoCredentials(), None, None)
        entry = discovery.hold(WEB)
        retry = RetrySpec(statuses=((503, 503),))
        entry.apply(policy(1, HttpRouteSpec(name="canary", backends=(BackendSpec(authority=CANARY),), retry=retry)))
        client, head = Client(), RequestHead()
        head.method, head.path, head.authority = "GET", b"/", b"web"
        request = Request(discovery.mirrors, cast(Any, client), head)
        request.authority = WEB
        request.body_end(None)
        discovery.find(request, WEB)
        try:
            async with asyncio.timeout(5):
                return await client.status
        finally:
            discovery.stop()
            server.close()
            await gone.wait()

    assert asyncio.run(answered()) == 200


class Loop:
    """Timers that the test fires."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []
        self.told: list[dict[str, Any]] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Any:
        self.timers.append(callback)
        return self

    def cancel(self) -> None: ...

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.told.append(context)


def test_a_deadline_that_fails_is_told_and_stops_no_other() -> None:
    loop = Loop()
    deadlines = Deadlines(cast(Any, loop))
    reached: list[str] = []

    def fail() -> None:
        raise KeyError("fault")

    deadlines.start("first", 0.0, lambda: reached.append("first"))
    deadlines.start("faulty", 0.0, fail)
    deadlines.start("next", 1.0, lambda: reached.append("next"))
    loop.timers.pop(0)()
    assert reached == ["first", "next"]
    assert [type(one["exception"]) for one in loop.told] == [KeyError]
