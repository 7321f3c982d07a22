"""The control plane as real processes: real TLS, real files, real signals."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.ports import free_port
from mesh.api.messages import CertifyRequest, CertifyResponse, Endpoints, EndpointsChange, WatchMessage, decode_line
from mesh.control.credentials import load_chain
from mesh.control.names import component_name, identity_name
from mesh.control.pki import (
    create_csr,
    create_issuer,
    create_key,
    create_trust_anchor,
    private_key_pem,
    write_issuer_dir,
)
from mesh.control.tokens import TokenSigner
from tests.mesh.control.test_registry_watch import AUTHORITY, SERVICE, endpoint_slice, pod

pytestmark = pytest.mark.e2e
CART = identity_name("cart", "shop")
HOST = "127.0.0.1"
LAST_CHUNK = b"0\r\n\r\n"


class ControlPlane:
    """Three processes and the files they live on."""

    def __init__(self, folder: Path, lifetime: str = "60s", skew: str = "1s") -> None:
        self.folder = folder
        self.anchor = create_trust_anchor()
        self.signer = TokenSigner.generate()
        write_issuer_dir(folder / "issuer", create_issuer(self.anchor), self.anchor)
        (folder / "anchors.pem").write_text(self.anchor.certificate_pem)
        (folder / "token.pub").write_text(self.signer.public_pem)
        self.registry = folder / "registry"
        self.registry.mkdir()
        self.write("service.yaml", SERVICE)
        self.write("pods.yaml", pod("cart-0", "127.9.0.5") + "---\n" + pod("cart-1", "127.9.0.6"))
        self.write("slice.yaml", endpoint_slice(("cart-0", "127.9.0.5", True)))
        self.ports = {c: (free_port(), free_port()) for c in ("identity", "destination", "policy")}
        self.lifetime, self.skew = lifetime, skew
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def write(self, name: str, text: str) -> None:
        temporary = self.registry / f".{name}.tmp"
        temporary.write_text(text)
        os.replace(temporary, self.registry / name)

    def arguments(self, component: str) -> list[str]:
        listen, admin = self.ports[component]
        arguments = [component, "--listen", f"{HOST}:{listen}", "--admin", f"{HOST}:{admin}"]
        arguments += ["--trust-anchors", str(self.folder / "anchors.pem")]
        if component == "identity":
            arguments += ["--issuer", str(self.folder / "issuer"), "--token-key", str(self.folder / "token.pub")]
            return [*arguments, "--leaf-lifetime", self.lifetime, "--clock-skew", self.skew]
        token = self.folder / f"{component}.token"
        token.write_text(self.signer.sign("linkerd", f"linkerd-{component}", time.time() + 3600))
        arguments += ["--registry", str(self.registry), "--identity-addr", f"{HOST}:{self.ports['identity'][0]}"]
        return [*arguments, "--token", str(token), "--min-refresh", "1s"]

    def start(self, *components: str) -> None:
        for component in components:
            self.processes[component] = subprocess.Popen(
                [sys.executable, "-m", "mesh.control", *self.arguments(component)], stderr=subprocess.PIPE, text=True
            )
        for component in components:
            _eventually(lambda c=component: self.admin(c, "/ready")[0] == 200, 15.0)  # type: ignore[misc]

    def admin(self, component: str, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.ports[component][1]}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def metric(self, component: str, name: str) -> float:
        text = self.admin(component, "/metrics")[1]
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.anchor.certificate_pem)

    def connect(self, component: str, context: ssl.SSLContext) -> ssl.SSLSocket:
        connection = socket.create_connection((HOST, self.ports[component][0]), timeout=5)
        return context.wrap_socket(connection, server_hostname=component_name(component))

    def certify(self, token: str, identity: str = CART) -> tuple[int, bytes, str]:
        """Status, body and the key's PEM; shows no client certificate."""
        key = create_key()
        request = CertifyRequest(identity=identity, token=token, csr=create_csr(key, identity))
        with self.connect("identity", self.context()) as connection:
            body = msgspec.json.encode(request)
            connection.sendall(b"POST /v1/certify HTTP/1.1\r\nhost: i\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.read(), private_key_pem(key)

    def client(self) -> ssl.SSLContext:
        """A context that shows a fresh leaf of the cart."""
        status, body, key = self.certify(self.signer.sign("shop", "cart", time.time() + 60))
        assert status == 200, body
        response = msgspec.json.decode(body, type=CertifyResponse)
        context = self.context()
        load_chain(context, response.leaf + "".join(response.intermediates), key)
        return context

    def watch(self, component: str, path: str, context: ssl.SSLContext | None = None) -> Stream:
        return Stream(self.connect(component, context or self.client()), path)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.communicate()


class Stream:
    """An open watch."""

    def __init__(self, connection: ssl.SSLSocket, path: str) -> None:
        self.connection = connection
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: d\r\n\r\n".encode())
        self._answer = http.client.HTTPResponse(connection)
        self._answer.begin()
        self.status = self._answer.status

    def next(self) -> WatchMessage | None:
        """The next message, keep-alives passed over; None at the end of the stream."""
        while line := self._answer.readline():
            if line.strip():
                return decode_line(line)
        return None

    def rest(self) -> bytes:
        """Everything up to the connection's end, as it came."""
        data = b""
        try:
            while piece := self.connection.recv(65_536):
                data += piece
        except (ConnectionError, ssl.SSLError):
            return data  # cut off without TLS's goodbye
        return data


def _eventually(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    made = ControlPlane(tmp_path_factory.mktemp("plane"))
    try:
        made.start("identity", "destination", "policy")
        yield made
    finally:
        made.stop()


def test_a_watch_gives_a_snapshot_and_a_change_within_a_second(plane: ControlPlane) -> None:
    stream = plane.watch("destination", f"/v1/destinations/{AUTHORITY}")
    snapshot = stream.next()
    assert isinstance(snapshot, Endpoints)
    assert [e.identity for e in snapshot.endpoints] == [CART]
    stream.next()
    written = time.time()
    plane.write("slice.yaml", endpoint_slice(("cart-0", "127.9.0.5", True), ("cart-1", "127.9.0.6", True)))
    change = stream.next()
    assert time.time() - written < 1.0
    assert isinstance(change, EndpointsChange)
    assert [e.pod for e in change.add] == ["cart-1"]


def test_policy_answers_for_both_directions(plane: ControlPlane) -> None:
    outbound = plane.watch("policy", f"/v1/outbound/{AUTHORITY}").next()
    inbound = plane.watch("policy", "/v1/inbound/shop/cart-0/8080").next()
    assert [m.__struct_config__.tag for m in (outbound, inbound)] == ["outbound-policy", "inbound-policy"]


def test_destination_and_policy_let_nobody_in_without_a_certificate_of_the_mesh(plane: ControlPlane) -> None:
    stranger_anchor = create_trust_anchor()
    stranger = plane.context()
    key = create_key()
    from mesh.control.pki import issue_leaf, to_pem

    issuer = create_issuer(stranger_anchor)
    leaf = issue_leaf(issuer, CART, key.public_key(), now=time.time())
    load_chain(stranger, to_pem(leaf) + issuer.certificate_pem, private_key_pem(key))
    for component in ("destination", "policy"):
        for context in (plane.context(), stranger):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.BadStatusLine)):
                plane.watch(component, f"/v1/destinations/{AUTHORITY}", context)


def test_identity_asks_for_no_client_certificate_and_judges_the_token(plane: ControlPlane) -> None:
    token = plane.signer.sign
    assert plane.certify(token("shop", "cart", time.time() + 60))[0] == 200
    assert plane.certify(token("shop", "cart", time.time() - 1))[0] == 401
    assert plane.certify(token("shop", "payment", time.time() + 60))[0] == 403
    status, body, _ = plane.certify("nonsense")
    assert (status, "error" in json.loads(body)) == (400, True)


def test_openssl_sees_tls13_and_the_documented_name(plane: ControlPlane) -> None:
    shown = subprocess.run(
        [
            "openssl",
            "s_client",
            "-connect",
            f"{HOST}:{plane.ports['identity'][0]}",
            "-CAfile",
            "anchors.pem",
            "-verify_hostname",
            component_name("identity"),
        ],
        cwd=plane.folder,
        input="",
        capture_output=True,
        text=True,
    ).stdout
    assert "TLSv1.3" in shown
    assert "Verify return code: 0 (ok)" in shown
    old = subprocess.run(
        ["openssl", "s_client", "-tls1_2", "-connect", f"{HOST}:{plane.ports['identity'][0]}"],
        input="",
        capture_output=True,
        text=True,
    )
    assert old.returncode == 1
    assert "Cipher is (NONE)" in old.stdout


def test_no_session_ticket_is_given(plane: ControlPlane) -> None:
    stream = plane.watch("destination", f"/v1/destinations/{AUTHORITY}")
    stream.next()
    session = stream.connection.session
    assert session is None or not session.has_ticket


def test_sigterm_ends_streams_properly_and_a_restart_serves_again(plane: ControlPlane) -> None:
    stream = plane.watch("policy", f"/v1/outbound/{AUTHORITY}")
    stream.next()
    plane.processes["policy"].send_signal(signal.SIGTERM)
    assert stream.rest().endswith(LAST_CHUNK)
    assert plane.processes["policy"].wait(5) == 0
    plane.processes["policy"].communicate()
    plane.start("policy")
    assert plane.watch("policy", f"/v1/outbound/{AUTHORITY}").next() is not None


def test_a_killed_destination_serves_a_snapshot_after_its_restart(plane: ControlPlane) -> None:
    stream = plane.watch("destination", f"/v1/destinations/{AUTHORITY}")
    stream.next()
    plane.processes["destination"].kill()
    assert not stream.rest().endswith(LAST_CHUNK)
    plane.processes["destination"].communicate()
    plane.start("destination")
    assert isinstance(plane.watch("destination", f"/v1/destinations/{AUTHORITY}").next(), Endpoints)


def test_a_renewed_leaf_serves_new_handshakes_and_open_watches_stay(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, lifetime="3s", skew="1s")
    try:
        plane.start("identity", "destination")
        context = plane.client()
        stream = plane.watch("destination", f"/v1/destinations/{AUTHORITY}", context)
        first = stream.connection.getpeercert()
        stream.next()
        stream.next()
        _eventually(lambda: plane.metric("destination", 'control_identity_cert_refreshes_total{result="ok"') >= 2, 15.0)
        second = plane.watch("destination", f"/v1/destinations/{AUTHORITY}").connection.getpeercert()
        assert first is not None
        assert second is not None
        assert first["serialNumber"] != second["serialNumber"]
        plane.write("slice.yaml", endpoint_slice())
        assert isinstance(stream.next(), EndpointsChange)
    finally:
        plane.stop()


def test_destination_waits_for_identity_and_is_ready_soon_after_it(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "mesh.control", *plane.arguments("destination")], stderr=subprocess.PIPE, text=True
        )
        plane.processes["destination"] = process
        _eventually(lambda: plane.admin("destination", "/live")[0] == 200, 15.0)
        assert plane.admin("destination", "/ready")[0] == 503
        plane.start("identity")
        _eventually(lambda: plane.admin("destination", "/ready")[0] == 200, 5.0)
    finally:
        plane.stop()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"--listen": "nowhere"}, "'nowhere' is not IP:PORT"),
        ({"--issuer": "/nonexistent"}, "/nonexistent is not a directory"),
        ({"--token-key": "anchors.pem"}, "anchors.pem"),
        ({"--trust-anchors": "token.pub"}, "no usable PEM certificate"),
        ({"--leaf-lifetime": "24"}, "'24' is not a duration"),
        ({"--trust-anchors": "other.pem"}, "not signed by any of the trust anchors"),
    ],
)
def test_wrong_flags_and_files_give_one_line_and_exit_2(tmp_path: Path, change: dict[str, str], expected: str) -> None:
    plane = ControlPlane(tmp_path)
    (tmp_path / "other.pem").write_text(create_trust_anchor().certificate_pem)
    arguments = plane.arguments("identity")
    for flag, value in change.items():
        arguments[arguments.index(flag) + 1] = value
    done = subprocess.run(
        [sys.executable, "-m", "mesh.control", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=30,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_address_in_use_gives_one_line_and_exit_2(plane: ControlPlane) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mesh.control", *plane.arguments("identity")], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mesh.control: cannot listen on")


def test_all_components_run_in_one_process(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path)
    arguments = ["all"]
    for component, (listen, admin) in plane.ports.items():
        arguments += [f"--{component}-listen", f"{HOST}:{listen}", f"--{component}-admin", f"{HOST}:{admin}"]
        if component != "identity":
            plane.arguments(component)
            arguments += [f"--{component}-token", str(tmp_path / f"{component}.token")]
    arguments += ["--trust-anchors", str(tmp_path / "anchors.pem"), "--registry", str(plane.registry)]
    arguments += ["--issuer", str(tmp_path / "issuer"), "--token-key", str(tmp_path / "token.pub")]
    plane.processes["all"] = subprocess.Popen(
        [sys.executable, "-m", "mesh.control", *arguments], stderr=subprocess.PIPE, text=True
    )
    try:
        for component in plane.ports:
            _eventually(lambda c=component: plane.admin(c, "/ready")[0] == 200, 15.0)  # type: ignore[misc]
        assert isinstance(plane.watch("destination", f"/v1/destinations/{AUTHORITY}").next(), Endpoints)
        plane.processes["all"].terminate()
        assert plane.processes["all"].wait(5) == 0
    finally:
        plane.stop()
