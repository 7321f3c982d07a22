"""The inbound side: what happens to what arrives at the pod.

accept ─► detect ─► TLS ─► HTTP/1 or HTTP/2 ─► Request ─► policy ─► app pool ─► app
              │        └─► transport header ─► policy ─► relay ─► app's port
              └─► neither TLS nor HTTP: opaque ─► policy ─► relay ─► app's port
"""

from __future__ import annotations

import asyncio
from random import Random
from time import monotonic

from mesh.behavior.outcome import Cause
from mesh.proxy.config import Config
from mesh.proxy.deadlines import Deadlines
from mesh.proxy.driver import Credentials
from mesh.proxy.inbound.accept import Detect
from mesh.proxy.inbound.app import ROUTE, AppPool
from mesh.proxy.inbound.policy import PortPolicy
from mesh.proxy.inbound.tcp import TcpInbound
from mesh.proxy.observe import Observer
from mesh.proxy.recorder import Recorder
from mesh.proxy.request import Request
from mesh.proxy.server import Client, Connection, http1, http2
from mesh.proxy.session import Session
from mesh.proxy.telemetry import DirectionTelemetry
from mesh.proxy.wire.errors import AnyCause, Refused
from mesh.proxy.wire.message import RequestHead

STRIP: frozenset[bytes] = frozenset({b"l5d-client-id", b"l5d-proxy-error", b"l5d-proxy-connection"})
ORIG_PROTO = b"l5d-orig-proto"


class InboundService:
    """Serves the peers' connections."""

    direction = "inbound"

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        telemetry: DirectionTelemetry,
        credentials: Credentials,
    ) -> None:
        self.config = config
        self.loop = loop
        self.deadlines = Deadlines(loop)
        self.rng = rng
        self.telemetry = telemetry
        self.credentials = credentials
        self.draining = False
        self.in_flight = 0
        self.observers: tuple[Observer, ...] = ()
        self.recorder: Recorder | None = None
        self.connections: set[Connection] = set()
        self.policy = PortPolicy(
            config.default_policy,
            telemetry.registry,
            cluster_networks=config.cluster_networks,
            identity_enabled=config.identity is not None,
        )
        app = config.app
        self.opaque_by_default = app is not None and app.port in config.opaque_ports
        self.identity_name = config.identity.local_name if config.identity is not None else ""
        self.pool = AppPool(config, loop, rng, telemetry) if config.app is not None else None
        self.tcp = TcpInbound(loop, config, telemetry, self.policy, self)
        self._max_in_flight = config.max_in_flight
        self._authority = str(config.app) if config.app is not None else ""
        self._plaintext_label = telemetry.tls_label(False)
        self._plaintext_tcp = telemetry.tcp("src", self._plaintext_label)
        self._tls_tcp = telemetry.tcp("src", "true")

    # ---- protocols for accepted connections

    def accept(self) -> Detect:
        """The protocol for a new connection (the listener's factory)."""
        return Detect(self)

    @property
    def protocol(self) -> str:
        """What the port speaks, where that is known."""
        return self.policy.protocol

    def http1(self, session: Session) -> http1.ServerConnection:
        return http1.ServerConnection(self, session, self._tls_tcp if session.tls else self._plaintext_tcp, STRIP)

    def http2(self, session: Session) -> http2.ServerConnection:
        return http2.ServerConnection(self, session, self._tls_tcp if session.tls else self._plaintext_tcp, STRIP)

    def opaque(self, session: Session) -> asyncio.Protocol:
        return self.tcp.opaque(session)

    def transported(self, session: Session) -> asyncio.Protocol:
        return self.tcp.transported(session)

    # ---- Service of server/

    def request(self, client: Client, head: RequestHead) -> Request:
        if head.http_2 and client.session.tls:
            original = head.get(ORIG_PROTO)
            if original is not None:
                # The peer proxy upgraded it: the app hears what its client spoke.
                head.headers = [entry for entry in head.headers if entry[0] != ORIG_PROTO]
                head.http_2 = False
        return Request(self, client, head)

    def refused(self, cause: AnyCause) -> None:
        self.telemetry.refused(cause)

    def connection_opened(self, connection: Connection) -> None:
        self.connections.add(connection)

    def connection_closed(self, connection: Connection) -> None:
        self.connections.discard(connection)

    # ---- Owner of request.py

    def begin(self, request: Request) -> None:
        self.in_flight += 1
        session = request.session
        pool = self.pool
        if self.in_flight > self._max_in_flight:
            request.fail(Cause.LOADSHED)
            return
        if pool is None:
            request.fail(Refused.NO_APP)
            return
        refusal = self.policy.check(session, request.head, monotonic())
        if refusal is not None:
            request.fail(refusal)
            return
        request.authority = self._authority
        identity = session.peer_identity
        if identity is not None:
            request.extra.append((b"l5d-client-id", identity.encode()))
            request.series = pool.series_for(identity, "true")
        else:
            request.series = pool.series_for(None, self._plaintext_label)
        request.proceed(pool, ROUTE)

    def ended(self, request: Request) -> None:
        self.in_flight -= 1

    def failed(self, request: Request) -> None:
        if self.recorder is not None:
            self.recorder.ended(request)

    def abandoned(self, request: Request) -> None:
        """Nothing to take back: an inbound request never waits for its target."""
