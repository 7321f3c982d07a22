"""What is plugged in for which configuration, and that the tap listens with the proxy's own identity."""

from __future__ import annotations

import asyncio
from random import Random

import uvloop
from observed import Anchored, Side, asked

from benchmarks.ports import free_port
from mesh.behavior.outcome import Cause
from mesh.proxy.config import PREFIX, load_config
from mesh.proxy.metrics import Registry
from mesh.proxy.observation import Observation
from mesh.proxy.telemetry import DirectionTelemetry, OutboundTelemetry
from mesh.proxy.wire.contexts import Contexts

TAPPER = "tap.linkerd-viz.serviceaccount.identity.linkerd.cluster.local"


class Watching:
    """Two sides of a proxy and what watches them."""

    def __init__(self, contexts: Contexts | None = None, **variables: str) -> None:
        config = load_config({PREFIX + name: value for name, value in variables.items()})
        registry = Registry()
        self.inbound, self.outbound = Side("inbound"), Side("outbound")
        self.telemetry = OutboundTelemetry(registry, True)
        self.observation = Observation(
            config,
            registry,
            asyncio.get_running_loop(),
            Random(1),
            inbound=(self.inbound, DirectionTelemetry(registry, "inbound", True)),
            outbound=(self.outbound, self.telemetry),
            contexts=lambda: contexts,
        )

    def plugged(self, side: Side) -> list[str]:
        return [type(observer).__name__ for observer in side.observers]


def test_by_default_only_failures_are_watched() -> None:
    async def run() -> None:
        watching = Watching()
        watching.observation.start()
        assert watching.plugged(watching.inbound) == watching.plugged(watching.outbound) == []
        watching.outbound.serve(asked(status=504, cause=Cause.FAILFAST))
        watching.telemetry.handshake_failed("certificate_expired", "10.0.0.1:4143")
        assert [failure.kind for failure in watching.observation.recorder.failures()] == ["connection", "request"]
        await watching.observation.stop()

    uvloop.run(run())


def test_the_access_log_is_of_inbound_requests_and_tracing_of_both_sides() -> None:
    async def run() -> None:
        watching = Watching(ACCESS_LOG="json", TRACE_COLLECTOR_SVC_ADDR="127.0.0.1:1")
        watching.observation.start()
        assert watching.plugged(watching.inbound) == ["Tracer", "AccessLog"]
        assert watching.plugged(watching.outbound) == ["Tracer"]
        await watching.observation.stop()

    uvloop.run(run())


def test_the_tap_port_is_open_where_somebody_may_tap() -> None:
    mesh = Anchored()
    port = free_port()
    variables = {
        "IDENTITY_SVC_ADDR": "127.0.0.1:1",
        "IDENTITY_SVC_NAME": "identity",
        "IDENTITY_TRUST_ANCHORS": mesh.anchor.certificate_pem,
        "IDENTITY_LOCAL_NAME": "pay.shop.local",
        "IDENTITY_TOKEN_FILE": "/dev/null",
        "CONTROL_LISTEN_ADDR": f"127.0.0.1:{port}",
        "TAP_SVC_NAME": TAPPER,
    }

    async def run() -> None:
        watching = Watching(mesh.contexts("pay.shop.local"), **variables)
        watching.observation.start()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=mesh.client(TAPPER), server_hostname="pay.shop.local"
        )
        body = b'{"limit": 1}'
        writer.write(b"POST /v1/tap HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await reader.readuntil(b"\r\n\r\n")
        watching.outbound.serve(asked())
        async with asyncio.timeout(10):
            assert b'"event":"responseEnd"' in await reader.read()
        await watching.observation.stop()

    uvloop.run(run())
