"""The app behind an inbound proxy, as backends of one endpoint: one for HTTP/1 and one for HTTP/2.

The same machine as outbound, with Linkerd's inbound settings: connecting takes at most 300 ms, a refused connect fails
the request that asked for it (502; a timeout 504) and is retried after 100 ms doubling to 10 s, and requests that wait
for the app fail fast after 1 s. The app is spoken to as its client spoke: HTTP/2 between proxies carries both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from time import monotonic

from mesh.api.messages import Endpoint, QueueSpec
from mesh.behavior.backend import Backend, BackendSettings, EndpointState, Multiplex
from mesh.behavior.routes import Route
from mesh.proxy.client import Connection
from mesh.proxy.config import Config
from mesh.proxy.driver import BackendDriver
from mesh.proxy.request import Request
from mesh.proxy.series import EndpointSeries
from mesh.proxy.telemetry import DirectionTelemetry
from mesh.proxy.wire.contexts import Contexts

QUEUE_CAPACITY = 10_000
"""linkerd2-proxy's default for its queues."""
BACKOFF_MAX_SECONDS = 10.0
ROUTE = Route("default")
NO_LABELS: Mapping[str, str] = {}


class _NoCredentials:
    """The way to the app is inside the pod and in plaintext."""

    contexts: Contexts | None = None


class AppPool:
    """Connections to the app; the `Target` of all inbound requests."""

    def __init__(
        self, config: Config, loop: asyncio.AbstractEventLoop, rng: Random, telemetry: DirectionTelemetry
    ) -> None:
        assert config.app is not None
        self._telemetry = telemetry
        self.address = str(config.app)
        self._series: dict[tuple[str | None, ...], EndpointSeries] = {}
        queue = QueueSpec(capacity=QUEUE_CAPACITY, failfast_seconds=config.inbound_failfast)
        self._drivers = []
        for multiplex in (Multiplex.NEVER, Multiplex.ALWAYS):
            driver = BackendDriver(
                loop,
                telemetry,
                _NoCredentials(),
                connect_timeout=config.inbound_connect_timeout,
                bind_ip=None,
                series=self._unused_series,
            )
            settings = BackendSettings(
                multiplex=multiplex,
                queue=queue,
                pool_idle_seconds=config.pool_idle,
                backoff_max_seconds=BACKOFF_MAX_SECONDS,
            )
            backend: Backend[Request, Connection] = Backend(settings, driver, rng, monotonic())
            driver.attach(backend)
            backend.update(monotonic(), [Endpoint(address=self.address, pod="", namespace="")])
            self._drivers.append(driver)
        self._http1, self._http2 = self._drivers

    def series_for(
        self, client_identity: str | None, tls: str, labels: Mapping[str, str] = NO_LABELS
    ) -> EndpointSeries:
        """The metrics of requests from that client. `labels`: by which Server, route and authorization they came."""
        key = (client_identity, tls, *labels.values())
        series = self._series.get(key)
        if series is None:
            full = {"direction": "inbound", "tls": tls, "target_addr": self.address, **labels}
            full["client_id"] = client_identity or ""
            series = self._series[key] = self._telemetry.endpoint(full)
        return series

    def forget_series(self) -> None:
        """The policy changed: what its old names were counted in is let go, and in time dropped from the exposition."""
        self._series.clear()

    def shut_down(self) -> None:
        for driver in self._drivers:
            driver.shut_down()

    # ---- Target

    def dispatch(self, request: Request) -> None:
        driver = request.driver = self._http2 if request.head.http_2 else self._http1
        driver.dispatch(request)

    def withdraw(self, request: Request) -> None:
        """No request waits for the app to be discovered."""

    def answered(self, request: Request) -> None:
        """Tries are counted as they end, and inbound makes one for each request."""

    def release(self) -> None:
        """The app is always there."""

    def _unused_series(self, endpoint: EndpointState[Request, Connection]) -> EndpointSeries:
        # Requests bring the series of their client.
        return self.series_for(None, "")
