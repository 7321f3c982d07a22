"""Opens the server's end of a relay: TCP, then TLS and the transport header where the peer is meshed.

    dial ─► TCP ─► (meshed) handshake ─► our header ─► established ─► hung up
              └────────────┴─► failed

The caller is told in a later turn of the loop than that of `dial`, as `mesh.behavior.backend.Driver` asks. A handshake
has the connect timeout for itself.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from mesh.behavior.outcome import Cause
from mesh.proxy.config import Address
from mesh.proxy.connect_deadline import ConnectDeadline
from mesh.proxy.tcp import End, tune
from mesh.proxy.telemetry import DirectionTelemetry, TcpSeries
from mesh.proxy.wire.tls import TlsShim, Upper, failure_reason


class Caller(Protocol):
    """Who dialled."""

    def established(self, end: ServerEnd) -> None:
        """It is up: join it, or close it."""

    def failed(self, end: ServerEnd, cause: Cause, *, handshake: bool) -> None:
        """It will not be. `handshake`: TCP was up and TLS was not."""

    def hung_up(self, end: ServerEnd) -> None:
        """An established connection is gone, and so is the one that it was joined to."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to dial. The last three are for a meshed peer only."""

    address: Address
    context: ssl.SSLContext | None = None
    name: str | None = None
    """TLS name."""
    header: bytes = b""
    """Written before anything else."""


class ServerEnd(End):
    """A connection that we opened."""

    __slots__ = (
        "_caller",
        "_deadline",
        "_dialler",
        "_header",
        "_settled",
        "address",
        "connect_seconds",
        "dialled_at",
        "endpoint",
        "used",
    )

    def __init__(self, dialler: Dialler, caller: Caller, series: TcpSeries, peer: Peer) -> None:
        super().__init__(series)
        self.address = str(peer.address)
        self._dialler = dialler
        self._caller = caller
        self._header = peer.header
        self.dialled_at = monotonic()
        self.connect_seconds = 0.0
        """TCP and TLS handshakes."""
        self._deadline: ConnectDeadline | None = None
        self._settled = False
        """The handshake is over, one way or the other."""
        self.endpoint: Any = None
        """For the caller."""
        self.used = False
        """Likewise: it was given to a client."""

    def connection_made(self, transport: asyncio.BaseTransport | TlsShim) -> None:
        super().connection_made(transport)
        self._dialler.adjust(transport)
        self.connect_seconds = monotonic() - self.dialled_at
        if self._header:
            self.write_first(self._header)
        self._caller.established(self)

    def over(self) -> None:
        if isinstance(self.error, ssl.SSLError):
            # In TLS 1.3 a server's verdict on our certificate comes when the handshake is over for us.
            self._dialler.telemetry.handshake_failed(failure_reason(self.error), self.address)
        self._caller.hung_up(self)

    # ---- Watcher of the shim

    def expect_handshake(self, shim: TlsShim, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        if not self._settled:
            self._deadline = ConnectDeadline(loop, timeout, self._time_out, shim)

    def handshake_done(self, shim: TlsShim) -> Upper:
        self._settle()
        self._dialler.telemetry.handshakes.value += 1
        return self

    def handshake_failed(self, shim: TlsShim, error: BaseException | None) -> None:
        self._settle()
        reason = failure_reason(error)
        self._dialler.telemetry.handshake_failed(reason, self.address)
        self._caller.failed(self, Cause.CONNECT_TIMEOUT if reason == "timeout" else Cause.CONNECT, handshake=True)

    def _time_out(self, shim: TlsShim) -> None:
        shim.abort()
        self.handshake_failed(shim, TimeoutError())

    def _settle(self) -> None:
        self._settled = True
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Dialler:
    """Opens connections of one side of the proxy."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        telemetry: DirectionTelemetry,
        *,
        connect_timeout: float,
        bind_ip: str | None = None,
        keepalive: float | None = None,
        user_timeout: float | None = None,
    ) -> None:
        self.telemetry = telemetry
        self._loop = loop
        self._connect_timeout = connect_timeout
        self._local = (bind_ip, 0) if bind_ip is not None else None
        self._keepalive = keepalive
        self._user_timeout = user_timeout
        self._tasks: set[asyncio.Task[None]] = set()

    def dial(self, peer: Peer, caller: Caller, endpoint: Any = None) -> ServerEnd:
        """Begins to connect; the caller hears of it later."""
        end = ServerEnd(self, caller, self.telemetry.tcp_to(peer.name), peer)
        end.endpoint = endpoint
        task = self._loop.create_task(self._connect(peer, caller, end))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return end

    def adjust(self, transport: asyncio.BaseTransport | TlsShim) -> None:
        raw = transport.transport if isinstance(transport, TlsShim) else transport
        tune(raw, self._keepalive, self._user_timeout)

    def shut_down(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _connect(self, peer: Peer, caller: Caller, end: ServerEnd) -> None:
        protocol: asyncio.Protocol = end
        if peer.context is not None and peer.name is not None:
            protocol = TlsShim(peer.context, end, server_side=False, server_hostname=peer.name)
        opening = asyncio.current_task()
        assert opening is not None
        deadline = ConnectDeadline(self._loop, self._connect_timeout, opening.cancel)
        try:
            await self._loop.create_connection(
                lambda: protocol, peer.address.host, peer.address.port, local_addr=self._local
            )
        except asyncio.CancelledError:
            if not deadline.passed:
                raise
            if (protocol if isinstance(protocol, TlsShim) else end).transport is not None:
                return  # it was up when a stalled loop came to its deadline; closed by that, it tells so itself
            cause = Cause.CONNECT_TIMEOUT
        except OSError:
            cause = Cause.CONNECT
        else:
            if isinstance(protocol, TlsShim):
                end.expect_handshake(protocol, self._loop, self._connect_timeout)
            return
        finally:
            deadline.cancel()
        self.telemetry.connect_failed(cause, end.address)
        caller.failed(end, cause, handshake=False)
