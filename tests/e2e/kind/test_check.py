"""`gameday mesh check` on a real install: green when it is healthy, and the cause by name when it is broken for real.

Each breakage is undone by its own context manager; at the end the mesh must be healthy again. What a wait costs is
spent once: breakages that no controller repairs come and go within one look.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from lightkube import Client

from mesh.api.values import VERSION
from mesh.control.pki import create_issuer, create_trust_anchor
from mesh.deploy.paths import RequestFailed, request
from mesh.kube.client import connect

pytestmark = [pytest.mark.kind, pytest.mark.e2e, pytest.mark.timeout(600)]

SHOP = "check-shop"
HOME = "/api/v1/namespaces/linkerd"
DEPLOYMENTS = "/apis/apps/v1/namespaces/linkerd/deployments"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
INJECTOR_WEBHOOK = (
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/linkerd-proxy-injector-webhook-config"
)
MERGE = "application/merge-patch+json"
Json = dict[str, Any]


class Mesh:
    """One cluster with the mesh, seen through the command line and through the API server."""

    def __init__(self, context: str, kubeconfig: str) -> None:
        self.where = ["--context", context, "--kubeconfig", kubeconfig]
        self.client: Client = connect(context, kubeconfig)

    def run(self, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "gameday", "mesh", *arguments, *self.where]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        return done.returncode, done.stdout + done.stderr

    def findings(self, *options: str, result: str = "error") -> dict[str, str]:
        """Claim → text of what `check` has against the mesh."""
        code, out = self.run("check", "-o", "json", *options)
        document = json.loads(out)
        assert code == (0 if document["success"] else 1), out
        checks = [check for category in document["categories"] for check in category["checks"]]
        return {check["description"]: check["error"] for check in checks if check["result"] == result}

    def healthy(self, *options: str) -> None:
        code, out = self.run("check", "--wait", "120s", "-o", "short", *options)
        assert code == 0, out

    def get(self, path: str) -> Json:
        return request(self.client, "GET", path)

    def patch(self, path: str, body: Json) -> None:
        content = json.dumps(body).encode()
        request(self.client, "PATCH", path, content=content, headers={"content-type": MERGE})

    def create(self, path: str, body: Json) -> None:
        request(self.client, "POST", path, json=body)

    def delete(self, path: str) -> None:
        try:
            request(self.client, "DELETE", path)
        except RequestFailed as error:
            if error.status != 404:
                raise

    def scaled(self, name: str, replicas: int) -> None:
        """Returns once the deployment's status says so."""
        self.patch(f"{DEPLOYMENTS}/{name}", {"spec": {"replicas": replicas}})
        eventually(lambda: (self.get(f"{DEPLOYMENTS}/{name}")["status"].get("readyReplicas") or 0) == replicas)

    @contextmanager
    def without(self, path: str) -> Iterator[None]:
        """An object is gone for as long as the block runs."""
        kept = self.get(path)
        for field in ("resourceVersion", "uid", "creationTimestamp", "managedFields", "generation"):
            kept["metadata"].pop(field, None)
        kept.pop("status", None)
        self.delete(path)
        eventually(lambda: self._gone(path))
        try:
            yield
        finally:
            self.create(path.rpartition("/")[0], kept)

    def _gone(self, path: str) -> bool:
        try:
            self.get(path)
        except RequestFailed as error:
            return error.status == 404
        return False

    @contextmanager
    def patched(self, path: str, broken: Json, restored: Json) -> Iterator[None]:
        self.patch(path, broken)
        try:
            yield
        finally:
            self.patch(path, restored)


def eventually(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def mesh(kind_mesh: str, kind_kubeconfig: str) -> Iterator[Mesh]:
    """A healthy install with one meshed workload."""
    mesh = Mesh(kind_mesh, kind_kubeconfig)
    mesh.healthy()
    mesh.delete(f"/api/v1/namespaces/{SHOP}")
    eventually(lambda: mesh._gone(f"/api/v1/namespaces/{SHOP}"))
    annotations = {"linkerd.io/inject": "enabled"}
    mesh.create("/api/v1/namespaces", {"metadata": {"name": SHOP, "annotations": annotations}})
    eventually(lambda: not mesh._gone(f"/api/v1/namespaces/{SHOP}/serviceaccounts/default"))
    mesh.create(f"/api/v1/namespaces/{SHOP}/pods", workload())
    eventually(lambda: _ready(mesh.get(f"/api/v1/namespaces/{SHOP}/pods/web")), 90.0)
    try:
        yield mesh
    finally:
        mesh.delete(f"/api/v1/namespaces/{SHOP}")
        mesh.client.close()


def workload() -> Json:
    container = {
        "name": "app",
        "image": f"gameday/mesh:{VERSION}",
        "command": ["python", "-m", "http.server", "8080"],
        "ports": [{"name": "http", "containerPort": 8080}],
    }
    return {"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"containers": [container]}}


def _ready(pod: Json) -> bool:
    conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions") or []}
    return conditions.get("Ready") == "True"


# ---- breakages: each breaks one thing, and mends it again


@contextmanager
def issuer(mesh: Mesh, certificate: str, key: str) -> Iterator[None]:
    path = f"{HOME}/secrets/linkerd-identity-issuer"
    before = mesh.get(path)["data"]
    broken = {"tls.crt": encoded(certificate), "tls.key": encoded(key)}
    with mesh.patched(path, {"data": broken}, {"data": {name: before[name] for name in broken}}):
        yield


def expired_issuer(mesh: Mesh) -> AbstractContextManager[None]:
    long_ago = time.time() - 400 * 86_400
    dead = create_issuer(create_trust_anchor(now=long_ago), now=long_ago, lifetime=86_400)
    return issuer(mesh, dead.certificate_pem, dead.key_pem)


def issuer_of_another_anchor(mesh: Mesh) -> AbstractContextManager[None]:
    strange = create_issuer(create_trust_anchor("somebody.else"))
    return issuer(mesh, strange.certificate_pem, strange.key_pem)


def missing_crd(mesh: Mesh) -> AbstractContextManager[None]:
    return mesh.without(f"{CRDS}/egressnetworks.policy.linkerd.io")


def rbac_removed(mesh: Mesh) -> AbstractContextManager[None]:
    return mesh.without(f"{RBAC}/clusterrolebindings/linkerd-linkerd-destination")


@contextmanager
def rbac_cut_down(mesh: Mesh) -> Iterator[None]:
    path = f"{RBAC}/clusterroles/linkerd-linkerd-identity"
    rules = mesh.get(path)["rules"]
    fewer = [rule for rule in rules if "tokenreviews" not in rule["resources"]]
    with mesh.patched(path, {"rules": fewer}, {"rules": rules}):
        yield


@contextmanager
def injector_down(mesh: Mesh) -> Iterator[None]:
    mesh.scaled("linkerd-proxy-injector", 0)
    try:
        yield
    finally:
        mesh.scaled("linkerd-proxy-injector", 1)


@contextmanager
def webhook_of_another_ca(mesh: Mesh) -> Iterator[None]:
    """While the injector is away, for it would put its own CA back; it does so when it returns."""
    with injector_down(mesh):
        webhooks = mesh.get(INJECTOR_WEBHOOK)["webhooks"]
        webhooks[0]["clientConfig"]["caBundle"] = encoded(create_trust_anchor("somebody.else").certificate_pem)
        mesh.patch(INJECTOR_WEBHOOK, {"webhooks": webhooks})
        yield


@contextmanager
def policy_crashes(mesh: Mesh) -> Iterator[None]:
    path = f"{DEPLOYMENTS}/linkerd-destination"
    deployment = mesh.get(path)
    containers = deployment["spec"]["template"]["spec"]["containers"]
    right = json.loads(json.dumps(containers))
    (policy,) = [container for container in containers if container["name"] == "policy"]
    policy["args"] = [*policy["args"], "--no-such-flag"]
    with mesh.patched(path, _containers(containers), _containers(right)):
        eventually(lambda: "CrashLoopBackOff" in mesh.findings().get("control plane pods are ready", ""), 90.0)
        yield


def _containers(containers: list[Json]) -> Json:
    return {"spec": {"template": {"spec": {"containers": containers}}}}


@contextmanager
def skewed_clock(mesh: Mesh) -> Iterator[None]:
    """A node whose kubelet, as its lease tells, lives 90 s in the past. It is never ready, so nothing runs there."""
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    renewed = (datetime.now(UTC) - timedelta(seconds=90)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    taint = {"key": "gameday.dev/test", "effect": "NoExecute"}
    mesh.create("/api/v1/nodes", {"metadata": {"name": "late"}, "spec": {"taints": [taint]}})
    try:
        mesh.create(leases, {"metadata": {"name": "late"}, "spec": {"holderIdentity": "late", "renewTime": renewed}})
        yield
    finally:
        mesh.delete(f"{leases}/late")
        mesh.delete("/api/v1/nodes/late")


@contextmanager
def bundle_not_replicated(mesh: Mesh) -> Iterator[None]:
    """While identity is away, for it would copy the anchors again; it does so when it returns."""
    path = f"/api/v1/namespaces/{SHOP}/configmaps/linkerd-identity-trust-roots"
    mesh.scaled("linkerd-identity", 0)
    try:
        mesh.delete(path)
        yield
    finally:
        mesh.scaled("linkerd-identity", 1)
    eventually(lambda: not mesh._gone(path))


CAUSES: dict[str, tuple[Callable[[Mesh], AbstractContextManager[None]], tuple[str, ...], str, str]] = {
    "expired issuer": (expired_issuer, (), "issuer cert is within its validity period", "expired at"),
    "wrong anchor": (
        issuer_of_another_anchor,
        (),
        "issuer cert is issued by the trust anchor",
        "signed by none of the 1 trust anchors",
    ),
    "missing CRD": (
        missing_crd,
        (),
        "control plane CustomResourceDefinitions exist",
        "CustomResourceDefinition egressnetworks.policy.linkerd.io is missing",
    ),
    "RBAC removed": (
        rbac_removed,
        (),
        "control plane ClusterRoleBindings exist",
        "ClusterRoleBinding linkerd-linkerd-destination is missing",
    ),
    "RBAC cut down": (
        rbac_cut_down,
        (),
        "control plane ClusterRoles exist",
        "ClusterRole linkerd-linkerd-identity: does not grant create tokenreviews",
    ),
    "injector down": (
        injector_down,
        (),
        "proxy-injector webhook does its work (dry run)",
        "came back without a linkerd-proxy",
    ),
    "webhook certificate": (
        webhook_of_another_ca,
        (),
        "proxy-injector webhook has valid cert",
        "caBundle does not vouch for the certificate in Secret linkerd-proxy-injector-k8s-tls",
    ),
    "policy crashes": (policy_crashes, (), "control plane pods are ready", "--no-such-flag"),
    "clock skew": (skewed_clock, (), "no clock skew detected", "node late: clock is 9"),
    "bundle not replicated": (
        bundle_not_replicated,
        ("--proxy", "-n", SHOP),
        "trust anchors are replicated to meshed namespaces",
        f"{SHOP}: no ConfigMap linkerd-identity-trust-roots",
    ),
}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_healthy_install_is_green_and_so_is_its_data_plane(mesh: Mesh) -> None:
    assert mesh.findings() == {}
    assert mesh.findings("--proxy", "-n", SHOP) == {}
    assert mesh.findings("--proxy", "-n", SHOP, result="warning") == {}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_named(mesh: Mesh, cause: str) -> None:
    breakage, options, claim, text = CAUSES[cause]
    with breakage(mesh):
        found = mesh.findings(*options)
        assert text in found.get(claim, ""), found
    mesh.healthy()


def test_an_outdated_proxy_is_warned_of(mesh: Mesh) -> None:
    path = f"/api/v1/namespaces/{SHOP}/pods/web"
    version = {"metadata": {"annotations": {"linkerd.io/proxy-version": VERSION}}}
    outdated = {"metadata": {"annotations": {"linkerd.io/proxy-version": "0.0.1"}}}
    with mesh.patched(path, outdated, version):
        found = mesh.findings("--proxy", "-n", SHOP, result="warning")
    assert found["data plane is up-to-date"] == f"{SHOP}/web: proxy 0.0.1, control plane {VERSION}"


def test_before_an_install_what_is_in_the_way_is_named(mesh: Mesh) -> None:
    found = mesh.findings("--pre")
    assert found["control plane namespace does not already exist"] == 'the "linkerd" namespace already exists'
    assert "ClusterRole linkerd-linkerd-identity already exists" in found["no objects of another install exist"]


def test_identity_shows_the_certificate_of_the_running_proxy(mesh: Mesh) -> None:
    code, out = mesh.run("identity", "web", "-n", SHOP, "-o", "json")
    assert code == 0, out
    (shown,) = json.loads(out)
    assert shown["identity"] == [f"default.{SHOP}.serviceaccount.identity.linkerd.cluster.local"]
    assert 0 < shown["expires_in_seconds"] <= 86_400 + 60


def test_authz_lists_the_default_policy(mesh: Mesh) -> None:
    code, out = mesh.run("authz", "po/web", "-n", SHOP, "-t", "0s", "-o", "json")
    assert code == 0, out
    assert ("default:all-unauthenticated", "default/all-unauthenticated") in {
        (row["server"], row["authorization"]) for row in json.loads(out)
    }


def test_diagnostics_tell_what_proxies_are_told(mesh: Mesh) -> None:
    authority = "linkerd-identity.linkerd.svc.cluster.local:8080"
    code, out = mesh.run("diagnostics", "endpoints", authority, "-o", "json")
    assert code == 0, out
    (endpoint,) = json.loads(out)
    assert (endpoint["namespace"], endpoint["port"], endpoint["service"]) == (
        "linkerd",
        "8080",
        "linkerd-identity.linkerd",
    )
    code, out = mesh.run("diagnostics", "proxy-metrics", "po/web", "-n", SHOP)
    assert code == 0
    assert "control_identity_cert_expiration_timestamp_seconds" in out
    code, out = mesh.run("diagnostics", "policy", "po/web", "8080", "-n", SHOP, "-o", "json")
    assert json.loads(out)["serverName"] == "all-unauthenticated"
