"""The inbound side: what happens to a request that arrives at the pod.

accept ──► detect (TLS or not) ──► ServerConnection ──► Request ──► policy ──► app pool ──► app
"""

from __future__ import annotations

import asyncio
import ssl
from random import Random
from typing import Protocol

from mesh.behavior.outcome import Cause
from mesh.proxy.config import Config
from mesh.proxy.inbound.accept import Detect
from mesh.proxy.inbound.app import AppPool
from mesh.proxy.inbound.policy import PortPolicy
from mesh.proxy.request import Request
from mesh.proxy.server import ServerConnection
from mesh.proxy.telemetry import DirectionTelemetry
from mesh.proxy.wire.errors import AnyCause, Refused
from mesh.proxy.wire.http1 import RequestHead

STRIP: frozenset[bytes] = frozenset({b"l5d-client-id", b"l5d-proxy-error", b"l5d-proxy-connection"})


class ServerCredentials(Protocol):
    """Where the current server context comes from; None while identity is disabled."""

    server_context: ssl.SSLContext | None


class InboundService:
    """Serves the peers' connections."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        telemetry: DirectionTelemetry,
        credentials: ServerCredentials,
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.telemetry = telemetry
        self.draining = False
        self.in_flight = 0
        self.connections: set[ServerConnection] = set()
        self.policy = PortPolicy(config.default_policy)
        self.detect_timeout = config.detect_timeout
        self.pool = AppPool(config, loop, rng, telemetry) if config.app is not None else None
        self._credentials = credentials
        self._max_in_flight = config.max_in_flight
        self._authority = str(config.app).encode() if config.app is not None else b""
        self._plaintext_label = telemetry.tls_label(False)
        self._plaintext_tcp = telemetry.tcp("src", self._plaintext_label)
        self._tls_tcp = telemetry.tcp("src", "true")

    @property
    def server_context(self) -> ssl.SSLContext | None:
        return self._credentials.server_context

    def accept(self) -> Detect:
        """The protocol for a new connection (the listener's factory)."""
        return Detect(self)

    def plaintext(self) -> ServerConnection:
        # Un-meshed clients are not told what goes on inside the mesh.
        return ServerConnection(self, self._plaintext_tcp, STRIP, None, informational=False)

    def meshed(self, client_identity: str | None) -> ServerConnection:
        return ServerConnection(self, self._tls_tcp, STRIP, client_identity)

    # ---- Service of server.py

    def request(self, client: ServerConnection, head: RequestHead) -> Request:
        return Request(self, client, head)

    def refused(self, cause: AnyCause) -> None:
        self.telemetry.refused(cause)

    def connection_opened(self, connection: ServerConnection) -> None:
        self.connections.add(connection)

    def connection_closed(self, connection: ServerConnection) -> None:
        self.connections.discard(connection)

    # ---- Owner of request.py

    def begin(self, request: Request) -> None:
        self.in_flight += 1
        identity = request.client.peer_identity
        pool = self.pool
        if self.in_flight > self._max_in_flight:
            request.fail(Cause.LOADSHED)
        elif not self.policy.allows(identity):
            request.fail(Refused.FORBIDDEN)
        elif pool is None:
            request.fail(Refused.NO_APP)
        elif identity is not None:
            extra = b"l5d-client-id: %b\r\n" % identity.encode()
            request.proceed(pool.app_for(identity, "true"), request.head.authority or self._authority, extra)
        else:
            request.proceed(pool.app_for(None, self._plaintext_label), request.head.authority or self._authority)

    def ended(self, request: Request) -> None:
        self.in_flight -= 1

    def abandoned(self, request: Request) -> None:
        """Nothing to take back: an inbound request never waits for its target."""
