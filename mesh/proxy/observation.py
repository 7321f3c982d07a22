"""Everything that watches the proxy, put together: what `Proxy` starts and stops as one.

always      the flight recorder
by config   tracing, the access log (inbound requests, as in Linkerd), the tap listener
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from random import Random

from mesh.proxy.access_log import AccessLog
from mesh.proxy.config import Config
from mesh.proxy.metrics import Registry
from mesh.proxy.observe import Watched, plug
from mesh.proxy.recorder import Recorder
from mesh.proxy.tap import Tap
from mesh.proxy.tap_server import TapServer
from mesh.proxy.telemetry import DirectionTelemetry
from mesh.proxy.trace import Exporter, Tracer
from mesh.proxy.wire.contexts import Contexts

log = logging.getLogger("proxy")


class Observation:
    """Plugs in the observers that the configuration asks for."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        *,
        inbound: tuple[Watched, DirectionTelemetry],
        outbound: tuple[Watched, DirectionTelemetry],
        contexts: Callable[[], Contexts | None],
    ) -> None:
        owners = (inbound[0], outbound[0])
        self._config = config
        self._exporter: Exporter | None = None
        self._access_log: AccessLog | None = None
        self._tap: TapServer | None = None
        self._task: asyncio.Task[None] | None = None
        self.recorder = Recorder(config.flight_recorder_size)
        for _, telemetry in (inbound, outbound):
            telemetry.witness = self.recorder

        def client() -> ssl.SSLContext | None:
            current = contexts()
            return current.control if current is not None else None

        def server() -> ssl.SSLContext | None:
            current = contexts()
            return current.server if current is not None else None

        collector = config.trace
        if collector is not None:
            self._exporter = Exporter(
                collector.host,
                collector.port,
                collector.service_name,
                registry,
                rng,
                attributes=collector.attributes,
                context=client,
                tls_name=collector.name,
                bind_ip=config.bind_ip,
            )
            plug(owners, Tracer(self._exporter, rng))
        if config.access_log:
            self._access_log = AccessLog(config.access_log, registry, loop)
            plug((inbound[0],), self._access_log)
        for owner in owners:
            owner.recorder = self.recorder  # not an observer: only failures are its business
        if config.tap_name:
            self._tap = TapServer(Tap(owners, registry, rng), config.tap_name, server)

    def start(self) -> None:
        """Starts what runs by itself.

        Raises:
            OSError: the tap port is taken.
        """
        if self._exporter is not None:
            self._task = asyncio.get_running_loop().create_task(self._exporter.run())
        if self._tap is not None and self._config.identity is not None:
            self._tap.start(self._config.tap_listen.host, self._config.tap_listen.port)
        elif self._tap is not None:
            log.warning("tap is off: it needs an identity")

    async def stop(self) -> None:
        if self._tap is not None:
            await self._tap.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._access_log is not None:
            self._access_log.close()
