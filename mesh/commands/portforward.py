"""A TCP connection to a port of a pod, through the API server: Kubernetes' port-forward over a WebSocket.

    us ─ WebSocket (pods/portforward) ─► API server ─► kubelet ─► 127.0.0.1:PORT in the pod's network

The form is `v4.channel.k8s.io`: the first byte of each message is the channel (0 data, 1 errors), and the first message
of each channel is the port's number. It needs `create` (or `get`, for a WebSocket) on pods/portforward.

One blocking socket and wsproto, which lightkube brings. Rejected: httpx2's own WebSockets, which read in a thread of
their own and give the upgraded connection back to the pool (seen: bad record MACs in the next request).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
from lightkube.config.client_adapter import ConnectionParams
from lightkube.config.kubeconfig import SingleConfig
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
)
from wsproto.utilities import ProtocolError

PROTOCOL = "v4.channel.k8s.io"
DATA, ERRORS = 0, 1
READ_BYTES = 65_536


class PortForwardFailed(Exception):
    """No connection to the pod, or it broke; the text says why."""


class PortForwarder:
    """Opens connections to pods of one cluster. Made once; may be used by several threads at a time."""

    def __init__(self, config: SingleConfig) -> None:
        params = ConnectionParams(trust_env=False).httpx_params(config)
        url = urlsplit(config.cluster.server)
        self._host = url.hostname or ""
        self._secure = url.scheme == "https"
        self._port = url.port or (443 if self._secure else 80)
        self._prefix = url.path.rstrip("/")
        self._context: ssl.SSLContext = params["verify"]
        self._auth: httpx2.Auth | None = params["auth"]

    @contextmanager
    def open(self, namespace: str, pod: str, port: int, timeout: float) -> Iterator[Tunnel]:
        """A connection for as long as the block runs. `timeout`: seconds for each read or write.

        Raises:
            PortForwardFailed: not allowed, no such pod, nobody there; inside the block too.
        """
        path = f"{self._prefix}/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
        try:
            with socket.create_connection((self._host, self._port), timeout) as raw:
                wrapped = self._context.wrap_socket(raw, server_hostname=self._host) if self._secure else raw
                with wrapped:
                    tunnel = Tunnel(wrapped)
                    tunnel.upgrade(f"{self._host}:{self._port}", path, self._credentials())
                    yield tunnel
        except TimeoutError:
            raise PortForwardFailed("no answer in time") from None
        except (OSError, ProtocolError) as error:
            raise PortForwardFailed(str(error) or type(error).__name__) from None

    def _credentials(self) -> str:
        """What the kubeconfig has besides a client certificate: a token, a file, or a program that is asked."""
        if self._auth is None:
            return ""
        flow = self._auth.sync_auth_flow(httpx2.Request("GET", "https://kubernetes.invalid"))
        authorization = next(flow).headers.get("authorization", "")
        flow.close()
        return str(authorization)


class Tunnel:
    """One connection to a port of a pod."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._web = WSConnection(ConnectionType.CLIENT)
        self._greeted: set[int] = set()
        self._message = b""

    def upgrade(self, host: str, path: str, authorization: str = "") -> None:
        """Raises PortForwardFailed."""
        headers = [(b"authorization", authorization.encode())] if authorization else []
        request = Request(host=host, target=path, subprotocols=[PROTOCOL], extra_headers=headers)
        self._socket.sendall(self._web.send(request))
        status: int | None = None
        for event in self._events():
            if isinstance(event, AcceptConnection):
                return
            if isinstance(event, RejectConnection):
                status = event.status_code
            if status is not None and (isinstance(event, RejectData) or not getattr(event, "has_body", False)):
                raise PortForwardFailed(_refused(status))
        raise PortForwardFailed("the API server closed the connection")

    def send(self, data: bytes) -> None:
        self._socket.sendall(self._web.send(BytesMessage(data=bytes([DATA]) + data)))

    def receive(self) -> bytes:
        """What the pod sends next.

        Raises:
            PortForwardFailed: the kubelet could not connect, or the connection ended.
        """
        for event in self._events():
            if isinstance(event, Ping):
                self._socket.sendall(self._web.send(event.response()))
            elif isinstance(event, CloseConnection):
                raise PortForwardFailed(f"the connection was closed: {event.reason or event.code}")
            elif isinstance(event, BytesMessage) and (data := self._payload(event)):
                return data
        raise PortForwardFailed("the connection ended")

    def _payload(self, event: BytesMessage) -> bytes:
        self._message += event.data
        if not event.message_finished:
            return b""
        message, self._message = self._message, b""
        channel, data = message[0], message[1:]
        if channel not in self._greeted:
            self._greeted.add(channel)
            return b""
        if channel == ERRORS:
            raise PortForwardFailed(" ".join(data.decode("utf-8", "replace").split()))
        return data

    def _events(self) -> Iterator[Event]:
        """Events until the server ends the connection; those already read come first."""
        while True:
            yield from self._web.events()
            data = self._socket.recv(READ_BYTES)
            if not data:
                return
            self._web.receive_data(data)


def _refused(status: int) -> str:
    match status:
        case 401 | 403:
            return "not allowed to use pods/portforward: ask for a role that may"
        case 404:
            return "no such pod"
        case _:
            return f"port-forward refused (HTTP {status})"
