"""The outbound side: what happens to a request that the app sends through its proxy.

accept ──► ServerConnection ──► Request ──► authority ──► Discovery ──► Exchange ──► Backend ──► endpoint
                                   │             (mesh.behavior from here on)
                                   └── too many in flight: 503
"""

from __future__ import annotations

import asyncio
from random import Random

from mesh.behavior.outcome import Cause
from mesh.proxy.outbound.discovery import Discovery
from mesh.proxy.request import Request
from mesh.proxy.server import ServerConnection
from mesh.proxy.telemetry import OutboundTelemetry
from mesh.proxy.wire.errors import AnyCause, Refused
from mesh.proxy.wire.http1 import RequestHead

STRIP: frozenset[bytes] = frozenset({b"l5d-client-id", b"l5d-proxy-error", b"l5d-proxy-connection"})
"""Headers by which proxies speak to each other; an app cannot say them."""


class OutboundService:
    """Serves the app's connections."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        telemetry: OutboundTelemetry,
        discovery: Discovery,
        max_in_flight: int,
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.draining = False
        self.in_flight = 0
        self.connections: set[ServerConnection] = set()
        self._telemetry = telemetry
        self._discovery = discovery
        self._max_in_flight = max_in_flight
        self._tcp = telemetry.tcp("src", "disabled")
        self._authorities: dict[bytes, str] = {}

    def accept(self) -> ServerConnection:
        """The protocol for a new connection (the listener's factory)."""
        return ServerConnection(self, self._tcp, STRIP)

    # ---- Service of server.py

    def request(self, client: ServerConnection, head: RequestHead) -> Request:
        return Request(self, client, head)

    def refused(self, cause: AnyCause) -> None:
        self._telemetry.refused(cause)

    def connection_opened(self, connection: ServerConnection) -> None:
        self.connections.add(connection)

    def connection_closed(self, connection: ServerConnection) -> None:
        self.connections.discard(connection)

    # ---- Owner of request.py

    def begin(self, request: Request) -> None:
        self.in_flight += 1
        if self.in_flight > self._max_in_flight:
            request.fail(Cause.LOADSHED)
            return
        raw = request.head.authority
        authority = self._authorities.get(raw)
        if authority is None:
            authority = self._normalise(raw)
            if not authority:
                request.fail(Refused.BAD_REQUEST)
                return
        self._discovery.find(request, authority)

    def ended(self, request: Request) -> None:
        self.in_flight -= 1

    def abandoned(self, request: Request) -> None:
        authority = self._authorities.get(request.head.authority)
        entry = self._discovery.cache.get(authority) if authority is not None else None
        if entry is not None:
            entry.stop_waiting(request)

    def _normalise(self, raw: bytes) -> str:
        """`host:port` in lower case, port 80 where none is given; remembered, because few occur and often."""
        text = raw.decode("latin-1").lower()
        if text and (text.endswith("]") or ":" not in text):
            text += ":80"
        if len(self._authorities) >= 1024:
            self._authorities.clear()
        self._authorities[raw] = text
        return text
