"""The live certificate: a real TLS server behind a played port-forward, and what is printed of its leaf."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Event, Ping, Request

from mesh.commands.cluster import ClusterOptions, connected, refused
from mesh.commands.errors import CommandFailed
from mesh.commands.handshake import HandshakeFailed, Shown, handshake
from mesh.commands.identity import describe, identity, render
from mesh.commands.portforward import PortForwardFailed, Tunnel
from mesh.control.pki import create_issuer, create_key, create_trust_anchor, issue_leaf, private_key_pem, to_pem
from tests.mesh.commands.healthy import CART, NOW

ANCHOR = create_trust_anchor(now=NOW)
ISSUER = create_issuer(ANCHOR, now=NOW)
KEY = create_key()
LEAF = issue_leaf(ISSUER, CART, KEY.public_key(), now=NOW)


class InboundPort:
    """A proxy's inbound port: TLS that wants a client certificate, in pieces of any size."""

    def __init__(self, folder: Path, *, piece: int = 4096) -> None:
        (folder / "chain.pem").write_text(to_pem(LEAF) + ISSUER.certificate_pem)
        (folder / "key.pem").write_text(private_key_pem(KEY))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
        context.load_verify_locations(cadata=ANCHOR.certificate_pem)
        context.verify_mode = ssl.CERT_REQUIRED
        self.asked_for: str | None = None
        context.sni_callback = lambda _, name, __: setattr(self, "asked_for", name)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._said: list[bytes] = []
        self._piece = piece

    def send(self, data: bytes) -> None:
        self._in.write(data)
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        said = self._out.read()
        self._said += [said[at : at + self._piece] for at in range(0, len(said), self._piece)]

    def receive(self) -> bytes:
        return self._said.pop(0)


class Web:
    """A web server in the place of a proxy."""

    def send(self, data: bytes) -> None:
        pass

    def receive(self) -> bytes:
        return b"HTTP/1.1 400 Bad Request\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_the_whole_chain_is_seen_without_a_certificate_of_our_own(tmp_path: Path, piece: int) -> None:
    port = InboundPort(tmp_path, piece=piece)
    shown = handshake(port, CART)
    assert [to_pem(certificate) for certificate in shown.chain] == [to_pem(LEAF), ISSUER.certificate_pem]
    assert port.asked_for == CART


def test_plain_http_is_no_certificate() -> None:
    with pytest.raises(HandshakeFailed, match="no mesh TLS"):
        handshake(Web(), CART)


# ---- the port-forward


def played(kubelet: Callable[[WSConnection, socket.socket], None]) -> tuple[Tunnel, threading.Thread]:
    """A tunnel whose other end is played by wsproto's server side and `kubelet`."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5.0)

    def serve() -> None:
        with theirs:
            web = WSConnection(ConnectionType.SERVER)
            web.receive_data(theirs.recv(65_536))
            kubelet(web, theirs)

    thread = threading.Thread(target=serve)
    thread.start()
    return Tunnel(ours), thread


def accept(web: WSConnection, wire: socket.socket, *messages: bytes) -> None:
    (request,) = list(web.events())
    assert isinstance(request, Request)
    assert request.subprotocols == ["v4.channel.k8s.io"]
    assert (b"authorization", b"Bearer t") in request.extra_headers
    wire.sendall(web.send(AcceptConnection(subprotocol="v4.channel.k8s.io")))
    for message in messages:
        wire.sendall(web.send(BytesMessage(data=message)))


def test_data_comes_after_the_ports_numbers() -> None:
    def kubelet(web: WSConnection, wire: socket.socket) -> None:
        accept(web, wire, b"\x00\x2f\x10", b"\x01\x2f\x10", b"\x00hello")
        wire.sendall(web.send(Ping()) + web.send(BytesMessage(data=b"\x00again")))
        while not any(isinstance(event, BytesMessage) for event in received):
            web.receive_data(wire.recv(65_536))
            received.extend(web.events())

    received: list[Event] = []
    tunnel, thread = played(kubelet)
    tunnel.upgrade("api", "/x", "Bearer t")
    assert (tunnel.receive(), tunnel.receive()) == (b"hello", b"again")
    tunnel.send(b"bye")
    thread.join()
    assert [type(event).__name__ for event in received] == ["Pong", "BytesMessage"]
    assert received[1] == BytesMessage(data=b"\x00bye")
    with pytest.raises(PortForwardFailed, match="ended"):
        tunnel.receive()


def test_what_the_kubelet_says_in_the_channel_for_errors_is_passed_on() -> None:
    tunnel, thread = played(
        lambda web, wire: accept(web, wire, b"\x01\x2f\x10", b"\x01failed to dial:\n connection refused")
    )
    tunnel.upgrade("api", "/x", "Bearer t")
    with pytest.raises(PortForwardFailed, match="failed to dial: connection refused"):
        tunnel.receive()
    thread.join()


@pytest.mark.parametrize(("status", "said"), [(403, "ask for a role"), (404, "no such pod"), (500, "HTTP 500")])
def test_a_refused_port_forward_says_why(status: int, said: str) -> None:
    tunnel, thread = played(lambda _, wire: wire.sendall(b"HTTP/1.1 %d No\r\ncontent-length: 2\r\n\r\n{}" % status))
    with pytest.raises(PortForwardFailed, match=said):
        tunnel.upgrade("api", "/x")
    thread.join()


def test_an_api_server_that_hangs_up_is_no_tunnel() -> None:
    tunnel, thread = played(lambda _, __: None)
    with pytest.raises(PortForwardFailed, match="closed"):
        tunnel.upgrade("api", "/x")
    thread.join()


def test_what_is_printed_of_a_leaf() -> None:
    shown: list[tuple[str, Shown | str]] = [("cart-1", Shown((LEAF, ISSUER.certificate))), ("cart-2", "no such pod")]
    text = render(shown, "text", NOW + 3600)
    assert f"POD cart-1 (1 of 2)\n\nCertificate for {CART}\n" in text
    assert "(22 hours)" not in text
    assert "(23 hours)" in text
    assert "Signed by:   CN=identity.linkerd.cluster.local" in text
    assert "POD cart-2 (2 of 2)\n\nNo certificate: no such pod\n" in text
    first, second = json.loads(render(shown, "json", NOW))
    assert (first["pod"], first["identity"], second["error"]) == ("cart-1", [CART], "no such pod")
    assert render(shown[:1], "pem", NOW).count("BEGIN CERTIFICATE") == 2


def test_an_expired_leaf_says_since_when() -> None:
    assert describe((LEAF,), NOW + 3 * 86_400)["expires_in"].startswith("expired")


def test_somebody_must_be_asked_for() -> None:
    with pytest.raises(CommandFailed, match="name a pod"):
        identity()


# ---- the cluster's own errors, which all commands share


@pytest.mark.parametrize(
    ("status", "text", "hint"),
    [
        (403, 'pods is forbidden: User "dev"\n cannot list', "ask for a role"),
        (401, "Unauthorized", "renew the credentials"),
        (404, "the server could not find the requested resource", "CRD is missing"),
        (404, 'pods "x" not found', "the namespace (-n)"),
        (503, "", "try again"),
        (500, "boom", "gameday mesh check"),
    ],
)
def test_a_refusal_is_one_line_with_what_to_do(status: int, text: str, hint: str) -> None:
    line = str(refused(status, text, "context kind"))
    assert line.startswith("context kind: ")
    assert hint in line
    assert "\n" not in line


def kubeconfig(folder: Path, server: str) -> str:
    file = folder / "config"
    file.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return str(file)


def test_a_cluster_that_is_gone_is_one_line(tmp_path: Path) -> None:
    options = ClusterOptions(kubeconfig=kubeconfig(tmp_path, "http://127.0.0.1:1"))
    with pytest.raises(CommandFailed, match=r"127\.0\.0\.1:1 .*--context"), connected(options):
        pass


def test_an_unknown_context_names_the_known_ones(tmp_path: Path) -> None:
    options = ClusterOptions(context="prod", kubeconfig=kubeconfig(tmp_path, "http://127.0.0.1:1"))
    with pytest.raises(CommandFailed, match="contexts there: x"), connected(options):
        pass
