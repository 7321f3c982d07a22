"""An install in a real cluster, from nothing to nothing: applied, served, upgraded, removed without a trace.

Where the cluster already has a mesh (other tests share it), that is taken away first and put back at the end, with the
same trust anchor, so that pods with a sidecar notice nothing but the gap.
"""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from lightkube import Client

from mesh.deploy.apply import apply_mesh, remove
from mesh.deploy.installed import Installed, is_installed, read_installed
from mesh.deploy.objects import crd_objects, install_objects
from mesh.deploy.owned import owned_objects
from mesh.deploy.paths import RequestFailed, path_of, request
from mesh.kube.client import connect
from tests.mesh.deploy.example_manifests import EXTERNAL_WORKLOAD, examples

pytestmark = [pytest.mark.kind, pytest.mark.e2e, pytest.mark.timeout(600)]

VOLATILE = frozenset({"events", "leases", "endpoints", "componentstatuses", "pods", "replicasets"})
"""Kinds that come and go by themselves, or at their owner's pace. What is ours of them goes with its namespace, and
that those are gone is looked at."""

Found = frozenset[tuple[str, str, str]]


class Mesh:
    """`gameday mesh` on one cluster, as a user runs it."""

    def __init__(self, context: str, kubeconfig: str | None) -> None:
        self._where = ["--context", context, *(["--kubeconfig", kubeconfig] if kubeconfig else [])]
        self.client: Client = connect(context, kubeconfig)

    def run(self, *arguments: str, expect: int = 0) -> str:
        command = [sys.executable, "-m", "gameday", "mesh", *arguments, *self._where]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == expect, f"{arguments}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout or done.stderr

    def objects(self) -> Found:
        """Everything that the API server can list: (kind, namespace, name)."""
        groups = request(self.client, "GET", "/apis")["groups"]
        paths = ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]
        kinds = [
            (kind["name"], f"{path}/{kind['name']}")
            for path in paths
            for kind in request(self.client, "GET", path)["resources"]
            if "list" in kind["verbs"] and "/" not in kind["name"] and kind["name"] not in VOLATILE
        ]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda kind: _names(self.client, *kind), kinds))
        return frozenset(name for names in found for name in names)


def _names(client: Client, plural: str, path: str) -> list[tuple[str, str, str]]:
    items = request(client, "GET", path).get("items") or []
    return [(plural, item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in items]


@pytest.fixture(scope="module")
def mesh(kind_context: str, kind_kubeconfig: str | None) -> Iterator[Mesh]:
    """A cluster without a mesh; one that was there is put back afterwards."""
    mesh = Mesh(kind_context, kind_kubeconfig)
    before: Installed | None = read_installed(mesh.client) if is_installed(mesh.client) else None
    remove(mesh.client, owned_objects(mesh.client))
    try:
        yield mesh
    finally:
        if before is not None:
            values, credentials = before.values, before.credentials
            apply_mesh(mesh.client, crd_objects(values), install_objects(values, credentials))


def test_install_serves_upgrade_changes_nothing_and_uninstall_leaves_nothing(mesh: Mesh) -> None:
    before = mesh.objects()

    mesh.run("install", "--apply")
    installed = mesh.objects()
    assert installed > before
    mesh.run("check", "--wait", "60s")
    assert "a mesh already" in mesh.run("install", expect=2)

    _admission_takes_the_examples_and_refuses_what_only_cel_sees(mesh)

    for document in yaml.safe_load_all(mesh.run("upgrade")):
        assert request(mesh.client, "GET", path_of(document))["metadata"]["name"] == document["metadata"]["name"]
    generations = _generations(mesh)
    mesh.run("upgrade", "--apply")
    assert _generations(mesh) == generations, "an upgrade to the same version rolled something out"
    assert mesh.objects() == installed
    assert mesh.run("prune") == "nothing to prune\n"

    mesh.run("uninstall", "--apply")
    after = mesh.objects()
    assert sorted(after - before) == []
    assert sorted(before - after) == []


def test_the_image_is_small_and_not_roots(built_images: list[str]) -> None:
    image, _ = built_images
    shown = ["docker", "image", "inspect", "--format", "{{.Size}} {{.Config.User}}", image]
    size, user = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split()
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
        assert saved.stdout is not None
        packer, packed = zlib.compressobj(), 0
        while piece := saved.stdout.read(1 << 20):
            packed += len(packer.compress(piece))
        packed += len(packer.flush())
    assert saved.returncode == 0
    print(f"{int(size) / 1e6:.0f} MB, {packed / 1e6:.0f} MB compressed")
    assert int(size) <= 220_000_000
    assert packed <= 80_000_000
    assert user.partition(":")[0] not in ("", "0", "root")


def _generations(mesh: Mesh) -> dict[str, int]:
    """A Deployment's generation grows with every change of its spec."""
    found = {}
    for namespace in ("linkerd", "linkerd-viz"):
        items = request(mesh.client, "GET", f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
        found |= {item["metadata"]["name"]: item["metadata"]["generation"] for item in items}
    assert found
    return found


WRONG: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("Server", {"port": 80}, "podSelector"),
    ("Server", {"port": 70_000, "podSelector": {}}, "65535"),
    ("Server", {"port": "Not A Port", "podSelector": {}}, "port"),
    ("Server", {"port": 80, "podSelector": {}, "proxyProtocol": "HTTP/3"}, "proxyProtocol"),
    ("MeshTLSAuthentication", {"identities": [], "identityRefs": []}, "exactly one"),
    ("MeshTLSAuthentication", {"identities": ["not an identity!"]}, "identities"),
    ("NetworkAuthentication", {"networks": []}, "networks"),
    ("HTTPLocalRateLimitPolicy", {"targetRef": {"kind": "Server", "name": "x"}}, "limits nothing"),
    ("EgressNetwork", {"trafficPolicy": "Maybe"}, "trafficPolicy"),
    ("ServiceProfile", {"routes": [{"name": "x", "condition": {}}]}, "condition"),
    ("ServiceProfile", {"retryBudget": {"retryRatio": 0.2, "minRetriesPerSecond": 1, "ttl": "soon"}}, "ttl"),
    ("HTTPRoute", {"parentRefs": [{"name": "x"}], "rules": [{"timeouts": {"request": "3"}}]}, "request"),
)


def _admission_takes_the_examples_and_refuses_what_only_cel_sees(mesh: Mesh) -> None:
    """Dry runs in a namespace whose admission webhooks are off, so that the schemas alone are heard."""
    for manifest in [*examples(), yaml.safe_load(EXTERNAL_WORKLOAD)]:
        if not manifest["apiVersion"].startswith("gateway."):
            _dry_run(mesh, manifest)
    versions = {manifest["kind"]: manifest["apiVersion"] for manifest in examples()[::-1]}
    versions["HTTPRoute"] = "policy.linkerd.io/v1beta3"
    for kind, spec, said in WRONG:
        manifest = {"apiVersion": versions[kind], "kind": kind, "metadata": {"name": "wrong"}, "spec": spec}
        with pytest.raises(RequestFailed) as caught:
            _dry_run(mesh, manifest)
        assert said in str(caught.value), (kind, spec)


def _dry_run(mesh: Mesh, manifest: dict[str, Any]) -> None:
    group, _, version = manifest["apiVersion"].partition("/")
    resources = request(mesh.client, "GET", f"/apis/{group}/{version}")["resources"]
    plural = next(kind["name"] for kind in resources if kind["kind"] == manifest["kind"] and "/" not in kind["name"])
    path = f"/apis/{group}/{version}/namespaces/linkerd/{plural}"
    body = manifest | {"metadata": manifest["metadata"] | {"namespace": "linkerd"}}
    request(mesh.client, "POST", path, params={"dryRun": "All", "fieldValidation": "Strict"}, json=body)
