"""The outbound side: what happens to what the app sends through its proxy.

accept ─► HTTP/1 or HTTP/2 ─► Request ─► authority ─► Entry ─► route ─► Exchange ─► Backend ─► endpoint
     │                            │          (mesh.behavior from here on)
     │                            └── too many in flight: 503
     └─► opaque TCP ─► the same discovery, balancer and gate, one connection each
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from mesh.behavior.outcome import Cause
from mesh.proxy.deadlines import Deadlines
from mesh.proxy.observe import Observer
from mesh.proxy.outbound.accept import OutboundAccept
from mesh.proxy.outbound.discovery import Discovery
from mesh.proxy.outbound.tcp import TcpForward
from mesh.proxy.recorder import Recorder
from mesh.proxy.request import Request
from mesh.proxy.server import Client, Connection, http1, http2
from mesh.proxy.session import Session
from mesh.proxy.telemetry import OutboundTelemetry
from mesh.proxy.wire.errors import AnyCause, Refused
from mesh.proxy.wire.message import RequestHead

STRIP: frozenset[bytes] = frozenset({b"l5d-client-id", b"l5d-proxy-error", b"l5d-proxy-connection", b"l5d-orig-proto"})
"""Headers by which proxies speak to each other; an app cannot say them."""
DST_OVERRIDE = b"l5d-dst-override"
TUNNEL = b"HTTP/1.1 200 Connection Established\r\n\r\n"


class OutboundService:
    """Serves the app's connections."""

    direction = "outbound"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        telemetry: OutboundTelemetry,
        discovery: Discovery,
        max_in_flight: int,
    ) -> None:
        self.loop = loop
        self.deadlines = Deadlines(loop)
        self.rng = rng
        self.draining = False
        self.in_flight = 0
        self.observers: tuple[Observer, ...] = ()
        self.recorder: Recorder | None = None
        self.connections: set[Connection] = set()
        self.telemetry = telemetry
        self.discovery = discovery
        self.config = discovery.config
        self._max_in_flight = max_in_flight
        self._tcp = telemetry.tcp("src", "disabled")
        self._authorities: dict[bytes, str] = {}

    # ---- protocols for accepted connections

    def accept(self) -> OutboundAccept:
        """The protocol for a new connection (the listener's factory)."""
        return OutboundAccept(self)

    def forwarding(self, target: str) -> Callable[[], OutboundAccept]:
        """The factory of a listener whose connections go to `target`."""
        return lambda: OutboundAccept(self, target)

    def http1(self, session: Session) -> asyncio.Protocol:
        return http1.ServerConnection(self, session, self._tcp, STRIP)

    def http2(self, session: Session) -> asyncio.Protocol:
        return http2.ServerConnection(self, session, self._tcp, STRIP)

    def tcp(self, session: Session, target: str) -> asyncio.Protocol:
        return self.discovery.tcp.forward(session, target)

    # ---- Service of server/

    def request(self, client: Client, head: RequestHead) -> Request:
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
        if self.in_flight > self._max_in_flight:
            request.fail(Cause.LOADSHED)
            return
        # Where the connection was redirected to us, what its client dialled says where it goes: a Host may be a short
        # name, or anything, and linkerd2-proxy does not believe it either.
        authority = request.session.target or self._named(request)
        if self.config.ingress_mode:
            authority = self._overridden(request) or authority
        if not authority:
            request.fail(Refused.HOST_MISSING)
            return
        request.authority = authority
        if request.head.method == "CONNECT" and request.session.target is None:
            self._tunnel(request, authority)
        else:
            self.discovery.find(request, authority)

    def ended(self, request: Request) -> None:
        self.in_flight -= 1

    def failed(self, request: Request) -> None:
        if self.recorder is not None:
            self.recorder.ended(request)

    def abandoned(self, request: Request) -> None:
        entry = self.discovery.cache.get(request.authority)
        if entry is not None:
            entry.stop_waiting(request)

    def _tunnel(self, request: Request, authority: str) -> None:
        """A client that uses us as its HTTP proxy wants a connection to `authority`, not a request there."""
        client = request.client
        if isinstance(client, http1.ServerConnection):
            self.in_flight -= 1
            client.hand_over(
                lambda refuse: TcpForward(
                    self.discovery.tcp,
                    client.session,
                    authority,
                    self._tcp,
                    new=False,
                    greeting=TUNNEL,
                    on_refusal=refuse,
                )
            )
        else:
            request.fail(Refused.UNSUPPORTED)

    def _named(self, request: Request) -> str:
        """What the request says of where it goes; empty: nothing."""
        raw = request.head.authority
        return self._authorities.get(raw) or self._normalise(raw)

    def _overridden(self, request: Request) -> str:
        """The header by which an ingress says where; it is not passed on."""
        head = request.head
        raw = head.get(DST_OVERRIDE)
        if raw is None:
            return ""
        head.headers = [entry for entry in head.headers if entry[0] != DST_OVERRIDE]
        return self._authorities.get(raw) or self._normalise(raw)

    def _normalise(self, raw: bytes) -> str:
        """`host:port` in lower case, port 80 where none is given; remembered, because few occur and often."""
        text = raw.decode("latin-1").lower()
        if text and (text.endswith("]") or ":" not in text):
            text += ":80"
        if len(self._authorities) >= 1024:
            self._authorities.clear()
        self._authorities[raw] = text
        return text
