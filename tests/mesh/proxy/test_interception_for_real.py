"""Unmodified clients and servers in pods of their own: network namespaces, real iptables, real proxies, real mTLS.

    control ── client (curl; proxy) ── server (HTTP, a server that speaks first; proxy) ── stranger (no proxy)

What Kubernetes adds to this (webhook, init container, Downward API) is tested in tests/e2e/kind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.control.names import component_name, identity_name
from mesh.control.pki import create_issuer, create_trust_anchor, write_issuer_dir
from mesh.control.tokens import TokenSigner
from tests.mesh.namespaces import Namespace, needs_root, pods, python

pytestmark = [pytest.mark.root, pytest.mark.e2e, needs_root]

PROXY_UID, APP_UID = 2102, 1000
SERVICE_IP = "10.99.0.7"
SERVICE_IPV6 = "fd99::7"
SECRET = "the-secret-on-the-wire"
WEB = """
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{self.headers.get('l5d-client-id')} {self.headers.get('host')} {sys.argv[2]}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[3] else socket.AF_INET
Server((sys.argv[3], int(sys.argv[1])), Handler).serve_forever()
"""
GREETER = """
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    client.sendall(sys.argv[2].encode() + b" first\\n")
    client.sendall(client.recv(100))
    client.close()
"""
TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as server:
    file = server.makefile("rb")
    print(file.readline().decode().strip())
    server.sendall(b"echo me\\n")
    print(file.read().decode().strip())
"""
CAPTURE = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
wire.bind(("eth0", 0))
print("captures", flush=True)
wire.settimeout(0.2)
mine, other = socket.inet_aton(sys.argv[1]), socket.inet_aton(sys.argv[2])
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        frame = wire.recv(65535)
    except TimeoutError:
        continue
    if frame[12:14] != b"\\x08\\x00" or frame[23] != 6:
        continue
    ip = frame[14:]
    if {ip[12:16], ip[16:20]} != {mine, other}:
        continue
    tcp = ip[(ip[0] & 15) * 4:int.from_bytes(ip[2:4], "big")]
    payload = tcp[(tcp[12] >> 4) * 4:]
    if payload:
        print(int.from_bytes(tcp[0:2], "big"), int.from_bytes(tcp[2:4], "big"), payload.hex(), flush=True)
"""


def manifests(client: Namespace, server: Namespace) -> str:
    def pod(name: str, space: Namespace) -> str:
        ips = ", ".join(f"{{ip: '{ip}'}}" for ip in (space.address, space.ipv6) if ip)
        return (
            f"kind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}, "
            "linkerd.io/control-plane-ns: linkerd}, annotations: {linkerd.io/proxy-version: '1'}}\n"
            f"spec: {{serviceAccountName: {name}, containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}\n"
            f"status: {{podIP: {space.address}, podIPs: [{ips}]}}\n---\n"
        )

    ports = ((80, 8080, "http"), (6379, 6379, "db"), (9090, 9090, "closed"))
    listed = ", ".join(f"{{name: {name}, port: {port}}}" for port, _, name in ports)
    resolved = ", ".join(f"{{name: {name}, port: {target}}}" for _, target, name in ports)
    return (
        pod("client", client)
        + pod("server", server)
        + f"kind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{clusterIP: {SERVICE_IP}, "
        f"clusterIPs: [{SERVICE_IP}, '{SERVICE_IPV6}'], ports: [{listed}]}}\n---\n"
        "kind: EndpointSlice\nmetadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}\n"
        f"endpoints: [{{addresses: [{server.address}], conditions: {{ready: true}}, "
        f"targetRef: {{kind: Pod, name: server}}}}]\nports: [{resolved}]\n---\n"
        "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: closed, namespace: shop}\n"
        "spec: {podSelector: {matchLabels: {app: server}}, port: 9090, proxyProtocol: HTTP/1}\n"
    )


class World:
    """Four pods and the processes in them."""

    def __init__(self, folder: Path, spaces: list[Namespace]) -> None:
        self.control, self.client, self.server, self.stranger = spaces
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        self.logs: dict[int, Path] = {}

    def spawn(self, space: Namespace, *command: str, uid: int, environment: dict[str, str] | None = None) -> None:
        log = self.folder / f"{space.name}-{len(self.processes)}.log"
        with log.open("w") as output:
            words = space.command(*command, uid=uid)
            process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment)
        self.processes.append(process)
        self.logs[process.pid] = log

    def start_control(self) -> None:
        anchor, signer, folder = create_trust_anchor(), TokenSigner.generate(), self.folder
        write_issuer_dir(folder / "issuer", create_issuer(anchor), anchor)
        (folder / "anchors.pem").write_text(anchor.certificate_pem)
        (folder / "token.pub").write_text(signer.public_pem)
        (folder / "registry").mkdir()
        (folder / "registry/all.yaml").write_text(manifests(self.client, self.server))
        arguments = ["--trust-anchors", "anchors.pem", "--issuer", "issuer", "--token-key", "token.pub"]
        arguments += ["--registry", "registry", "--cluster-networks", "10.241.0.0/16"]
        for number, component in enumerate(("identity", "destination", "policy")):
            arguments += [f"--{component}-listen", f"{self.control.address}:{8080 + number}"]
            arguments += [f"--{component}-admin", f"127.0.0.1:{9990 + number}"]
            if number:
                token = folder / f"{component}.token"
                token.write_text(signer.sign("linkerd", f"linkerd-{component}", time.time() + 3600))
                arguments += [f"--{component}-token", str(token)]
        for name in ("client", "server"):
            (folder / f"{name}.token").write_text(signer.sign("shop", name, time.time() + 3600))
        arguments = [str(folder / word) if (folder / word).exists() else word for word in arguments]
        self.spawn(self.control, sys.executable, "-m", "mesh.control", "all", *arguments, uid=0)

    def mesh(self, space: Namespace, name: str) -> None:
        """What the injector makes of a pod."""
        space.run(sys.executable, "-m", "mesh.init")
        address = self.control.address
        settings = {
            "IDENTITY_TRUST_ANCHORS_FILE": str(self.folder / "anchors.pem"),
            "IDENTITY_TOKEN_FILE": str(self.folder / f"{name}.token"),
            "IDENTITY_LOCAL_NAME": identity_name(name, "shop"),
            "POLICY_WORKLOAD": json.dumps({"ns": "shop", "pod": name}),
            "POLICY_CLUSTER_NETWORKS": "10.241.0.0/16",
            "INBOUND_IPS": ",".join(filter(None, (space.address, space.ipv6))),
            "INBOUND_PORTS": "8080",
            "LOG": "info",
        }
        for number, component in enumerate(("identity", "destination", "policy")):
            settings[f"{component.upper()}_SVC_ADDR"] = f"{address}:{8080 + number}"
            settings[f"{component.upper()}_SVC_NAME"] = component_name(component)
        environment = dict(os.environ) | {f"LINKERD2_PROXY_{key}": value for key, value in settings.items()}
        self.spawn(space, sys.executable, "-m", "mesh.proxy", uid=PROXY_UID, environment=environment)
        space.run(sys.executable, "-m", "mesh.proxy.wait", "--timeout", "20s", uid=APP_UID)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def said(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in self.logs.values())

    # ---- what apps do

    def curl(self, space: Namespace, url: str, *options: str) -> str:
        """Status and body."""
        words = ("curl", "-s", "-m", "6", "-w", " %{http_code}", *options, url)
        done = subprocess.run(space.command(*words, uid=APP_UID), capture_output=True, text=True, check=False)
        body, _, status = done.stdout.rpartition(" ")
        return f"{status} {body}".strip()

    def metrics(self, space: Namespace) -> list[str]:
        return space.run("curl", "-s", "http://127.0.0.1:4191/metrics", uid=APP_UID).splitlines()


def eventually(found: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    with tempfile.TemporaryDirectory() as folder, pods("control", "client", "server", "stranger") as spaces:
        Path(folder).chmod(0o755)
        made = World(Path(folder), spaces)
        try:
            made.start_control()
            made.spawn(made.server, *python(WEB), "8080", SECRET, "0.0.0.0", uid=APP_UID)
            made.spawn(made.server, *python(WEB), "9090", SECRET, "0.0.0.0", uid=APP_UID)
            made.spawn(made.server, *python(WEB), "9191", SECRET, "127.0.0.1", uid=APP_UID)
            if made.server.ipv6:
                made.spawn(made.server, *python(WEB), "8086", SECRET, "::", uid=APP_UID)
            made.spawn(made.server, *python(GREETER), "6379", SECRET, uid=APP_UID)
            made.mesh(made.server, "server")
            made.mesh(made.client, "client")
            yield made
        except BaseException:
            print(made.said())
            raise
        finally:
            made.close()


CLIENT_ID = identity_name("client", "shop")


def test_curl_talks_http_to_a_service_and_the_server_hears_who_it_is(world: World) -> None:
    for url in (f"http://{SERVICE_IP}/", f"http://{world.server.address}:8080/"):
        assert world.curl(world.client, url).startswith(f"200 {CLIENT_ID} ")


def test_where_it_goes_is_what_was_dialled_and_the_host_is_passed_on_as_it_is(world: World) -> None:
    answer = world.curl(world.client, f"http://{SERVICE_IP}/", "-H", "Host: web")
    assert answer == f"200 {CLIENT_ID} web {SECRET}"


def test_a_server_that_speaks_first_is_reached_through_opaque_mtls(world: World) -> None:
    for host in (SERVICE_IP, world.server.address):
        said = world.client.run(*python(TALK), host, "6379", uid=APP_UID)
        assert said.splitlines() == [f"{SECRET} first", "echo me"]
    inbound = [line for line in world.metrics(world.server) if line.startswith("inbound_tcp_authz_allow_total")]
    assert any('tls="true"' in line and CLIENT_ID in line and ':6379"' in line for line in inbound), inbound


def test_between_the_pods_there_is_only_tls(world: World) -> None:
    client, server = world.client, world.server
    command = server.command(*python(CAPTURE), server.address, client.address)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as capture:
        assert capture.stdout is not None
        assert capture.stdout.readline() == "captures\n"
        world.curl(client, f"http://{SERVICE_IP}/")
        world.client.run(*python(TALK), SERVICE_IP, "6379", uid=APP_UID)
        out, _ = capture.communicate("stop\n", timeout=10)
    segments = [line.split() for line in out.splitlines()]
    assert {port for segment in segments for port in segment[:2]} >= {"8080", "6379"}
    stream = b"".join(bytes.fromhex(segment[2]) for segment in segments)
    assert len(stream) > 2_000
    for plain in (SECRET.encode(), b"HTTP/1.1", b"GET /", b"echo me", b"PRI * HTTP"):
        assert plain not in stream


def test_an_unmeshed_client_is_served_by_default_and_refused_where_a_server_says_so(world: World) -> None:
    server = world.server.address
    assert world.curl(world.stranger, f"http://{server}:8080/").startswith("200 None ")
    # Nobody declared 9090, so this is the first that its proxy hears of it: the first connection must be refused, too.
    assert world.curl(world.stranger, f"http://{server}:9090/").startswith("403")
    assert world.curl(world.client, f"http://{SERVICE_IP}:9090/").startswith("403")


def test_what_the_app_serves_on_loopback_only_stays_there(world: World) -> None:
    assert world.curl(world.stranger, f"http://{world.server.address}:9191/").startswith("502")


def test_ipv6_goes_through_the_proxies_as_well(world: World) -> None:
    server = world.server.ipv6
    if not server:
        pytest.skip("this kernel has no IPv6")
    answer = world.curl(world.client, f"http://[{server}]:8086/")
    assert answer.startswith(f"200 {CLIENT_ID} "), answer
    assert world.curl(world.stranger, f"http://[{server}]:8086/").startswith("200 None ")
    # A Service's second address is the same Service, whose endpoints are of the first family.
    assert world.curl(world.client, f"http://[{SERVICE_IPV6}]/").startswith(f"200 {CLIENT_ID} ")
    inbound = [line for line in world.metrics(world.server) if line.startswith("request_total")]
    assert any(f'target_addr="[{server}]:8086"' in line and CLIENT_ID in line for line in inbound), inbound


def test_a_pod_reaches_itself_through_its_service(world: World) -> None:
    assert world.curl(world.server, f"http://{SERVICE_IP}/").startswith("200 None ")


def test_a_client_cannot_reach_the_proxys_own_ports_as_if_they_were_the_apps(world: World) -> None:
    assert world.curl(world.stranger, f"http://{world.server.address}:4143/").startswith("502")
    assert world.curl(world.stranger, f"http://{world.server.address}:4140/").startswith(("000", "50"))


def test_metrics_name_the_service_that_an_address_belongs_to(world: World) -> None:
    world.curl(world.client, f"http://{SERVICE_IP}/")
    lines = [line for line in world.metrics(world.client) if line.startswith("request_total")]
    assert any('authority="web.shop.svc.cluster.local:80"' in line and 'dst_service="web"' in line for line in lines)
    inbound = [line for line in world.metrics(world.server) if line.startswith("request_total")]
    assert any(f'target_addr="{world.server.address}:8080"' in line and CLIENT_ID in line for line in inbound)


def test_a_destination_outside_the_mesh_gets_what_it_was_sent(world: World) -> None:
    stranger = world.stranger
    process = stranger.start(*python(WEB), "8088", "outside", "0.0.0.0", uid=APP_UID)
    try:
        eventually(lambda: world.curl(stranger, f"http://{stranger.address}:8088/").startswith("200"))
        answer = world.curl(world.client, f"http://{stranger.address}:8088/")
        assert answer == f"200 None {stranger.address}:8088 outside"
    finally:
        process.kill()
        process.communicate()
