"""The inbound side: what happens to what arrives at the pod.

accept ─► port ─► detect ─► TLS ─► HTTP/1 or HTTP/2 ─► Request ─► policy ─► app pool ─► app
                    │        └─► transport header ─► policy ─► relay ─► app's port
                    └─► neither TLS nor HTTP: opaque ─► policy ─► relay ─► app's port

Policy, pool and address are those of the port that the client dialled (`mesh.proxy.inbound.ports`).
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
from mesh.proxy.inbound.app import ROUTE
from mesh.proxy.inbound.policy import PortPolicy, Verdict
from mesh.proxy.inbound.ports import Port, Ports, Watch
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
        self.identity_name = config.identity.local_name if config.identity is not None else ""
        self.ports = Ports(config, loop, rng, telemetry)
        self.tcp = TcpInbound(loop, config, telemetry, self.ports, self)
        self._max_in_flight = config.max_in_flight
        self._plaintext_label = telemetry.tls_label(False)
        self._plaintext_tcp = telemetry.tcp("src", self._plaintext_label)
        self._tls_tcp = telemetry.tcp("src", "true")

    # ---- protocols for accepted connections

    def accept(self) -> Detect:
        """The protocol for a new connection (the listener's factory)."""
        return Detect(self)

    def start(self, watch: Watch) -> None:
        """Asks for the policies of the ports that are known, and from now on of those that come to be."""
        self.ports.start(watch)

    def stop(self) -> None:
        self.tcp.stop()
        self.ports.shut_down()

    @property
    def policy(self) -> PortPolicy:
        """Of the one app, where nothing is redirected."""
        assert self.ports.app is not None
        return self.ports.app.policy

    def protocol(self, session: Session) -> str:
        """What the connection's port speaks, where that is known."""
        port: Port | None = session.port
        return port.protocol if port is not None else "detect"

    def detect_timeout(self, session: Session) -> float:
        """Seconds that detection may take."""
        port: Port | None = session.port
        return port.policy.detect_timeout if port is not None else self.config.detect_timeout

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
        if connection.session.port is not None:
            connection.session.port.used()

    def connection_closed(self, connection: Connection) -> None:
        if connection not in self.connections:
            return  # it was closed for us when somebody else took it over
        self.connections.remove(connection)
        if connection.session.port is not None:
            connection.session.port.unused()

    # ---- Owner of request.py

    def begin(self, request: Request) -> None:
        self.in_flight += 1
        session = request.session
        port: Port | None = session.port
        if self.in_flight > self._max_in_flight:
            request.fail(Cause.LOADSHED)
            return
        if port is None:
            request.fail(Refused.NO_APP)
            return
        if self.tcp.is_own(port.address):
            request.fail(Refused.LOOP)
            return
        refusal = port.policy.check(session, request.head, monotonic())
        if refusal is not None:
            request.fail(refusal)
            return
        pool = port.pool
        request.authority = pool.address
        identity = session.peer_identity
        if identity is not None:
            request.extra.append((b"l5d-client-id", identity.encode()))
        verdict: Verdict = session.verdict
        series = verdict.series
        if series is None:
            tls = "true" if identity is not None else self._plaintext_label
            series = verdict.series = pool.series_for(identity, tls, verdict.labels)
        request.series = series
        request.proceed(pool, ROUTE)

    def ended(self, request: Request) -> None:
        self.in_flight -= 1

    def failed(self, request: Request) -> None:
        if self.recorder is not None:
            self.recorder.ended(request)

    def abandoned(self, request: Request) -> None:
        """Nothing to take back: an inbound request never waits for its target."""
