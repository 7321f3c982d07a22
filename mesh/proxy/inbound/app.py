"""The app behind an inbound proxy, as a backend of one endpoint.

The same machine as outbound, with Linkerd's inbound settings: connecting takes at most 300 ms, a refused connect fails
the request that asked for it (502; a timeout 504) and is retried after 100 ms doubling to 10 s, and requests that wait
for the app fail fast after 1 s.
"""

from __future__ import annotations

import asyncio
import ssl
from random import Random
from time import monotonic

from mesh.api.messages import Endpoint, QueueSpec
from mesh.behavior.backend import Backend, BackendSettings, EndpointState, Multiplex
from mesh.behavior.routes import Route
from mesh.proxy.client import ClientConnection
from mesh.proxy.config import Config
from mesh.proxy.driver import BackendDriver
from mesh.proxy.request import Request
from mesh.proxy.telemetry import DirectionTelemetry, EndpointSeries
from mesh.proxy.wire.errors import AnyCause

QUEUE_CAPACITY = 10_000
"""linkerd2-proxy's default for its queues."""
BACKOFF_MAX_SECONDS = 10.0
ROUTE = Route("default")


class _NoCredentials:
    """The way to the app is inside the pod and in plaintext."""

    client_context: ssl.SSLContext | None = None


class App:
    """A request's `Target` on the inbound side, seen by one client identity (metrics differ by it)."""

    def __init__(self, pool: AppPool, series: EndpointSeries) -> None:
        self.driver: BackendDriver = pool.driver
        self.series: EndpointSeries | None = series

    def match(self, method: str, path: bytes) -> Route:
        return ROUTE

    def answered(self, request: Request, status: int, cause: AnyCause | None) -> None:
        """Inbound has no routes yet, so there is nothing to count beyond the tries."""

    def release(self) -> None:
        """The app is always there."""


class AppPool:
    """Connections to the app."""

    def __init__(
        self, config: Config, loop: asyncio.AbstractEventLoop, rng: Random, telemetry: DirectionTelemetry
    ) -> None:
        assert config.app is not None
        self._telemetry = telemetry
        self._address = str(config.app)
        self.driver = BackendDriver(
            loop,
            telemetry,
            _NoCredentials(),
            connect_timeout=config.inbound_connect_timeout,
            bind_ip=None,
            series=self._unused_series,
        )
        settings = BackendSettings(
            multiplex=Multiplex.NEVER,
            queue=QueueSpec(capacity=QUEUE_CAPACITY, failfast_seconds=config.inbound_failfast),
            pool_idle_seconds=config.pool_idle,
            backoff_max_seconds=BACKOFF_MAX_SECONDS,
        )
        self.backend: Backend[Request, ClientConnection] = Backend(settings, self.driver, rng, monotonic())
        self.driver.attach(self.backend)
        self.backend.update(monotonic(), [Endpoint(address=self._address, pod="", namespace="")])
        self._apps: dict[tuple[str | None, str], App] = {}

    def app_for(self, client_identity: str | None, tls: str) -> App:
        """The app with the metrics of requests from that client."""
        key = (client_identity, tls)
        app = self._apps.get(key)
        if app is None:
            labels = {"direction": "inbound", "tls": tls, "target_addr": self._address}
            labels["client_id"] = client_identity or ""
            app = self._apps[key] = App(self, self._telemetry.endpoint(labels))
        return app

    def _unused_series(self, endpoint: EndpointState[Request, ClientConnection]) -> EndpointSeries:
        series = self.app_for(None, self._telemetry.tls_label(False)).series
        assert series is not None
        return series
