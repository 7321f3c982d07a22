"""A new inbound connection, until it is known what it speaks.

    first byte ──► TLS ──► handshake with a client certificate ──► HTTP, client identity known
              └──► else ──► HTTP from an un-meshed client, identity none

A connection that says nothing, or whose handshake does not end, is closed after the detect timeout.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from mesh.proxy.wire.detect import Greeting, detect
from mesh.proxy.wire.tls import ACCEPTED, TlsShim, Upper, failure_reason

if TYPE_CHECKING:
    from mesh.proxy.inbound.service import InboundService


class Detect(asyncio.Protocol):
    """Waits for the first bytes and hands over."""

    def __init__(self, service: InboundService) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._shim: TlsShim | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._deadline = self._service.loop.call_later(self._service.detect_timeout, self._time_out)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        context = self._service.server_context
        upper: asyncio.Protocol
        if detect(data) is Greeting.TLS and context is not None:
            upper = self._shim = TlsShim(context, self, server_side=True)
        else:
            self._done()
            upper = self._service.plaintext()
        transport.set_protocol(upper)
        upper.connection_made(transport)
        upper.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._done()

    # ---- Watcher of the shim

    def handshake_done(self, shim: TlsShim) -> Upper:
        self._done()
        self._service.telemetry.handshakes.value += 1
        if shim.accepts_explicitly:
            shim.write(ACCEPTED)
        return self._service.meshed(shim.peer_name())

    def handshake_failed(self, shim: TlsShim, error: BaseException | None) -> None:
        if self._deadline is not None:
            self._done()
            self._service.telemetry.handshake_failed(failure_reason(error))

    def _time_out(self) -> None:
        self._deadline = None
        assert self._transport is not None
        if self._shim is not None:
            self._service.telemetry.handshake_failed("timeout")
            self._shim.abort()
        else:
            self._transport.abort()

    def _done(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
