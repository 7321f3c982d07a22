"""A kind cluster with the images in it, once for all tests of this folder.

    GAMEDAY_KIND_CLUSTER=name    use this cluster and leave it; without it a new one, `gameday-test`, deleted at the end
    GAMEDAY_KIND_IMAGE=name      node image of a new cluster; else kindest/node:v1.34.4 if docker has it, or kind's own
    GAMEDAY_REQUIRE_KIND=1       where Docker, kind or kubectl are missing the tests fail instead of being skipped

Tests share the cluster and the install. Whoever breaks the mesh mends it, and takes away the namespaces that it made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.deploy.apply import apply_mesh
from mesh.deploy.credentials import create_credentials
from mesh.deploy.images.build import BuildOptions, build, images, load
from mesh.deploy.installed import is_installed
from mesh.deploy.objects import crd_objects, install_objects
from mesh.deploy.values import Values
from mesh.kube.client import connect

CLUSTER = "gameday-test"
NODE_IMAGE = "kindest/node:v1.34.4"
WORKLOAD_IMAGE = "gameday/workload:test"
WIDE = """\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
    kubeadmConfigPatches:
      - |
        kind: InitConfiguration
        nodeRegistration: {taints: []}
  - role: worker
  - role: worker
"""


def _run(*command: str, seconds: float = 300.0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def _missing() -> str:
    """What the machine lacks for these tests; empty: nothing."""
    for program in ("docker", "kind", "kubectl"):
        if shutil.which(program) is None:
            return f"no {program} in PATH"
    answer = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False, timeout=30)
    return "" if answer.returncode == 0 else "the Docker daemon does not answer"


def _or_skip() -> None:
    missing = _missing()
    if missing:
        if os.environ.get("GAMEDAY_REQUIRE_KIND"):
            pytest.fail(missing)
        pytest.skip(missing)


def _node_image() -> list[str]:
    named = os.environ.get("GAMEDAY_KIND_IMAGE")
    if named is None:
        known = subprocess.run(["docker", "image", "inspect", NODE_IMAGE], capture_output=True, check=False, timeout=30)
        named = NODE_IMAGE if known.returncode == 0 else ""
    return ["--image", named] if named else []


@pytest.fixture(scope="session")
def kind_cluster() -> Iterator[str]:
    """Name of a running cluster without our images."""
    _or_skip()
    known = _run("kind", "get", "clusters").split()
    name = os.environ.get("GAMEDAY_KIND_CLUSTER", CLUSTER)
    if name in known:
        yield name
        return
    _run("kind", "create", "cluster", "--name", name, "--kubeconfig", os.devnull, "--wait", "120s", *_node_image())
    try:
        yield name
    finally:
        if "GAMEDAY_KIND_CLUSTER" not in os.environ:
            _run("kind", "delete", "cluster", "--name", name, "--kubeconfig", os.devnull)


@pytest.fixture(scope="module")
def wide_cluster(built_images: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(name, kubeconfig) of a cluster of three nodes with our images, all of which take pods."""
    name = f"{os.environ.get('GAMEDAY_KIND_CLUSTER', CLUSTER)}-wide"
    folder = tmp_path_factory.mktemp("wide")
    config, kubeconfig = folder / "config.yaml", folder / "kubeconfig"
    config.write_text(WIDE)
    where = ("--name", name, "--kubeconfig", str(kubeconfig))
    try:
        _run("kind", "create", "cluster", *where, "--config", str(config), "--wait", "180s", *_node_image())
        load(built_images, name, quiet=True)
        yield name, str(kubeconfig)
    finally:
        _run("kind", "delete", "cluster", *where)


@pytest.fixture(scope="session")
def kind_kubeconfig(kind_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a kubeconfig of its own: the user's is not touched."""
    path = tmp_path_factory.mktemp("kind") / "kubeconfig"
    path.write_text(_run("kind", "get", "kubeconfig", "--name", kind_cluster))
    path.chmod(0o600)
    return str(path)


@pytest.fixture(scope="session")
def built_images() -> list[str]:
    """Tags of the mesh's image and of the one for workloads, in docker."""
    _or_skip()
    (mesh,) = images(["mesh"])
    build(mesh, BuildOptions(network="host"), quiet=True)
    folder = Path(__file__).parent
    dockerfile = str(folder / "workload.Dockerfile")
    _run("docker", "build", "--network", "host", "--tag", WORKLOAD_IMAGE, "--file", dockerfile, str(folder))
    return [mesh.tag, WORKLOAD_IMAGE]


@pytest.fixture(scope="session")
def kind_images(kind_cluster: str, kind_kubeconfig: str, built_images: list[str]) -> str:
    """The mesh's image and one for workloads are in the cluster; the latter's tag."""
    load(built_images, kind_cluster, quiet=True)
    # A mesh that is there already runs an image of the same name and perhaps of yesterday.
    for namespace in ("linkerd", "linkerd-viz"):
        kubectl = ("kubectl", "--kubeconfig", kind_kubeconfig, "-n", namespace)
        for deployment in _run(*kubectl, "get", "deploy", "-o", "name").split():
            _run(*kubectl, "rollout", "restart", deployment)
            _run(*kubectl, "rollout", "status", "--timeout=120s", deployment)
    return WORKLOAD_IMAGE


@pytest.fixture(scope="session")
def kind_context(kind_cluster: str, kind_images: str, kind_kubeconfig: str) -> str:
    """Context of the cluster, with the images in it, in `kind_kubeconfig`."""
    return f"kind-{kind_cluster}"


@pytest.fixture(scope="module")
def kind_mesh(kind_context: str, kind_kubeconfig: str) -> str:
    """The same, with the mesh installed and serving."""
    client = connect(kind_context, kind_kubeconfig)
    try:
        if not is_installed(client):
            values = Values()
            objects = install_objects(values, create_credentials(values.trust_domain))
            apply_mesh(client, crd_objects(values), objects)
    finally:
        client.close()
    return kind_context
