"""The live certificate: a real TLS server behind a played port-forward, and what is printed of its leaf."""

from __future__ import annotations

import json
import queue
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from httpx2.websockets import WebSocketUpgradeError

from mesh.commands.cluster import ClusterOptions, connected, refused
from mesh.commands.errors import CommandFailed
from mesh.commands.handshake import HandshakeFailed, Shown, shown_certificates
from mesh.commands.identity import describe, identity, render
from mesh.control.pki import create_issuer, create_key, create_trust_anchor, issue_leaf, private_key_pem, to_pem
from tests.mesh.commands.healthy import CART, NOW

ANCHOR = create_trust_anchor(now=NOW)
ISSUER = create_issuer(ANCHOR, now=NOW)
KEY = create_key()
LEAF = issue_leaf(ISSUER, CART, KEY.public_key(), now=NOW)


class PortForward:
    """A pod's inbound port as the WebSocket shows it: TLS that wants a client certificate, as a proxy does."""

    def __init__(self, folder: Path, *, error: bytes = b"", piece: int = 4096) -> None:
        (folder / "chain.pem").write_text(to_pem(LEAF) + ISSUER.certificate_pem)
        (folder / "key.pem").write_text(private_key_pem(KEY))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
        context.load_verify_locations(cadata=ANCHOR.certificate_pem)
        context.verify_mode = ssl.CERT_REQUIRED
        self.asked_for: str | None = None
        context.sni_callback = lambda _, name, __: setattr(self, "asked_for", name)  # type: ignore[assignment]
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._messages = [b"\x00\x2f\x10", b"\x01\x2f\x10"]
        self._piece = piece
        if error:
            self._messages.append(b"\x01" + error)

    def send_bytes(self, data: bytes) -> None:
        assert data[0] == 0, "data goes in the data channel"
        self._in.write(data[1:])
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        said = self._out.read()
        self._messages += [b"\x00" + said[at : at + self._piece] for at in range(0, len(said), self._piece)]

    def receive_bytes(self, timeout: float) -> bytes:
        if not self._messages:
            raise queue.Empty
        return self._messages.pop(0)


class Http:
    """The part of httpx2's client that is used."""

    def __init__(self, socket: PortForward | None = None, status: int = 101) -> None:
        self.socket, self.status = socket, status
        self.asked: tuple[str, dict[str, Any]] = ("", {})

    @contextmanager
    def websocket(self, path: str, **options: Any) -> Iterator[PortForward]:
        self.asked = path, options
        if self.socket is None:
            raise WebSocketUpgradeError(httpx2.Response(self.status))
        yield self.socket


def ask(http: Http) -> Shown:
    return shown_certificates(http, "shop", "cart-1", CART)  # type: ignore[arg-type]


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_the_whole_chain_is_seen_without_a_certificate_of_our_own(tmp_path: Path, piece: int) -> None:
    socket = PortForward(tmp_path, piece=piece)
    http = Http(socket)
    assert [to_pem(certificate) for certificate in ask(http).chain] == [to_pem(LEAF), ISSUER.certificate_pem]
    assert socket.asked_for == CART
    path, options = http.asked
    assert path == "/api/v1/namespaces/shop/pods/cart-1/portforward"
    assert (options["params"], options["subprotocols"]) == ({"ports": "4143"}, ["v4.channel.k8s.io"])


def test_a_port_that_nobody_listens_on_is_said_in_the_kubelet_s_words(tmp_path: Path) -> None:
    with pytest.raises(HandshakeFailed, match="connection refused"):
        ask(Http(PortForward(tmp_path, error=b"failed to dial 4143:\n connection refused")))


@pytest.mark.parametrize(("status", "said"), [(403, "not allowed"), (404, "no such pod"), (500, "HTTP 500")])
def test_a_refused_port_forward_says_why(status: int, said: str) -> None:
    with pytest.raises(HandshakeFailed, match=said):
        ask(Http(status=status))


def test_plain_http_is_no_certificate(tmp_path: Path) -> None:
    socket = PortForward(tmp_path)
    socket._messages.append(b"\x00HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(HandshakeFailed, match="no mesh TLS"):
        ask(Http(socket))


def test_silence_ends(tmp_path: Path) -> None:
    socket = PortForward(tmp_path)
    socket.send_bytes = lambda data: None  # type: ignore[method-assign]
    with pytest.raises(HandshakeFailed, match="did not answer in time"):
        ask(Http(socket))


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
