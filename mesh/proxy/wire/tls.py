"""TLS between proxies: our own shim over `ssl.SSLObject` and two memory buffers.

    socket ──► TlsShim (asyncio.Protocol) ──► upper protocol, which sees it as its transport

Owning the shim permits looking at the first byte before a handshake (`wire.detect`), tells a refused certificate from a
broken pipe, and costs less than uvloop's own TLS (reference: 8 % at saturation, 40 % at low rates). `loop.start_tls` is
no alternative: bytes that were read before it are lost.

Contexts, and with them what is offered and demanded, are of `wire.contexts`.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol, cast

from mesh.proxy.wire.handshakes import turns

RECORD_BYTES = 16 * 1024

ACCEPTED = b"l5d-accepted\r\n"
"""What the server says first where `contexts.ALPN_ACCEPTED` was chosen."""

_VERIFY_REASONS = {
    9: "certificate_not_yet_valid",
    10: "certificate_expired",
    18: "unknown_ca",
    19: "unknown_ca",
    20: "unknown_ca",
    21: "unknown_ca",
    62: "identity_mismatch",
}
"""X509_V_ERR_* of OpenSSL's x509_vfy.h."""

_ALERT_REASONS = (
    ("CERTIFICATE_EXPIRED", "certificate_expired"),
    ("UNKNOWN_CA", "unknown_ca"),
    ("BAD_CERTIFICATE", "bad_certificate"),
    ("CERTIFICATE_REQUIRED", "certificate_required"),
    ("PEER_DID_NOT_RETURN", "certificate_required"),
    ("CERTIFICATE", "bad_certificate"),
    ("PROTOCOL", "protocol"),
)


def failure_reason(error: BaseException | None) -> str:
    """The `reason` label of `tls_handshake_failures_total` for what ended a handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_REASONS.get(error.verify_code, "bad_certificate")
    if isinstance(error, ssl.SSLError):
        text = (error.reason or "").upper()
        return next((label for mark, label in _ALERT_REASONS if mark in text), "protocol")
    if isinstance(error, TimeoutError):
        return "timeout"
    return "io"


class Upper(Protocol):
    """The protocol above the shim: asyncio's callbacks, with the shim as its transport."""

    def connection_made(self, transport: TlsShim, /) -> None: ...
    def data_received(self, data: bytes, /) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, error: Exception | None, /) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Watcher(Protocol):
    """Who hears how the handshake went."""

    def handshake_done(self, shim: TlsShim) -> Upper:
        """It succeeded; returns the protocol that takes over."""

    def handshake_failed(self, shim: TlsShim, error: BaseException | None) -> None:
        """It did not; the shim closes the connection."""


class TlsShim(asyncio.Protocol):
    """One TLS connection, either side. Transport to the protocol above it."""

    __slots__ = (
        "_closing",
        "_incoming",
        "_object",
        "_outgoing",
        "_peer_ended",
        "_said_goodbye",
        "_server_side",
        "_upper",
        "_waits",
        "_watcher",
        "transport",
    )

    def __init__(
        self, context: ssl.SSLContext, watcher: Watcher, *, server_side: bool, server_hostname: str | None = None
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object: ssl.SSLObject | None = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        """None once the connection is lost: who still knows us then need not hold TLS state for it."""
        self._server_side = server_side
        self._watcher: Watcher | None = watcher
        """Let go of with the handshake: it knows our upper protocol, which knows us, and a cycle would keep the TLS
        state of a closed connection until the collector finds it."""
        self._upper: Upper | None = None
        self._closing = False
        self._peer_ended = False
        self._said_goodbye = False
        self._waits = False
        """For its turn to go on with the handshake."""
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before any use

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        if not self._server_side:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._peer_ended:
            return
        self._incoming.write(data)
        if self._upper is None:
            self._go_on()
        else:
            self._read()

    def eof_received(self) -> bool:
        if self._peer_ended and not self._closing:
            return True  # announced by close_notify: what we still write goes on
        self._incoming.write_eof()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        upper, self._upper = self._upper, None
        if upper is not None:
            upper.connection_lost(error)
        elif not self._closing:
            self._closing = True
            self._fail(error if error is not None else ConnectionResetError())
        self._watcher = self._object = None
        self._closing = True

    def pause_writing(self) -> None:
        if self._upper is not None:
            self._upper.pause_writing()

    def resume_writing(self) -> None:
        if self._upper is not None:
            self._upper.resume_writing()

    # ---- inside

    def _go_on(self) -> None:
        """With the handshake: now, or when it is our turn; nothing is read until then."""
        if not self._waits and not turns().take(self):
            self._waits = True
            self.transport.pause_reading()

    def step(self) -> None:
        """Our turn (`wire.handshakes`)."""
        waited, self._waits = self._waits, False
        if self._closing or self.transport.is_closing():
            return
        if waited:
            self.transport.resume_reading()
        if self._shake() and self._incoming.pending:
            self._read()

    def _shake(self) -> bool:
        """Goes on with the handshake; whether it is done."""
        tls = self._object
        assert tls is not None  # the line does not call those that are closed
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._flush()  # the alert that tells the peer why
            self._closing = True
            self._fail(error)
            self.transport.close()
            return False
        self._flush()
        watcher, self._watcher = self._watcher, None
        assert watcher is not None
        self._upper = watcher.handshake_done(self)
        self._upper.connection_made(self)
        return True

    def _fail(self, error: Exception) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.handshake_failed(self, error)

    def _read(self) -> None:
        tls = self._object
        if tls is None:
            return
        read = tls.read
        incoming = self._incoming
        chunks = []
        failure: ssl.SSLError | None = None
        over = False
        try:
            while True:
                data = read(RECORD_BYTES)
                if not data:
                    over = True
                    break
                chunks.append(data)
                if not incoming.pending and not tls.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            over = True
        except ssl.SSLError as error:
            failure = error
        upper = self._upper
        if chunks and upper is not None:
            upper.data_received(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if failure is not None or over:
            self._end(failure)

    def _end(self, error: ssl.SSLError | None) -> None:
        """The peer said goodbye, or sent an alert."""
        if error is None and self._upper is not None and self._upper.eof_received():
            self._peer_ended = True
            return
        upper, self._upper = self._upper, None
        self._closing = True
        if upper is not None:
            upper.connection_lost(error)
        self.transport.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.transport.write(self._outgoing.read())

    # ---- transport to the protocol above

    def write(self, data: bytes) -> None:
        tls = self._object
        if self._closing or tls is None:
            return
        tls.write(data)
        self.transport.write(self._outgoing.read())

    def write_eof(self) -> None:
        """Ends our direction: close_notify, then FIN. The peer may go on writing (RFC 8446, 6.1)."""
        if self._closing or self._said_goodbye:
            return
        self._say_goodbye()
        self.transport.write_eof()

    def close(self) -> None:
        """Sends close_notify and closes once what was written is out."""
        if self._closing:
            return
        self._closing = True
        if self._upper is not None and not self._said_goodbye:
            self._say_goodbye()
        self.transport.close()

    def _say_goodbye(self) -> None:
        self._said_goodbye = True
        tls = self._object
        if tls is None:
            return
        try:
            tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # the peer's own close_notify is not waited for
        except ssl.SSLError:
            pass  # it is closing because of an error already reported
        self._flush()

    def abort(self) -> None:
        self._closing = True
        self.transport.abort()

    def is_closing(self) -> bool:
        return self._closing or self.transport.is_closing()

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._closing:
            self.transport.resume_reading()

    def set_protocol(self, upper: Upper) -> None:
        """Another protocol takes over, as with any transport."""
        self._upper = upper

    # ---- who the peer is

    @property
    def alpn(self) -> str | None:
        """The protocol that both ends agreed on."""
        return self._object.selected_alpn_protocol() if self._object is not None else None

    def peer_name(self) -> str | None:
        """The DNS name in the peer's verified certificate."""
        certificate = (self._object.getpeercert() if self._object is not None else None) or {}
        entries: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())  # type: ignore[assignment]
        return next((name for kind, name in entries if kind == "DNS"), None)
