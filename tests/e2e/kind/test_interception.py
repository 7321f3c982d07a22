"""Unmodified programs in injected pods: curl, redis-py and grpcio talk mTLS to unmodified servers without knowing it.

client (injected) ═ TLS ═ server (injected: HTTP, redis, gRPC)       what is between them is captured on the node
stranger (not meshed) ── plaintext ── server                         served or refused, as the policy says
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.kind, pytest.mark.e2e, pytest.mark.timeout(600)]

SHOP, OUTSIDE = "intercept-shop", "intercept-outside"
SECRET = "nobody-but-the-pods-may-read-this"
CLIENT_ID = f"client.{SHOP}.serviceaccount.identity.linkerd.cluster.local"
PORTS = {"http": 8080, "redis": 6379, "grpc": 9000}


Manifest = dict[str, Any]
IDLE = ("sleep", "3600")


def pod(name: str, namespace: str, *command: str, **spec: Any) -> Manifest:
    """A pod whose container `app` runs `command`."""
    spec = {"terminationGracePeriodSeconds": 2, "containers": [{"name": "app", "command": list(command)}], **spec}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}, "annotations": {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def annotated(made: Manifest, name: str, value: str) -> Manifest:
    made["metadata"]["annotations"][f"config.linkerd.io/{name}"] = value
    return made


def server(name: str) -> Manifest:
    """A readiness probe for each program, so that `Ready` says that the kubelet gets through to it."""
    programs = {
        "http": ["python", "/workloads/web.py", "8080", SECRET],
        "redis": ["redis-server", "--protected-mode", "no", "--save", ""],
        "grpc": ["python", "/workloads/greeter.py", "serve", "9000"],
    }
    probes = {"http": {"httpGet": {"path": "/healthz", "port": "http"}}}
    containers = [
        {
            "name": program,
            "command": command,
            "ports": [{"name": program, "containerPort": PORTS[program]}],
            "readinessProbe": probes.get(program, {"tcpSocket": {"port": program}}) | {"periodSeconds": 1},
        }
        for program, command in programs.items()
    ]
    return pod(name, SHOP, containers=containers)


def service(name: str) -> Manifest:
    ports = [{"name": port, "port": 80 if port == "http" else n, "targetPort": port} for port, n in PORTS.items()]
    spec = {"selector": {"app": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": SHOP}, "spec": spec}


def namespace(name: str, **annotations: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}


def first() -> list[Manifest]:
    """What the others call, and who may call it."""
    root = {"runAsUser": 0, "capabilities": {"add": ["NET_RAW"]}}
    watcher = [{"name": "app", "command": list(IDLE), "securityContext": root}]
    return [
        namespace(SHOP, **{"linkerd.io/inject": "enabled"}),
        namespace(OUTSIDE),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "client", "namespace": SHOP}},
        service("server"),
        service("locked"),
        server("server"),
        annotated(server("locked"), "default-inbound-policy", "all-authenticated"),
        pod("client", SHOP, *IDLE, serviceAccountName="client"),
        pod("host", SHOP, *IDLE, hostNetwork=True),
        pod("stranger", OUTSIDE, *IDLE),
        pod("capture", OUTSIDE, hostNetwork=True, containers=watcher),
    ]


def second() -> list[Manifest]:
    """What calls the server as soon as it starts."""
    call = "curl -s -m 5 http://server/ > /tmp/first; sleep 3600"
    template = pod("once", SHOP, "curl", "-sf", "-m", "5", "http://server/", restartPolicy="Never")
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once", "namespace": SHOP},
        "spec": {"backoffLimit": 0, "template": {"spec": template["spec"]}},
    }
    return [job, annotated(pod("legacy", SHOP, "sh", "-c", call), "proxy-enable-native-sidecar", "false")]


def with_image(manifests: list[Manifest], image: str) -> str:
    """All of them as YAML; every container gets the image."""
    for made in manifests:
        spec = made.get("spec", {}).get("template", made).get("spec", {})
        for container in spec.get("containers", ()):
            container.update(image=image, imagePullPolicy="Never")
    return yaml.safe_dump_all(manifests)


class Cluster:
    """kubectl, and what the tests ask of it."""

    def __init__(self, context: str, kubeconfig: str) -> None:
        self._kubectl = ["kubectl", "--context", context, "--kubeconfig", kubeconfig]

    def command(self, *words: str) -> list[str]:
        return [*self._kubectl, *words]

    def run(self, *words: str, given: str | None = None, check: bool = True, seconds: float = 60.0) -> str:
        done = subprocess.run(
            self.command(*words), input=given, capture_output=True, text=True, check=False, timeout=seconds
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def get(self, *words: str) -> Any:
        return json.loads(self.run("get", *words, "-o", "json"))

    def execute(self, name: str, *command: str, namespace: str = SHOP, check: bool = True) -> str:
        return self.run("exec", "-n", namespace, name, "-c", "app", "--", *command, check=check).strip()

    def curl(self, name: str, url: str, namespace: str = SHOP) -> str:
        """Status and body; 000 where there was no answer."""
        words = ("curl", "-s", "-m", "8", "-w", " %{http_code}", url)
        body, _, status = self.execute(name, *words, namespace=namespace, check=False).rpartition(" ")
        return f"{status} {body}".strip()

    def ip(self, name: str, namespace: str = SHOP) -> str:
        return str(self.get("pod", name, "-n", namespace)["status"]["podIP"])

    def metrics(self, name: str) -> list[str]:
        path = f"/api/v1/namespaces/{SHOP}/pods/{name}:4191/proxy/metrics"
        return self.run("get", "--raw", path).splitlines()

    def state(self) -> str:
        """For a reader: what stands where, and what happened of late."""
        pods = self.run("get", "pods", "-A", "-o", "wide", check=False)
        return f"\n{pods}\n{self.run('get', 'events', '-A', '--sort-by=.lastTimestamp', check=False)[-6000:]}"

    def ready(self, name: str, namespace: str) -> bool:
        conditions = self.get("pod", name, "-n", namespace)["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def eventually(true: Callable[[], bool], seconds: float = 60.0, why: Callable[[], str] = str) -> None:
    """`why`: asked when it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"did not come true in {seconds:.0f} s {why()}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def cluster(kind_mesh: str, kind_kubeconfig: str, kind_images: str) -> Iterator[Cluster]:
    made = Cluster(kind_mesh, kind_kubeconfig)
    namespaces = ("namespace", SHOP, OUTSIDE)
    made.run("delete", "--ignore-not-found", "--wait", *namespaces, seconds=120)
    try:
        made.run("apply", "-f", "-", given=with_image(first(), kind_images))
        for where, names in ((SHOP, ("server", "client", "locked")), (OUTSIDE, ("stranger", "capture"))):
            for name in names:
                eventually(lambda n=name, ns=where: made.ready(n, ns), 180, made.state)  # type: ignore[misc]
        made.run("apply", "-f", "-", given=with_image(second(), kind_images))
        yield made
    finally:
        made.run(
            "delete", "--ignore-not-found", "--wait=false", "--force", "--grace-period=0", *namespaces, check=False
        )


def test_curl_reaches_http_and_the_server_hears_who_called(cluster: Cluster) -> None:
    answer = cluster.curl("client", "http://server/")
    assert answer == f"200 {CLIENT_ID} {SECRET}"
    assert cluster.curl("client", f"http://{cluster.ip('server')}:8080/") == answer


def test_redis_py_reaches_redis_through_opaque_mtls(cluster: Cluster) -> None:
    assert cluster.execute("client", "python", "/workloads/cache.py", "server", SECRET) == f"{SECRET} True"
    allowed = [line for line in cluster.metrics("server") if line.startswith("inbound_tcp_authz_allow_total")]
    assert any(CLIENT_ID in line and 'srv_port="6379"' in line and 'tls="true"' in line for line in allowed), allowed


def test_grpcio_gets_answers_streams_and_trailers(cluster: Cluster) -> None:
    said = cluster.execute("client", "python", "/workloads/greeter.py", "call", "server:9000", "world")
    assert said.splitlines() == [f"hello world from {CLIENT_ID} kept", "0 1 2 3 4"]


def test_between_the_pods_there_is_only_tls(cluster: Cluster) -> None:
    pair = cluster.ip("client"), cluster.ip("server")
    command = cluster.command("exec", "-i", "-n", OUTSIDE, "capture", "--", "python", "/workloads/capture.py", *pair)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as capture:
        assert capture.stdout is not None
        assert capture.stdout.readline() == "captures\n"
        cluster.curl("client", "http://server/")
        cluster.execute("client", "python", "/workloads/cache.py", "server", SECRET)
        cluster.execute("client", "python", "/workloads/greeter.py", "call", "server:9000", SECRET)
        out, _ = capture.communicate("stop\n", timeout=30)
    segments = [line.split() for line in out.splitlines()]
    assert {"8080", "6379", "9000"} <= {port for segment in segments for port in segment[:2]}
    stream = b"".join(bytes.fromhex(segment[2]) for segment in segments)
    assert len(stream) > 5_000
    for plain in (SECRET.encode(), b"HTTP/1.1", b"GET /", b"PRI * HTTP", b"INCR", b"+OK", b"test.Greeter"):
        assert plain not in stream


def test_an_unmeshed_client_is_served_or_refused_as_the_default_policy_says(cluster: Cluster) -> None:
    open_, locked = f"server.{SHOP}", f"locked.{SHOP}"
    assert cluster.curl("stranger", f"http://{open_}/", OUTSIDE) == f"200 None {SECRET}"
    assert cluster.curl("stranger", f"http://{locked}/", OUTSIDE).startswith("403")
    # What the kubelet asks stays open, or the pod would never be ready: this one path.
    assert cluster.curl("stranger", f"http://{locked}/healthz", OUTSIDE) == f"200 None {SECRET}"
    assert cluster.curl("client", f"http://{locked}/").startswith(f"200 {CLIENT_ID}")
    cache = ("python", "/workloads/cache.py")
    assert cluster.execute("stranger", *cache, open_, "v", namespace=OUTSIDE) == "v True"
    assert cluster.execute("stranger", *cache, locked, "v", namespace=OUTSIDE, check=False) == ""
    assert cluster.execute("client", *cache, locked, "v") == "v True"


def test_the_plaintext_of_an_unmeshed_client_would_have_been_seen(cluster: Cluster) -> None:
    """The capture is one that can fail: it shows what has no TLS."""
    pair = cluster.ip("stranger", OUTSIDE), cluster.ip("server")
    command = cluster.command("exec", "-i", "-n", OUTSIDE, "capture", "--", "python", "/workloads/capture.py", *pair)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as capture:
        assert capture.stdout is not None
        assert capture.stdout.readline() == "captures\n"
        cluster.curl("stranger", f"http://server.{SHOP}/", OUTSIDE)
        out, _ = capture.communicate("stop\n", timeout=30)
    stream = b"".join(bytes.fromhex(line.split()[2]) for line in out.splitlines())
    assert SECRET.encode() in stream


def test_sidecars_are_native_and_the_apps_containers_untouched(cluster: Cluster) -> None:
    spec = cluster.get("pod", "server", "-n", SHOP)["spec"]
    assert [one["name"] for one in spec["initContainers"]] == ["linkerd-init", "linkerd-proxy"]
    assert spec["initContainers"][1]["restartPolicy"] == "Always"
    assert [one["name"] for one in spec["containers"]] == list(PORTS)


def test_a_job_ends_although_its_sidecar_would_run_for_ever(cluster: Cluster) -> None:
    def done() -> bool:
        return bool(cluster.get("job", "once", "-n", SHOP)["status"].get("succeeded"))

    eventually(done, 60)


def test_without_native_sidecars_the_app_starts_when_its_proxy_is_ready(cluster: Cluster) -> None:
    eventually(lambda: cluster.ready("legacy", SHOP))
    spec = cluster.get("pod", "legacy", "-n", SHOP)["spec"]
    assert [one["name"] for one in spec["containers"]] == ["linkerd-proxy", "app"]
    eventually(lambda: SECRET in cluster.execute("legacy", "cat", "/tmp/first", check=False), 10)  # noqa: S108


def test_pods_of_the_hosts_network_and_of_other_namespaces_are_left_alone(cluster: Cluster) -> None:
    for name, namespace in (("host", SHOP), ("stranger", OUTSIDE)):
        spec = cluster.get("pod", name, "-n", namespace)["spec"]
        assert "initContainers" not in spec
        assert len(spec["containers"]) == 1


def test_the_injector_serves_on_while_its_certificate_is_replaced(cluster: Cluster) -> None:
    probe = with_image([pod("probe", SHOP, *IDLE)], "gameday/workload:test")
    secret = ("secret", "linkerd-proxy-injector-k8s-tls", "-n", "linkerd")

    def injected() -> bool:
        made = json.loads(cluster.run("create", "--dry-run=server", "-o", "json", "-f", "-", given=probe))
        return "linkerd-proxy" in [one["name"] for one in made["spec"].get("initContainers", ())]

    def certificate() -> str:
        found = cluster.run("get", *secret, "--ignore-not-found", "-o", "jsonpath={.data.tls\\.crt}")
        assert injected()  # at every moment
        return found

    before = certificate()
    cluster.run("delete", *secret)
    eventually(lambda: certificate() not in ("", before), 60)
    for _ in range(20):
        assert injected()
