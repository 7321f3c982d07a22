"""The certificate that a pod's proxy shows now: a TLS handshake with its inbound port, through the API server.

    us ─ TLS 1.3 in memory ─► port-forward ─► proxy:4143

What a proxy says in metrics is when its certificate expires; only a handshake shows which one it uses. In TLS 1.3 the
server's certificate arrives before ours is due, so no identity of our own is needed: the proxy refuses us after we have
seen what we came for. Nothing is verified here; that is for whoever reads the chain.

Rejected: the API server's proxy subresource with `https:`, which ends the TLS at the API server; kubectl.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Protocol, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mesh.commands.portforward import PortForwarder, PortForwardFailed

INBOUND_PORT = 4143
TIMEOUT_SECONDS = 8.0
_DER = 2
"""`_ssl.ENCODING_DER`."""


class HandshakeFailed(Exception):
    """No certificate was had from the pod; the text says why."""


class Pipe(Protocol):
    """A connection to the port."""

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """What the proxy showed."""

    chain: tuple[x509.Certificate, ...]
    """Leaf first."""

    @property
    def pem(self) -> str:
        return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in self.chain)


def shown_certificates(
    forwarder: PortForwarder,
    namespace: str,
    pod: str,
    identity: str,
    *,
    port: int = INBOUND_PORT,
    timeout: float = TIMEOUT_SECONDS,
) -> Shown:
    """The chain that the proxy of `pod` presents to a client that asks for `identity` (TLS server name).

    Raises:
        HandshakeFailed: not allowed, no such pod, nobody listens, or no TLS there.
    """
    try:
        with forwarder.open(namespace, pod, port, timeout) as tunnel:
            return handshake(tunnel, identity)
    except PortForwardFailed as error:
        raise HandshakeFailed(str(error)) from None


def handshake(pipe: Pipe, identity: str) -> Shown:
    """The chain of whoever is at the other end. Raises HandshakeFailed, and what the pipe raises."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, to_send, server_hostname=identity)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise HandshakeFailed(f"no mesh TLS on this port ({error.reason or error})") from None
        else:
            return Shown(_chain(tls))
        if to_send.pending:
            pipe.send(to_send.read())
        received.write(pipe.receive())


def _chain(tls: ssl.SSLObject) -> tuple[x509.Certificate, ...]:
    """All that the peer sent. Public from Python 3.13 on; before it, the same function of the object inside."""
    if hasattr(tls, "get_unverified_chain"):
        return tuple(map(x509.load_der_x509_certificate, cast(list[bytes], tls.get_unverified_chain())))
    inner = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return tuple(x509.load_der_x509_certificate(certificate.public_bytes(_DER)) for certificate in inner)
