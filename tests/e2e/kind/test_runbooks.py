"""The runbooks of docs/kubernetes.md, carried out: the fault is made, the commands are read from the page and run as
they stand there, and the mesh must be well afterwards.

The page speaks of a deployment `cart` in a namespace `shop`; here it is in a namespace that is this test's alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightkube import Client

from mesh.api.values import VERSION
from mesh.control import pki
from mesh.deploy.apply import FIELD_MANAGER, apply_mesh, remove
from mesh.deploy.credentials import credentials_of
from mesh.deploy.installed import is_installed, read_installed
from mesh.deploy.objects import crd_objects, install_objects
from mesh.deploy.owned import owned_objects
from mesh.deploy.paths import apply_object, request
from mesh.deploy.rotation import issuer_objects, load_anchor
from mesh.deploy.values import read_values
from mesh.kube.client import connect

pytestmark = [
    pytest.mark.kind,
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="the runbooks use kubectl, which is not in PATH"),
]

PAGE = (Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text()
SHOP = "runbooks-shop"


class Operator:
    """Someone with a terminal and the page."""

    def __init__(self, client: Client, directory: Path, environment: dict[str, str]) -> None:
        self.client = client
        self.directory = directory
        self._environment = environment

    def run(self, command: str, *, ok: tuple[int, ...] = (0,), seconds: float = 200.0) -> str:
        command = command.replace("-n shop", f"-n {SHOP}")
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            cwd=self.directory,
            env=self._environment,
        )
        assert done.returncode in ok, f"{command}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def look(self, fault: str, **names: str) -> str:
        """The diagnosis: every line of the runbook's first block. `check` is expected to find something, and where
        metrics are asked of a proxy that is down, 1 says so."""
        seen = ""
        for line in _block(fault):
            for placeholder, name in names.items():
                line = line.replace(placeholder, name)
            ok = (0, 1) if line.startswith(("gameday mesh check", "gameday mesh diagnostics")) else (0,)
            seen += self.run(line, ok=ok)
        return seen


def _section(fault: str) -> str:
    return PAGE.partition(f"### {fault} ")[2].partition("\n### ")[0]


def _block(fault: str) -> list[str]:
    block = _section(fault).partition("```sh\n")[2].partition("```")[0]
    lines = [re.sub(r"\s{2,}#.*", "", line) for line in block.splitlines() if line.strip()]
    assert lines, fault
    return lines


def step(fault: str, beginning: str) -> str:
    """The command in the runbook's steps that begins so; the page must have it."""
    found = [command for command in re.findall(r"`([^`\n]+)`", _section(fault)) if command.startswith(beginning)]
    assert found, f"{fault}: no step {beginning!r} in docs/kubernetes.md"
    return str(found[0])


@pytest.fixture(scope="module")
def operator(
    kind_context: str, kind_kubeconfig: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """A mesh whose anchor's key is at hand, as the page advises, and the application that it speaks of."""
    directory = tmp_path_factory.mktemp("operator")
    client = connect(kind_context, kind_kubeconfig)
    view = ["kubectl", "config", "view", "--minify", "--flatten", "--context", kind_context]
    if kind_kubeconfig is not None:
        view += ["--kubeconfig", kind_kubeconfig]
    (directory / "kubeconfig").write_bytes(subprocess.run(view, capture_output=True, check=True).stdout)
    environment = os.environ | {
        "KUBECONFIG": str(directory / "kubeconfig"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    operator = Operator(client, directory, environment)
    before = read_installed(client) if is_installed(client) else None
    remove(client, owned_objects(client))
    operator.run("gameday mesh create-anchor --out ca")
    values = read_values()
    apply_mesh(client, crd_objects(values), install_objects(values, _credentials(directory, 365 * 86_400.0)))
    try:
        _deploy_cart(operator)
        yield operator
    finally:
        operator.run(f"kubectl delete namespace {SHOP} --ignore-not-found")
        remove(client, owned_objects(client))
        if before is not None:
            apply_mesh(client, crd_objects(before.values), install_objects(before.values, before.credentials))


def _credentials(directory: Path, lifetime: float) -> Any:
    anchor = load_anchor((directory / "ca/ca.crt").read_bytes(), (directory / "ca/ca.key").read_bytes())
    return credentials_of(anchor.certificate_pem, pki.create_issuer(anchor, lifetime=lifetime))


def _deploy_cart(operator: Operator) -> None:
    operator.run(f"kubectl create namespace {SHOP} && kubectl annotate namespace {SHOP} linkerd.io/inject=enabled")
    container = {
        "name": "cart",
        "image": f"gameday/mesh:{VERSION}",
        "command": ["python", "-m", "http.server", "8080"],
        "ports": [{"containerPort": 8080}],
    }
    labels = {"app": "cart"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "cart", "namespace": SHOP},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
            },
        },
    }
    apply_object(operator.client, deployment, "test")
    operator.run(f"kubectl -n {SHOP} rollout status deploy/cart --timeout 120s")


def _pods(operator: Operator) -> list[dict[str, Any]]:
    pods: list[dict[str, Any]] = request(operator.client, "GET", f"/api/v1/namespaces/{SHOP}/pods")["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def _until(true: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


def test_f1_a_control_plane_that_is_gone_comes_back_as_it_was_installed(operator: Operator) -> None:
    operator.run("gameday mesh check --wait 60s")
    operator.run("kubectl -n linkerd scale deploy --all --replicas 0")
    operator.run("kubectl delete mutatingwebhookconfiguration linkerd-proxy-injector-webhook-config")
    _until(lambda: not request(operator.client, "GET", "/api/v1/namespaces/linkerd/pods")["items"], 90, "pods end")
    found = operator.run(_block("F1")[0], ok=(1,))
    assert "linkerd-identity" in found
    operator.run(_block("F1")[1])
    operator.run(step("F1", "gameday mesh upgrade --apply"))
    operator.run(step("F1", "gameday mesh check --wait"))
    operator.look("F1")


def test_f2_a_proxy_that_is_killed_for_its_memory_gets_more(operator: Operator) -> None:
    annotations = {"config.linkerd.io/proxy-memory-limit": "9Mi", "config.linkerd.io/proxy-memory-request": "4Mi"}
    template = {"template": {"metadata": {"annotations": annotations}}}
    request(
        operator.client,
        "PATCH",
        f"/apis/apps/v1/namespaces/{SHOP}/deployments/cart",
        json={"spec": template},
        headers={"content-type": "application/merge-patch+json"},
    )
    seen = _block("F2")[0]
    _until(lambda: "OOMKilled" in operator.run(seen), 120, "a proxy is killed")
    operator.look("F2")
    operator.run(step("F2", "kubectl -n shop patch deploy cart"))
    operator.run(f"kubectl -n {SHOP} rollout status deploy/cart --timeout 120s")
    _until(lambda: len(_pods(operator)) == 1, 60, "the old pod ends")
    assert "OOMKilled" not in operator.run(seen)


def test_f3_an_issuer_that_has_expired_is_replaced_and_nothing_restarts(operator: Operator) -> None:
    _until(lambda: len(_pods(operator)) == 1, 60, "one pod")
    pod = _pods(operator)[0]["metadata"]["name"]
    for item in issuer_objects(read_values(), _credentials(operator.directory, 25.0)):
        apply_object(operator.client, item, FIELD_MANAGER)
    time.sleep(27)  # its whole life: the fault is that time has passed
    found = operator.run(_block("F3")[0], ok=(1,))
    assert "issuer" in found
    assert "expired" in found or "validity" in found
    operator.look("F3", POD=pod)
    operator.run(step("F3", "gameday mesh rotate-issuer"))
    operator.run("gameday mesh check --wait 2m")
    assert [each["metadata"]["name"] for each in _pods(operator)] == [pod]
    assert _ready(_pods(operator)[0])


def _ready(pod: dict[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])
