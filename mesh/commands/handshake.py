"""The certificate that a pod's proxy shows now: a TLS handshake with its inbound port, through the API server.

    us ─ TLS 1.3 in memory ─► WebSocket (pods/portforward) ─► API server ─► kubelet ─► 127.0.0.1:4143 in the pod

What a proxy says in metrics is when its certificate expires; only a handshake shows which one it uses. In TLS 1.3 the
server's certificate arrives before ours is due, so no identity of our own is needed: the proxy refuses us after we have
seen what we came for. Nothing is verified here; that is for whoever reads the chain.

The channels are Kubernetes' WebSocket form of port-forward (`v4.channel.k8s.io`: a channel for data and one for errors,
two bytes of port number first), which needs `create` on pods/portforward, as `linkerd identity` does. Rejected: the API
server's proxy subresource with `https:`, which ends the TLS at the API server; kubectl.
"""

from __future__ import annotations

import queue
import ssl
import time
from dataclasses import dataclass
from typing import Any, cast

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from httpx2.websockets import HTTPXWSException, WebSocketDisconnect, WebSocketUpgradeError

INBOUND_PORT = 4143
TIMEOUT_SECONDS = 8.0
PROTOCOL = "v4.channel.k8s.io"
DATA, ERRORS = 0, 1
_DER = 2
"""`_ssl.ENCODING_DER`."""


class HandshakeFailed(Exception):
    """No certificate was had from the pod; the text says why."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the proxy showed."""

    chain: tuple[x509.Certificate, ...]
    """Leaf first."""

    @property
    def pem(self) -> str:
        return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in self.chain)


def shown_certificates(
    http: httpx2.Client,
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
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
    deadline = time.monotonic() + timeout
    try:
        with http.websocket(path, subprotocols=[PROTOCOL], params={"ports": str(port)}, timeout=timeout) as socket:
            return Shown(_handshake(socket, identity, deadline))
    except WebSocketUpgradeError as error:
        raise HandshakeFailed(_upgrade_refused(error)) from None
    except WebSocketDisconnect as error:
        raise HandshakeFailed(f"the connection was closed: {error.reason or error.code}") from None
    except HTTPXWSException as error:
        raise HandshakeFailed(f"the connection broke: {type(error).__name__}") from None
    except (httpx2.HTTPError, OSError) as error:
        raise HandshakeFailed(str(error) or type(error).__name__) from None


def _handshake(socket: Any, identity: str, deadline: float) -> tuple[x509.Certificate, ...]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, to_send, server_hostname=identity)
    greeted: set[int] = set()
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise HandshakeFailed(f"no mesh TLS on this port ({error.reason or error})") from None
        else:
            return _chain(tls)
        if to_send.pending:
            socket.send_bytes(bytes([DATA]) + to_send.read())
        channel, data = _receive(socket, deadline)
        if channel not in greeted:
            greeted.add(channel)  # the channel's first message is the port's number
        elif channel == ERRORS:
            raise HandshakeFailed(" ".join(data.decode("utf-8", "replace").split()))
        else:
            received.write(data)


def _receive(socket: Any, deadline: float) -> tuple[int, bytes]:
    try:
        message: bytes = socket.receive_bytes(timeout=max(0.01, deadline - time.monotonic()))
    except (queue.Empty, TimeoutError):
        raise HandshakeFailed("the proxy did not answer in time") from None
    return message[0], message[1:]


def _chain(tls: ssl.SSLObject) -> tuple[x509.Certificate, ...]:
    """All that the peer sent. Public from Python 3.13 on; before it, the same function of the object inside."""
    if hasattr(tls, "get_unverified_chain"):
        return tuple(map(x509.load_der_x509_certificate, cast(list[bytes], tls.get_unverified_chain())))
    inner = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return tuple(x509.load_der_x509_certificate(certificate.public_bytes(_DER)) for certificate in inner)


def _upgrade_refused(error: WebSocketUpgradeError) -> str:
    match error.response.status_code:
        case 403:
            return "not allowed to create pods/portforward"
        case 404:
            return "no such pod"
        case status:
            return f"port-forward refused (HTTP {status})"
